// The page: what is written and chosen goes to the worker, what the worker says is shown.

const PROMPTS = [
  ["A king", "Once upon a time there was a king who had three daughters, and"],
  ["The forest", "In the middle of the dark forest there stood a little house, and in it"],
  ["The fisherman", "Every morning the fisherman went down to the sea, but one day"],
  ["A wish", "“I will give you three wishes,” said the fairy, “"],
  ["The fox", "The fox and the wolf lived in one house, and"],
  ["Snow", "It was the middle of winter, and the snow fell like feathers when"],
];
const NUMBERS = { maxNewTokens: "max_new_tokens", temperature: "temperature", topK: "top_k", topP: "top_p", repetitionPenalty: "repetition_penalty" };
const DEFAULTS = { maxNewTokens: 200, temperature: 1, topK: 50, topP: 1, repetitionPenalty: 1 };
const REASONS = { eos: "the end", length: "as long as asked", context: "the context is full", cancelled: "stopped" };
const MOST_THREADS = 8;

const $ = (id) => document.getElementById(id);
const query = new URL(location.href).searchParams;
let worker;
let writing = null; // what is being written: its seed and number of tokens

start().catch((error) => fail(error.message));

async function start() {
  showPrompts();
  for (const range of document.querySelectorAll("input[type=range]")) range.addEventListener("input", () => showValue(range));
  $("form").addEventListener("submit", generate);
  $("stop").addEventListener("click", () => worker.postMessage({ type: "stop" }));
  $("copy").addEventListener("click", copy);
  $("device").addEventListener("change", () => load($("device").value));
  await Promise.all([keepForOffline(), offerGraphicsCard()]);
  await load("wasm");
}

/** Before the model is fetched, the service worker has to be there to keep it. */
async function keepForOffline() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("service-worker.js");
    await navigator.serviceWorker.ready;
    if (navigator.serviceWorker.controller) return;
    await new Promise((resolve) => {
      navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, 2000);
    });
  } catch (error) {
    $("footer").textContent = `Will not work without a network (${error.message}).`;
  }
}

async function offerGraphicsCard() {
  const { webgpu } = await page();
  const adapter = webgpu ? await navigator.gpu?.requestAdapter().catch(() => null) : null;
  for (const part of document.querySelectorAll("[data-webgpu]")) part.hidden = !adapter;
}

/** What `onnxgpt web` wrote of the page. */
async function page() {
  return (await fetch("page.json")).json();
}

async function load(device) {
  worker?.terminate();
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", ({ data }) => MESSAGES[data.type](data));
  worker.addEventListener("error", (event) => fail(event.message ?? "the worker can't be started"));
  document.body.dataset.state = "loading";
  $("loading").hidden = false;
  $("generate").disabled = true;
  $("error").hidden = true;
  const asked = query.get("bundle");
  const { bundle, unpacked } = await page();
  const url = new URL((asked ?? bundle).replace(/\/?$/, "/"), location.href).href;
  const threads = crossOriginIsolated ? Math.min(MOST_THREADS, Math.ceil((navigator.hardwareConcurrency ?? 2) / 2)) : 1;
  worker.postMessage({ type: "load", url, unpacked: asked ? null : unpacked, device, threads });
}

const MESSAGES = {
  progress({ done, what }) {
    $("loading-text").textContent = what;
    $("progress").value = done;
  },

  ready({ name, contextLength, recipe, defaults }) {
    $("loading").hidden = true;
    $("name").textContent = name;
    document.title = `${name} · onnxgpt`;
    $("about").textContent = `A language model${recipe ? ` (${recipe})` : ""} that runs on this device. Nothing that you write leaves it.`;
    $("maxNewTokens").max = contextLength - 1;
    if (!defaults.do_sample) defaults.temperature = 0;
    for (const [id, theirs] of Object.entries(NUMBERS)) {
      if ($(id).value && $(id).dataset.set) continue; // another device was chosen: what was set stays
      $(id).dataset.set = "yes";
      $(id).value = defaults[theirs] ?? DEFAULTS[id];
    }
    document.querySelectorAll("input[type=range]").forEach(showValue);
    $("generate").disabled = false;
    document.body.dataset.state = "ready";
  },

  token({ text, count, perSecond }) {
    if (!writing) return;
    $("written").append(text);
    $("figures").textContent = figures(count, perSecond);
  },

  done({ reason, ids, perSecond }) {
    const seed = writing?.seed === null ? "" : ` · seed ${writing?.seed}`;
    $("figures").textContent = `${figures(ids.length, perSecond)} · ${REASONS[reason]}${seed}`;
    setWriting(null);
  },

  error({ message }) {
    fail(message);
  },
};

const figures = (count, perSecond) => `${count} tokens${perSecond ? ` · ${perSecond.toFixed(1)} tokens/s` : ""}`;

function generate(event) {
  event.preventDefault();
  const settings = { doSample: true };
  for (const id of Object.keys(NUMBERS)) settings[id] = $(id).valueAsNumber;
  const isGreedy = settings.temperature === 0;
  const seed = isGreedy ? null : ($("seed").value || String(crypto.getRandomValues(new Uint32Array(1))[0]));
  if (seed !== null) settings.seed = BigInt(seed);
  $("error").hidden = true;
  $("given").textContent = $("prompt").value;
  $("written").textContent = "";
  $("figures").textContent = "reading the prompt…";
  setWriting({ seed });
  worker.postMessage({ type: "generate", prompt: $("prompt").value, settings });
}

async function copy() {
  await navigator.clipboard.writeText($("text").textContent);
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

function setWriting(now) {
  writing = now;
  document.body.dataset.state = now ? "writing" : "ready";
  $("text").hidden = false;
  $("text").setAttribute("aria-busy", String(Boolean(now)));
  $("generate").disabled = Boolean(now);
  $("device").disabled = Boolean(now);
  $("stop").disabled = !now;
  $("copy").disabled = Boolean(now);
}

function fail(message) {
  $("loading").hidden = true;
  $("error").textContent = message;
  $("error").hidden = false;
  if (writing) setWriting(null);
  if (!$("written").textContent) $("text").hidden = true;
  document.body.dataset.state = "failed";
}

function showPrompts() {
  for (const [name, prompt] of PROMPTS) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "quiet", textContent: name, title: prompt });
    button.addEventListener("click", () => {
      $("prompt").value = prompt;
      $("prompt").focus();
    });
    $("prompts").append(button);
  }
}

function showValue(range) {
  document.querySelector(`output[for=${range.id}]`).textContent = Number(range.value).toFixed(2);
}
