// The whole text in one call of ONNX Runtime: tokenizer, model, sampling and stop rules are inside text.onnx.

import { join } from "node:path";

import { BundleError, UsageError } from "../javascript/errors.js";
import { resolveSettings } from "../javascript/settings.js";
import { importOnnxRuntime, openManifest, openSession, readDefaults } from "./model.js";

const REASONS = ["length", "eos", "context"]; // by the graph's numbers
const GRAPH = "text.onnx";

/**
 * @param {string} directory of a bundle that `onnxgpt package` made
 * @param {{threads?: number}} [options]
 */
export async function openOneCall(directory, { threads } = {}) {
  const manifest = await openManifest(directory);
  if (!(GRAPH in manifest.files)) {
    throw new BundleError(`${directory} has no ${GRAPH}: expected a packaged bundle; make one with onnxgpt package ${directory} --out DIR`);
  }
  const ort = await importOnnxRuntime();
  const session = await openSession(ort, join(directory, GRAPH), threads);
  return new OneCall(ort, session, await readDefaults(directory));
}

class OneCall {
  #ort;
  #session;

  constructor(ort, session, defaults) {
    this.#ort = ort;
    this.#session = session;
    this.defaults = defaults;
  }

  /**
   * Continue a prompt.
   * @param {string} prompt
   * @param {object} given settings (see resolveSettings)
   * @returns {Promise<{text: string, ids: number[], reason: string}>} a text that is cut within a character ends before it
   */
  async generate(prompt, given = {}) {
    const settings = resolveSettings(this.defaults, given);
    const bytes = new TextEncoder().encode(prompt);
    if (!bytes.length) throw new UsageError("the prompt is empty: expected text");
    const feeds = { prompt: new this.#ort.Tensor("uint8", bytes, [bytes.length]), ...this.#inputs(settings) };
    const { continuation, generated_ids: ids, finish_reason: reason } = await this.#session.run(feeds);
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(continuation.data);
    return { text, ids: Array.from(ids.data, Number), reason: REASONS[Number(reason.data[0])] };
  }

  #inputs(settings) {
    const whole = (values) => new this.#ort.Tensor("int64", BigInt64Array.from(values, BigInt), [values.length]);
    const real = (value) => new this.#ort.Tensor("float32", Float32Array.of(value), [1]);
    return {
      max_new_tokens: whole([settings.maxNewTokens]),
      temperature: real(settings.isGreedy ? 0 : settings.temperature),
      top_k: whole([settings.topK]),
      top_p: real(settings.topP),
      repetition_penalty: real(settings.repetitionPenalty),
      seed: whole([BigInt.asIntN(64, settings.seed ?? 0n)]),
      end_ids: whole(settings.endIds.size ? [...settings.endIds] : [-1]), // an empty one would be the bundle's own
    };
  }
}
