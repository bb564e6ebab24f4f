#!/usr/bin/env node
// node main.js BUNDLE PROMPT [options]: the text goes to stdout as it comes, everything else to stderr.

import { parseArgs } from "node:util";

import { UsageError } from "../javascript/errors.js";
import { drawSeed } from "../javascript/random.js";
import { resolveSettings } from "../javascript/settings.js";
import { openModel } from "./model.js";
import { openOneCall } from "./one_call.js";

const HELP = `usage: node main.js BUNDLE PROMPT [options]

  --max-new-tokens N        the most new tokens
  --temperature T           divides the logits; 0: the likeliest token at each step
  --top-k K                 sample among the K likeliest tokens; 0: among all
  --top-p P                 sample among the likeliest tokens that reach this probability
  --repetition-penalty R    above 1: tokens that occurred are less likely
  --seed S                  repeats a sampled text; without it one is drawn and told on stderr
  --do-sample               sample, where the bundle does not by itself
  --threads N               threads of ONNX Runtime
  --one-call                the whole text in one call, with text.onnx of a bundle that onnxgpt package made
  --json                    one line of JSON for each token, or for the one call

What is not given comes from the bundle's generation_config.json.`;

const NUMBERS = ["max-new-tokens", "temperature", "top-k", "top-p", "repetition-penalty", "threads"];
const OPTIONS = {
  ...Object.fromEntries(NUMBERS.map((name) => [name, { type: "string" }])),
  seed: { type: "string" },
  "do-sample": { type: "boolean" },
  "one-call": { type: "boolean" },
  json: { type: "boolean" },
  help: { type: "boolean", short: "h" },
};

async function main() {
  const { values, positionals } = readArguments();
  if (values.help) return console.log(HELP);
  if (positionals.length !== 2) throw new UsageError(`found ${positionals.length} arguments: expected BUNDLE and PROMPT; see --help`);
  const [directory, prompt] = positionals;
  const { threads, ...given } = readSettings(values);
  const model = await (values["one-call"] ? openOneCall : openModel)(directory, { threads });
  const settings = { seed: drawSeed(), ...given };
  const { isGreedy } = resolveSettings(model.defaults, settings);
  if (values["one-call"]) await writeAtOnce(model, prompt, settings, values.json);
  else await writeAsItComes(model, prompt, settings, values.json);
  if (!isGreedy && given.seed === undefined) console.error(`seed ${settings.seed}`);
}

async function writeAsItComes(model, prompt, settings, asJson) {
  for await (const token of model.stream(prompt, settings)) {
    process.stdout.write(asJson ? `${JSON.stringify(token)}\n` : token.text);
  }
  if (!asJson) process.stdout.write("\n");
}

async function writeAtOnce(model, prompt, settings, asJson) {
  const result = await model.generate(prompt, settings);
  console.log(asJson ? JSON.stringify(result) : result.text);
}

function readArguments() {
  try {
    return parseArgs({ options: OPTIONS, allowPositionals: true });
  } catch (error) {
    throw new UsageError(`${error.message.split(". ")[0]}; see --help`);
  }
}

function readSettings(values) {
  const settings = {};
  for (const name of NUMBERS.filter((name) => name in values)) settings[inCamelCase(name)] = toNumber(name, values[name]);
  if (values["do-sample"]) settings.doSample = true;
  if ("seed" in values) {
    if (!/^\d+$/.test(values.seed)) throw new UsageError(`--seed is ${values.seed}: expected a whole number`);
    settings.seed = BigInt(values.seed);
  }
  return settings;
}

const inCamelCase = (name) => name.replace(/-(.)/g, (_, letter) => letter.toUpperCase());

function toNumber(name, text) {
  const number = text.trim() === "" ? NaN : Number(text);
  if (Number.isNaN(number)) throw new UsageError(`--${name} is ${text}: expected a number`);
  return number;
}

main().catch((error) => {
  console.error(`error: ${error.message}`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
});
