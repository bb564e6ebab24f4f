/** Settings of examples/javascript for the options of a vector. */
export function settingsOf(options) {
  const names = { eos_token_id: "endIds" };
  const inCamelCase = (name) => name.replace(/_(.)/g, (_, letter) => letter.toUpperCase());
  return Object.fromEntries(Object.entries(options).map(([name, value]) => [names[name] ?? inCamelCase(name), value]));
}
