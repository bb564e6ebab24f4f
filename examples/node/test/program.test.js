// main.js as a program: what it writes, how it refuses, and that it opens no socket.

import assert from "node:assert/strict";
import { execFile, execFileSync } from "node:child_process";
import { cp, mkdtemp, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const bundle = process.env.ONNXGPT_BUNDLE;
assert.ok(bundle, "ONNXGPT_BUNDLE is not set: expected a bundle's directory");
const vectors = JSON.parse(await readFile(process.env.ONNXGPT_VECTORS ?? join(bundle, "vectors.json"), "utf8"));
const program = fileURLToPath(new URL("../main.js", import.meta.url));
const [greedy] = vectors.texts;
const asked = [greedy.prompt, "--temperature", "0", "--max-new-tokens", String(greedy.options.max_new_tokens)];

let scratch;
before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "onnxgpt-node-"));
});
after(() => rm(scratch, { recursive: true }));

const run = (...args) => promisify(execFile)(process.execPath, [program, ...args]);

async function refusal(...args) {
  const error = await run(...args).then(() => assert.fail("it did not refuse"), (error) => error);
  return { code: error.code, stdout: error.stdout, stderr: error.stderr };
}

async function spoiled(name, spoil) {
  const copy = join(scratch, name);
  await cp(bundle, copy, { recursive: true });
  await spoil(copy);
  return copy;
}

it("writes the text to stdout and nothing to stderr", async () => {
  assert.deepEqual(await run(bundle, ...asked), { stdout: `${greedy.text}\n`, stderr: "" });
});

it("writes a line of JSON for each token", async () => {
  const { stdout } = await run(bundle, ...asked, "--json");
  const tokens = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assert.deepEqual(tokens.map(({ id }) => id), greedy.ids);
  assert.equal(tokens.map(({ text }) => text).join(""), greedy.text);
  assert.equal(tokens.at(-1).reason, greedy.finish_reason);
});

it("repeats a sampled text by its seed", async () => {
  const args = [bundle, greedy.prompt, "--do-sample", "--max-new-tokens", "16", "--seed"];
  const [one, again, other] = await Promise.all([run(...args, "5"), run(...args, "5"), run(...args, "6")]);
  assert.equal(one.stdout, again.stdout);
  assert.notEqual(one.stdout, other.stdout);
});

it("tells the seed that it draws", async () => {
  const drawn = await run(bundle, greedy.prompt, "--do-sample", "--max-new-tokens", "16");
  const [, seed] = drawn.stderr.match(/^seed (\d+)\n$/);
  assert.equal((await run(bundle, greedy.prompt, "--do-sample", "--max-new-tokens", "16", "--seed", seed)).stdout, drawn.stdout);
});

const USAGE = [
  [[], /^error: found 0 arguments: expected BUNDLE and PROMPT; see --help\n$/],
  [["B", "P", "--seed", "x"], /^error: --seed is x: expected a whole number\n$/],
  [["B", "P", "--top-k", "many"], /^error: --top-k is many: expected a number\n$/],
  [["B", "P", "--best"], /^error: Unknown option '--best'; see --help\n$/],
  [[bundle, ""], /^error: the prompt is empty: expected text or token ids\n$/],
  [[bundle, "P", "--top-p", "2"], /^error: topP is 2: expected a number above 0 and at most 1\n$/],
  [[bundle, "word ".repeat(9000)], /^error: the prompt has \d+ tokens and the context \d+: .*\n$/],
];
for (const [args, message] of USAGE) {
  it(`refuses ${JSON.stringify(args).slice(0, 60)} in one line`, async () => {
    const { code, stdout, stderr } = await refusal(...args);
    assert.match(stderr, message);
    assert.deepEqual([code, stdout], [2, ""]);
  });
}

it("names a file that is missing or cut", async () => {
  const nothing = await refusal("nowhere", "P");
  assert.equal(nothing.code, 1);
  assert.match(nothing.stderr, /^error: nowhere.bundle\.json is missing: expected a bundle, .*\n$/);
  const missing = await spoiled("missing", (copy) => rm(join(copy, "model.onnx.data")));
  assert.match((await refusal(missing, "P")).stderr, /^error: .*model\.onnx\.data is missing: expected a file of \d+ bytes; copy the whole bundle\n$/);
  const cut = await spoiled("cut", (copy) => truncate(join(copy, "model.onnx"), 1000));
  assert.match((await refusal(cut, "P")).stderr, /^error: .*model\.onnx has 1000 bytes: expected \d+; copy the bundle again\n$/);
});

it("refuses a graph that is not the one of its manifest", async () => {
  const other = await spoiled("other", async (copy) => {
    const manifest = JSON.parse(await readFile(join(copy, "bundle.json"), "utf8"));
    manifest.architecture.num_layers += 1;
    await writeFile(join(copy, "bundle.json"), JSON.stringify(manifest));
  });
  const { stderr } = await refusal(other, "P");
  assert.match(stderr, /^error: the graph has \d+ past_key_values: expected \d+, two for each layer; copy the bundle again\n$/);
});

it("opens no socket", async (context) => {
  try {
    execFileSync("strace", ["-o", "/dev/null", "true"], { stdio: "ignore" });
  } catch {
    assert.ok(!process.env.ONNXGPT_NO_SKIP, "strace is missing or may not trace here: CI needs it");
    return context.skip("no strace that may trace here");
  }
  const sockets = async (...command) => {
    const trace = join(scratch, "trace");
    await promisify(execFile)("strace", ["-f", "-e", "trace=network", "-o", trace, ...command]);
    return (await readFile(trace, "utf8")).split("\n").filter((line) => /socket\(AF_INET|connect\(/.test(line));
  };
  const control = 'require("net").connect(9, "127.0.0.1").on("error", () => {})';
  assert.ok((await sockets(process.execPath, "-e", control)).length, "strace sees no socket even where there is one");
  assert.deepEqual(await sockets(process.execPath, program, bundle, ...asked), []);
});
