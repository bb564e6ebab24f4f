// The loop: read the prompt, choose a token, tell its text, read it, and so on.

import { UsageError } from "./errors.js";
import { chooseToken } from "./sampling.js";
import { resolveSettings } from "./settings.js";
import { StreamDecoder } from "./stream_decoder.js";

const PREFILL_CHUNK = 64; // tokens: the bindings tell nothing of num_logits_to_keep, so each has logits

/** A bundle that generates text, on any engine. */
export class TextModel {
  /**
   * @param {object} parts
   * @param {import("./step_graph.js").StepGraph} parts.graph
   * @param {object} parts.tokenizer of @huggingface/tokenizers
   * @param {object} parts.manifest bundle.json
   * @param {object} parts.defaults generation_config.json
   */
  constructor({ graph, tokenizer, manifest, defaults }) {
    this.graph = graph;
    this.tokenizer = tokenizer;
    this.manifest = manifest;
    this.defaults = defaults;
    this.contextLength = manifest.architecture.context_length;
    this.vocabularySize = manifest.architecture.vocab_size;
  }

  encode(text) {
    return Array.from(this.tokenizer.encode(text).ids, Number);
  }

  decode(ids) {
    const options = { skip_special_tokens: true, clean_up_tokenization_spaces: false };
    return ids.length ? this.tokenizer.decode(ids, options) : "";
  }

  /**
   * Continue a prompt, token by token.
   * @param {string | number[]} prompt text or token ids
   * @param {object} given settings (see resolveSettings); what is not given comes from the bundle
   * @param {{signal?: AbortSignal}} [control] `signal` ends the text before the next token
   * @yields {{id: number, text: string, reason: null | "eos" | "length" | "context"}}
   * @returns {AsyncGenerator}
   */
  async *stream(prompt, given = {}, { signal } = {}) {
    const settings = resolveSettings(this.defaults, given);
    const ids = this.#promptIds(prompt);
    const room = this.contextLength - ids.length;
    const limit = Math.min(settings.maxNewTokens, room);
    const decoder = new StreamDecoder((some) => this.decode(some), ids);
    const cache = this.graph.newCache();
    try {
      let unread = [...ids];
      for (let step = 0; step < limit; step++) {
        const logits = await this.#read(unread, cache, signal);
        if (!logits) return;
        const id = chooseToken(logits, ids, settings, step);
        ids.push(id);
        unread = [id];
        let reason = null;
        if (settings.endIds.has(id)) reason = "eos";
        else if (step + 1 === limit) reason = room < settings.maxNewTokens ? "context" : "length";
        yield { id, text: (reason === "eos" ? "" : decoder.push(id)) + (reason ? decoder.flush() : ""), reason };
        if (reason) return;
      }
    } finally {
      cache.dispose();
    }
  }

  /** The whole continuation. @returns {Promise<{text: string, ids: number[], reason: string}>} */
  async generate(prompt, given = {}, control = {}) {
    const result = { text: "", ids: [], reason: "cancelled" };
    for await (const { id, text, reason } of this.stream(prompt, given, control)) {
      result.text += text;
      result.ids.push(id);
      result.reason = reason ?? result.reason;
    }
    return result;
  }

  /** Logits behind the last of some ids, which are read in pieces: memory stays small, and a signal is heard. */
  async #read(ids, cache, signal) {
    const size = this.manifest.graph.chunked_prefill ? PREFILL_CHUNK : ids.length;
    let logits;
    for (let start = 0; start < ids.length; start += size) {
      if (signal?.aborted) return null;
      logits = await this.graph.step(ids.slice(start, start + size), cache);
    }
    return logits;
  }

  #promptIds(prompt) {
    const ids = typeof prompt === "string" ? this.encode(prompt) : [...prompt];
    if (!ids.length) throw new UsageError("the prompt is empty: expected text or token ids");
    const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= this.vocabularySize);
    if (wrong !== undefined) {
      throw new UsageError(`token id ${wrong} is not in the vocabulary: expected 0 to ${this.vocabularySize - 1}`);
    }
    if (ids.length >= this.contextLength) {
      throw new UsageError(
        `the prompt has ${ids.length} tokens and the context ${this.contextLength}: expected at least one token of room; shorten the prompt`,
      );
    }
    return ids;
  }
}
