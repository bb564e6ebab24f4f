// The page in headless Chromium: node --test, with ONNXGPT_PAGE naming what `onnxgpt web --out` wrote, ONNXGPT_VECTORS
// the bundle's vectors.json, and ONNXGPT_CHROMIUM the browser if it is not /usr/bin/chromium.

import assert from "node:assert/strict";
import { mkdir, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { after, before, it } from "node:test";

import { begin, launch, serve, state, watchedPage, written } from "./browser.js";

const directory = process.env.ONNXGPT_PAGE;
assert.ok(directory, "ONNXGPT_PAGE is not set: expected a page that onnxgpt web wrote");
const vectors = JSON.parse(await readFile(process.env.ONNXGPT_VECTORS, "utf8"));
const [greedy] = vectors.texts;
const sampled = vectors.texts.find(({ options }) => options.do_sample);
const plain = { temperature: 0, maxNewTokens: greedy.options.max_new_tokens, repetitionPenalty: 1, topK: 0, topP: 1 };
const PHONE = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true };
const DESKTOP = { viewport: { width: 1280, height: 860 } };

let browser;
let host;
before(async () => {
  browser = await launch();
  host = await serve(directory);
});
after(async () => {
  await browser.close();
  await host.stop().catch(() => {});
});

async function onPage(use, { url = host.url, options } = {}) {
  const watched = await watchedPage(browser, url, options);
  try {
    await use(watched);
    assert.deepEqual(watched.faults, []);
  } finally {
    await watched.context.close();
  }
}

it("is small", async () => {
  const sizes = [];
  for (const folder of ["", "javascript"]) {
    for (const name of await readdir(join(directory, folder))) {
      const found = await stat(join(directory, folder, name));
      if (found.isFile()) sizes.push(found.size);
    }
  }
  const total = sizes.reduce((sum, size) => sum + size, 0);
  assert.ok(total < 60_000, `${total} bytes of the page's own code`);
});

it("writes the vectors' greedy and sampled texts, and tells their figures", () =>
  onPage(async ({ page }) => {
    await state(page, "ready");
    assert.equal(await page.textContent("#name"), vectors.name);
    await begin(page, greedy.prompt, plain);
    await state(page, "ready");
    assert.equal(await written(page), greedy.text);
    assert.equal(await page.textContent("#given"), greedy.prompt);
    assert.match(await page.textContent("#figures"), new RegExp(`^${greedy.ids.length} tokens · [\\d.]+ tokens/s · as long as asked$`));

    const { max_new_tokens: maxNewTokens, temperature, top_k: topK, top_p: topP, repetition_penalty: repetitionPenalty, seed } = sampled.options;
    await begin(page, sampled.prompt, { maxNewTokens, temperature, topK, topP, repetitionPenalty, seed });
    await state(page, "ready");
    assert.equal(await written(page), sampled.text);
    assert.match(await page.textContent("#figures"), new RegExp(`seed ${seed}$`));
  }));

it("streams, and stops when asked", () =>
  onPage(async ({ page }) => {
    await state(page, "ready");
    await begin(page, greedy.prompt, { ...plain, maxNewTokens: 400 });
    await page.waitForFunction(() => /^[5-9] tokens|^\d\d+ tokens/.test(document.querySelector("#figures").textContent));
    assert.equal(await page.getAttribute("#text", "aria-busy"), "true");
    await page.click("#stop");
    await state(page, "ready");
    assert.match(await page.textContent("#figures"), / · stopped$/);
    assert.ok((await written(page)).length > 0);
    assert.ok(await page.isEnabled("#generate"));
  }));

it("says what is wrong, and goes on", () =>
  onPage(async ({ page }) => {
    await state(page, "ready");
    await begin(page, "word ".repeat(2000), plain);
    await state(page, "failed");
    assert.match(await page.textContent("#error"), /^the prompt has \d+ tokens and the context \d+: /);
    await begin(page, greedy.prompt, plain);
    await state(page, "ready");
    assert.equal(await written(page), greedy.text);
    assert.ok(await page.isHidden("#error"));
  }));

it("refuses a bundle of another origin", () =>
  onPage(
    async ({ page }) => {
      await state(page, "failed");
      assert.match(await page.textContent("#error"), /^the bundle lies at http:\/\/elsewhere\.example: expected this page's own origin/);
    },
    { url: `${host.url}?bundle=http://elsewhere.example/bundle` },
  ));

it("runs any bundle of its own origin, as it is", () =>
  onPage(
    async ({ page }) => {
      await state(page, "ready");
      await begin(page, greedy.prompt, { ...plain, maxNewTokens: 6 });
      await state(page, "ready");
      assert.ok(greedy.text.startsWith(await written(page)));
    },
    { url: `${host.url}?bundle=bundle` },
  ));

it("works without a network after the first load, and has threads then", async () => {
  const own = await serve(directory);
  const { context, page, faults } = await watchedPage(browser, own.url);
  await state(page, "ready");
  await own.stop();
  await page.reload();
  await state(page, "ready");
  assert.equal(await page.evaluate(() => crossOriginIsolated), true);
  await begin(page, greedy.prompt, plain);
  await state(page, "ready");
  assert.equal(await written(page), greedy.text);
  assert.deepEqual(faults.filter((fault) => !fault.includes("service-worker.js")), []);
  await context.close();
});

for (const [name, options] of Object.entries({
  phone: PHONE,
  desktop: DESKTOP,
  "phone-dark": { ...PHONE, colorScheme: "dark" },
  "desktop-dark": { ...DESKTOP, colorScheme: "dark" },
})) {
  it(`fits a ${name}: nothing is cut, everything has a name and is large enough`, () =>
    onPage(
      async ({ page }) => {
        await state(page, "ready");
        await begin(page, greedy.prompt, plain);
        await state(page, "ready");
        const faults = await page.evaluate(() => {
          const found = [];
          if (document.documentElement.scrollWidth > innerWidth) found.push(`${document.documentElement.scrollWidth} pixels wide`);
          for (const field of document.querySelectorAll("button, input, textarea, select, summary")) {
            const box = field.getBoundingClientRect();
            if (!box.width) continue;
            const label = field.labels?.length ? field.labels[0].textContent : field.textContent;
            if (!label.trim()) found.push(`${field.outerHTML.slice(0, 60)} has no label`);
            if (box.height < 32) found.push(`${field.outerHTML.slice(0, 60)} is ${box.height} pixels high`);
          }
          return found;
        });
        assert.deepEqual(faults, []);
        if (process.env.ONNXGPT_SCREENSHOTS) {
          await mkdir(process.env.ONNXGPT_SCREENSHOTS, { recursive: true });
          await page.screenshot({ path: join(process.env.ONNXGPT_SCREENSHOTS, `${name}.png`), fullPage: true });
          await page.locator("#settings").evaluate((details) => (details.open = false));
          await page.screenshot({ path: join(process.env.ONNXGPT_SCREENSHOTS, `${name}-closed.png`), fullPage: true });
        }
      },
      { options },
    ));
}
