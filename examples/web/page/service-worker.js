// Keeps what the page has fetched, so that it works without a network. `onnxgpt web` fills in the first two lines.

const VERSION = "development";
const SHELL = ["./"];

const CACHE = `onnxgpt-${VERSION}`;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(SHELL.map((url) => new Request(url, { cache: "reload" })))));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(dropOldCaches().then(() => self.clients.claim()));
});

async function dropOldCaches() {
  for (const name of await caches.keys()) if (name.startsWith("onnxgpt-") && name !== CACHE) await caches.delete(name);
}

self.addEventListener("fetch", (event) => {
  const url = new URL(event.request.url);
  if (event.request.method === "GET" && url.origin === self.location.origin) event.respondWith(answer(event.request));
});

/** From the cache; otherwise from the network, and into the cache. */
async function answer(request) {
  const cache = await caches.open(CACHE);
  const isPage = request.mode === "navigate";
  const kept = await cache.match(request, { ignoreSearch: isPage });
  if (kept) return isolated(kept);
  const response = await fetch(request);
  if (response.status === 200 && !isPage) await cache.put(request, response.clone());
  return isolated(response);
}

/** With the headers that let a page have threads, on hosts that don't send them. */
function isolated(response) {
  if (response.type === "opaque" || response.type === "opaqueredirect" || response.type === "error") return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
