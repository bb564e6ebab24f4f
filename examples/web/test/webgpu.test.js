// The page on a graphics card, which Chromium's SwiftShader plays in software: right, and far too slow to be timed.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { it } from "node:test";

import { begin, launch, serve, state, watchedPage, written } from "./browser.js";

const vectors = JSON.parse(await readFile(process.env.ONNXGPT_VECTORS, "utf8"));
const [greedy] = vectors.texts;

it("writes the same on a graphics card", async (context) => {
  const [browser, host] = [await launch({ graphics: true }), await serve(process.env.ONNXGPT_PAGE)];
  try {
    const { page, faults } = await watchedPage(browser, host.url);
    await state(page, "ready");
    if (!(await page.evaluate(() => navigator.gpu?.requestAdapter().then(Boolean)))) {
      assert.ok(!process.env.ONNXGPT_NO_SKIP, "Chromium has no WebGPU here: CI needs it");
      return context.skip("Chromium has no WebGPU here");
    }
    await page.click("#settings summary");
    await page.selectOption("#device", "webgpu");
    await state(page, "ready");
    await begin(page, greedy.prompt, { temperature: 0, maxNewTokens: 4, repetitionPenalty: 1 });
    await state(page, "ready");
    const text = await written(page);
    assert.ok(text.length > 3 && greedy.text.startsWith(text), text);
    assert.deepEqual(faults, []);
  } finally {
    await browser.close();
    await host.stop();
  }
});
