/** A call that whoever makes it can mend: one clear line. */
export class UsageError extends Error {
  name = "UsageError";
}

/** A directory that is not a sound bundle. */
export class BundleError extends Error {
  name = "BundleError";
}
