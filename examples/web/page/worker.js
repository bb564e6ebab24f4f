// The model, off the page's own thread: it loads a bundle, and streams texts as messages.

import { TextModel } from "./javascript/generation.js";
import { openBundle } from "./bundle.js";

let model;
let stopping;

self.addEventListener("message", async ({ data }) => {
  try {
    await ACTIONS[data.type](data);
  } catch (error) {
    self.postMessage({ type: "error", message: error.message });
  }
});

const ACTIONS = {
  async load({ url, unpacked, device, threads }) {
    const progress = (done, what) => self.postMessage({ type: "progress", done, what });
    model = new TextModel(await openBundle(new URL(url), { unpacked, device, threads, progress }));
    const { manifest, defaults } = model;
    self.postMessage({
      type: "ready",
      name: manifest.name,
      contextLength: model.contextLength,
      recipe: manifest.quantization?.name ?? null,
      defaults,
    });
  },

  async generate({ prompt, settings }) {
    stopping = new AbortController();
    const started = performance.now();
    const ids = [];
    let first;
    let reason = "cancelled";
    for await (const token of model.stream(prompt, settings, { signal: stopping.signal })) {
      first ??= performance.now();
      ids.push(token.id);
      reason = token.reason ?? reason;
      self.postMessage({ type: "token", text: token.text, count: ids.length, perSecond: rate(ids.length, first) });
      await otherMessages();
    }
    self.postMessage({ type: "done", reason, ids, perSecond: rate(ids.length, first), seconds: (performance.now() - started) / 1000 });
  },

  stop() {
    stopping?.abort();
  },
};

/** Tokens per second behind the first, which waits for the prompt to be read. */
function rate(count, first) {
  return count > 1 ? ((count - 1) * 1000) / (performance.now() - first) : null;
}

/** Let messages in: a graph that runs in WebAssembly never gives way by itself. */
const channel = new MessageChannel();
channel.port1.start();
function otherMessages() {
  return new Promise((resolve) => {
    channel.port1.addEventListener("message", resolve, { once: true });
    channel.port2.postMessage(null);
  });
}
