// text.onnx in one call, against the vectors; ONNXGPT_PACKAGE names a bundle that onnxgpt package made.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { before, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

import { openOneCall } from "../one_call.js";
import { settingsOf } from "./settings_of.js";

const directory = process.env.ONNXGPT_PACKAGE;
assert.ok(directory, "ONNXGPT_PACKAGE is not set: expected a bundle that onnxgpt package made");
const { texts, tokenizer } = JSON.parse(await readFile(join(directory, "vectors.json"), "utf8"));

let model;
before(async () => {
  model = await openOneCall(directory);
});

for (const { prompt, options, ids, text, finish_reason } of texts) {
  it(`goes on from ${JSON.stringify(prompt).slice(0, 30)} with ${JSON.stringify(options)}`, async () => {
    assert.deepEqual(await model.generate(prompt, settingsOf(options)), { text, ids, reason: finish_reason });
  });
}

it("takes any text, and gives whole characters", async () => {
  for (const { text } of tokenizer.filter(({ text, ids }) => text && ids.length < 400)) {
    const made = await model.generate(text, { temperature: 0, maxNewTokens: 2 });
    assert.equal(made.ids.length, 2);
    assert.ok(!made.text.includes("\ufffd"), JSON.stringify(made.text));
  }
});

it("refuses an empty prompt, and a bundle that is not packaged", async () => {
  await assert.rejects(model.generate(""), { name: "UsageError", message: "the prompt is empty: expected text" });
  await assert.rejects(openOneCall(process.env.ONNXGPT_BUNDLE), { name: "BundleError", message: /has no text\.onnx: .*onnxgpt package/ });
});

it("is there on the command line", async () => {
  const program = fileURLToPath(new URL("../main.js", import.meta.url));
  const [{ prompt, options, text }] = texts;
  const args = [program, directory, prompt, "--one-call", "--temperature", "0", "--max-new-tokens", String(options.max_new_tokens)];
  assert.deepEqual(await promisify(execFile)(process.execPath, args), { stdout: `${text}\n`, stderr: "" });
});
