// The vectors of a bundle: node --test, with ONNXGPT_BUNDLE naming the bundle's directory and, where they lie
// elsewhere, ONNXGPT_VECTORS the vectors.json.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { before, describe, it } from "node:test";

import { threefry2x32, uniform } from "../../javascript/random.js";
import { StreamDecoder } from "../../javascript/stream_decoder.js";
import { openModel } from "../model.js";
import { settingsOf } from "./settings_of.js";

const bundle = process.env.ONNXGPT_BUNDLE;
assert.ok(bundle, "ONNXGPT_BUNDLE is not set: expected a bundle's directory");
const vectors = JSON.parse(await readFile(process.env.ONNXGPT_VECTORS ?? join(bundle, "vectors.json"), "utf8"));

let model;
before(async () => {
  model = await openModel(bundle);
});

describe("the random stream", () => {
  for (const { seed, sequence, step, words, number } of vectors.random) {
    it(`of seed ${seed}, sequence ${sequence}, step ${step}`, () => {
      const key = [Number(BigInt(seed) & 0xffffffffn), Number(BigInt(seed) >> 32n)];
      assert.deepEqual(threefry2x32(key, [step, sequence]), words);
      assert.equal(uniform(BigInt(seed), sequence, step), number);
    });
  }
});

describe("the tokenizer", () => {
  for (const { text, ids, decoded } of vectors.tokenizer) {
    it(`reads ${JSON.stringify(text).slice(0, 40)}`, () => {
      assert.deepEqual(model.encode(text), ids);
      assert.equal(model.decode(ids), decoded);
    });
  }
});

describe("streams", () => {
  for (const { ids, pieces, rest } of vectors.streams) {
    it(`never break a character: ${JSON.stringify(pieces.join("")).slice(0, 40)}`, () => {
      const decoder = new StreamDecoder((some) => model.decode(some));
      assert.deepEqual(ids.map((id) => decoder.push(id)), pieces);
      assert.equal(decoder.flush(), rest);
      assert.equal(pieces.join("") + rest, model.decode(ids));
    });
  }
});

describe("logits", () => {
  for (const { ids, positions } of vectors.logits) {
    for (const { position, tokens, logprobs } of positions) {
      it(`at position ${position} of ${ids.length}`, async () => {
        const [whole, stepped] = [model.graph.newCache(), model.graph.newCache()];
        const atOnce = logProbabilities(await model.graph.step(ids.slice(0, position + 1), whole));
        let logits;
        for (const id of ids.slice(0, position + 1)) logits = await model.graph.step([id], stepped);
        const oneByOne = logProbabilities(logits);
        tokens.forEach((token, place) => {
          assert.ok(Math.abs(atOnce[token] - logprobs[place]) <= vectors.tolerance, `token ${token}, read at once: ${atOnce[token]}, expected ${logprobs[place]}`);
          assert.ok(Math.abs(oneByOne[token] - logprobs[place]) <= vectors.tolerance, `token ${token}, read one by one: ${oneByOne[token]}, expected ${logprobs[place]}`);
        });
      });
    }
  }
});

describe("texts", () => {
  for (const { prompt, prompt_ids, options, ids, text, finish_reason } of vectors.texts) {
    it(`go on from ${JSON.stringify(prompt).slice(0, 30)} with ${JSON.stringify(options)}`, async () => {
      assert.deepEqual(model.encode(prompt), prompt_ids);
      assert.deepEqual(await model.generate(prompt, settingsOf(options)), { text, ids, reason: finish_reason });
    });
  }
});

function logProbabilities(logits) {
  const highest = Math.max(...logits);
  const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - highest), 0)) + highest;
  return Array.from(logits, (logit) => logit - total);
}
