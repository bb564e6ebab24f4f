// Opens a bundle's directory with onnxruntime-node.

import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";

import { Tokenizer } from "@huggingface/tokenizers";

import { BundleError } from "../javascript/errors.js";
import { TextModel } from "../javascript/generation.js";
import { StepGraph } from "../javascript/step_graph.js";
import { openTokenizer } from "../javascript/tokenizer.js";

/**
 * ONNX Runtime with its telemetry off: otherwise it looks up a host and sends to it. Only the environment, before the
 * library is loaded, switches it off; so onnxruntime-node is imported here and nowhere else.
 */
export async function importOnnxRuntime() {
  process.env.ORT_DISABLE_TELEMETRY = "1";
  return import("onnxruntime-node");
}

/**
 * @param {string} directory of the bundle
 * @param {{threads?: number}} [options] threads inside an operator; otherwise ONNX Runtime chooses
 * @returns {Promise<TextModel>}
 */
export async function openModel(directory, { threads } = {}) {
  const manifest = await openManifest(directory);
  const tokenizerConfig = await readJson(directory, "tokenizer_config.json", {});
  const tokenizer = openTokenizer(Tokenizer, await readJson(directory, "tokenizer.json"), tokenizerConfig);
  const defaults = await readDefaults(directory);
  const ort = await importOnnxRuntime();
  const session = await openSession(ort, join(directory, manifest.graph.file), threads);
  const graph = new StepGraph(ort, session, {
    contextLength: manifest.architecture.context_length,
    layers: manifest.architecture.num_layers,
    sharesBuffer: manifest.graph.shares_cache_buffer,
  });
  return new TextModel({ graph, tokenizer, manifest, defaults });
}

/** The bundle's own settings of generation. */
export async function readDefaults(directory) {
  const config = await readJson(directory, "config.json", {});
  const defaults = await readJson(directory, "generation_config.json", {});
  defaults.eos_token_id ??= config.eos_token_id;
  return defaults;
}

/** bundle.json, with every file that it names there and of its size. */
export async function openManifest(directory) {
  const manifest = await readJson(directory, "bundle.json");
  if (manifest.format !== "onnxgpt-bundle" || manifest.version !== 1) {
    throw new BundleError(`${join(directory, "bundle.json")} is no manifest of version 1: export the model again`);
  }
  for (const [name, { size }] of Object.entries(manifest.files)) {
    const found = await stat(join(directory, name)).catch(() => null);
    if (!found) throw new BundleError(`${join(directory, name)} is missing: expected a file of ${size} bytes; copy the whole bundle`);
    if (found.size !== size) {
      throw new BundleError(`${join(directory, name)} has ${found.size} bytes: expected ${size}; copy the bundle again`);
    }
  }
  return manifest;
}

/** A loaded graph. */
export async function openSession(ort, path, threads) {
  const options = { logSeverityLevel: 3, ...(threads && { intraOpNumThreads: threads }) }; // errors, no warnings
  try {
    return await ort.InferenceSession.create(path, options);
  } catch (error) {
    throw new BundleError(`${path} can't be loaded (${error.message}): export the model again`, { cause: error });
  }
}

async function readJson(directory, name, otherwise) {
  const path = join(directory, name);
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch (error) {
    if (error.code === "ENOENT" && otherwise !== undefined) return otherwise;
    if (error.code === "ENOENT") throw new BundleError(`${path} is missing: expected a bundle, as onnxgpt export makes them`);
    throw new BundleError(`${path} can't be read (${error.message}): copy the bundle again`, { cause: error });
  }
}
