// A headless Chromium, a web server that can be stopped, and a page that is watched.

import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";

import { chromium } from "playwright-core";

const TYPES = { ".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".mjs": "text/javascript", ".json": "application/json", ".svg": "image/svg+xml", ".wasm": "application/wasm" };
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

// A graphics card in software, since machines that test have none.
const GRAPHICS = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--use-vulkan=swiftshader", "--enable-features=Vulkan", "--ignore-gpu-blocklist"];

export function launch({ graphics = false } = {}) {
  const args = graphics ? [...FLAGS.filter((flag) => flag !== "--disable-gpu"), ...GRAPHICS] : FLAGS;
  return chromium.launch({ executablePath: process.env.ONNXGPT_CHROMIUM ?? "/usr/bin/chromium", args });
}

/** A plain host of static files, which sends no headers for threads. */
export async function serve(directory) {
  const server = createServer(async (request, response) => {
    const path = normalize(decodeURIComponent(new URL(request.url, "http://host").pathname)).replace(/\/$/, "/index.html");
    try {
      const body = await readFile(join(directory, path));
      response.writeHead(200, { "Content-Type": TYPES[extname(path)] ?? "application/octet-stream" }).end(body);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    stop: () => new Promise((resolve) => (server.close(resolve), server.closeAllConnections())),
  };
}

/** A page of a new profile, and what went wrong in it: errors on the console, and requests to other origins. */
export async function watchedPage(browser, url, options = {}) {
  const context = await browser.newContext(options);
  const faults = [];
  context.on("console", (message) => message.type() === "error" && faults.push(`console: ${message.text()}`));
  context.on("weberror", (error) => faults.push(`error: ${error.error().message}`));
  context.on("request", (request) => {
    if (!["data:", "blob:"].includes(new URL(request.url()).protocol) && new URL(request.url()).origin !== new URL(url).origin) {
      faults.push(`request: ${request.url()}`);
    }
  });
  const page = await context.newPage();
  await page.goto(url);
  return { context, page, faults };
}

export const state = (page, wanted) => page.waitForFunction((name) => document.body.dataset.state === name, wanted, { timeout: 60_000 });

/** Fill in the form as a person would, and go. */
export async function begin(page, prompt, settings) {
  await page.fill("#prompt", prompt);
  if (!(await page.locator("#settings").getAttribute("open"))) await page.locator("#settings").evaluate((details) => (details.open = true));
  for (const [id, value] of Object.entries(settings)) {
    await page.locator(`#${id}`).evaluate((field, text) => {
      field.value = text;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }, String(value));
  }
  await page.click("#generate");
}

export const written = (page) => page.locator("#written").evaluate((part) => part.textContent);
