// Fetches a bundle and opens it with onnxruntime-web; everything comes from the page's own origin.

import { BundleError } from "./javascript/errors.js";
import { StepGraph } from "./javascript/step_graph.js";
import { openTokenizer } from "./javascript/tokenizer.js";

const RUNTIME = new URL("./runtime/", import.meta.url);
const NO_WEIGHTS = /\.(json|jinja|md|onnx)$/;

/**
 * @param {URL} base the bundle's directory, with a slash at its end
 * @param {object} how
 * @param {string | null} how.unpacked a graph beside the bundle's own that unpacks its blocks when it is loaded: faster
 *     in WebAssembly, which has no kernels for blocks
 * @param {"wasm" | "webgpu"} how.device
 * @param {number} how.threads of WebAssembly
 * @param {(done: number, what: string) => void} how.progress the fraction that is done
 * @returns {Promise<object>} what TextModel is made of
 */
export async function openBundle(base, { unpacked, device, threads, progress }) {
  if (base.origin !== self.location.origin) {
    throw new BundleError(`the bundle lies at ${base.origin}: expected this page's own origin, ${self.location.origin}`);
  }
  const manifest = await fetchJson(base, "bundle.json");
  if (manifest.format !== "onnxgpt-bundle" || manifest.version !== 1) {
    throw new BundleError(`${new URL("bundle.json", base)} is no manifest of version 1: export the model again`);
  }
  const [json, tokenizerConfig, config, defaults] = await Promise.all([
    fetchJson(base, "tokenizer.json"),
    fetchJson(base, "tokenizer_config.json", manifest),
    fetchJson(base, "config.json", manifest),
    fetchJson(base, "generation_config.json", manifest),
  ]);
  defaults.eos_token_id ??= config.eos_token_id;
  const { Tokenizer } = await import(new URL("tokenizers.min.mjs", RUNTIME));
  const tokenizer = openTokenizer(Tokenizer, json, tokenizerConfig);
  const graph = device === "wasm" && unpacked ? unpacked : manifest.graph.file;
  const files = await fetchFiles(base, manifest, graph, progress);
  progress(1, "Starting the model…");
  const session = await openSession(graph, files, device, threads);
  return { tokenizer, manifest, defaults, graph: new StepGraph(session.ort, session.session, about(manifest)) };
}

const about = ({ architecture }) => ({
  contextLength: architecture.context_length,
  layers: architecture.num_layers,
  sharesBuffer: false, // onnxruntime-web copies what goes in and what comes out
});

async function openSession(graph, files, device, threads) {
  const ort = await import(new URL(device === "webgpu" ? "ort.webgpu.min.mjs" : "ort.wasm.min.mjs", RUNTIME));
  ort.env.wasm.wasmPaths = RUNTIME.href;
  ort.env.wasm.numThreads = threads;
  const externalData = Object.keys(files).filter((name) => name !== graph).map((path) => ({ path, data: files[path] }));
  const session = await ort.InferenceSession.create(files[graph], {
    executionProviders: [device],
    logSeverityLevel: 3, // errors, no warnings
    externalData,
    // Weights are unpacked once, when the graph is loaded.
    extra: { session: { disable_quant_qdq: "1" } },
    ...(device === "webgpu" && { preferredOutputLocation: onTheCard(files[graph]) }),
  });
  return { ort, session };
}

/** Keys and values stay on the graphics card. The outputs' names are in the graph's text. */
function onTheCard(graph) {
  const names = new TextDecoder("latin1").decode(graph).matchAll(/present\.\d+\.(?:key|value)/g);
  return Object.fromEntries([...names].map(([name]) => [name, "gpu-buffer"]));
}

async function fetchJson(base, name, manifest) {
  if (manifest && !(name in manifest.files)) return {};
  return (await fetched(new URL(name, base))).json();
}

/** The graph and its weights. @returns {Promise<Record<string, Uint8Array>>} */
async function fetchFiles(base, manifest, graph, progress) {
  const weights = Object.keys(manifest.files).filter((name) => !NO_WEIGHTS.test(name));
  const total = weights.reduce((sum, name) => sum + manifest.files[name].size, 0);
  const files = {};
  let done = 0;
  for (const name of [graph, ...weights]) {
    const response = await fetched(new URL(name, base));
    const size = manifest.files[name]?.size;
    files[name] = await readAll(response, size, (bytes) => {
      if (name === graph) return;
      done += bytes;
      progress(done / total, `Loading the model: ${megabytes(done)} of ${megabytes(total)} MB`);
    });
    if (size !== undefined && files[name].length !== size && name !== graph) {
      throw new BundleError(`${response.url} has ${files[name].length} bytes: expected ${size}; copy the bundle again`);
    }
  }
  return files;
}

async function fetched(url) {
  const response = await fetch(url).catch((error) => {
    throw new BundleError(`${url} can't be fetched (${error.message}): is there a network?`);
  });
  if (!response.ok) throw new BundleError(`${url} answers ${response.status}: expected a file of a bundle`);
  return response;
}

async function readAll(response, size, count) {
  const chunks = [];
  for (let reader = response.body.getReader(), part; !(part = await reader.read()).done; ) {
    chunks.push(part.value);
    count(part.value.length);
  }
  const bytes = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
  chunks.reduce((offset, chunk) => (bytes.set(chunk, offset), offset + chunk.length), 0);
  return bytes;
}

const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
