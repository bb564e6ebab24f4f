// The settings of a text: what the bundle's generation_config.json says, and over it what the caller gives.

import { UsageError } from "./errors.js";
import { drawSeed } from "./random.js";

const isWhole = Number.isSafeInteger;
const isNumber = Number.isFinite;

// Name, Hugging Face's name in generation_config.json, default, what holds of a value, and that in words.
const SETTINGS = [
  ["maxNewTokens", "max_new_tokens", 256, (value) => isWhole(value) && value >= 1, "a whole number of at least 1"],
  ["temperature", "temperature", 1, (value) => isNumber(value) && (value === 0 || value >= 1e-6), "a number of 0 or more"],
  ["topK", "top_k", 50, (value) => isWhole(value) && value >= 0, "a whole number of at least 0"],
  ["topP", "top_p", 1, (value) => isNumber(value) && value > 0 && value <= 1, "a number above 0 and at most 1"],
  ["repetitionPenalty", "repetition_penalty", 1, (value) => isNumber(value) && value > 0, "a number above 0"],
];
const OTHERS = ["doSample", "seed", "endIds"];

/**
 * @param {object} defaults the bundle's generation_config.json
 * @param {object} given maxNewTokens, temperature (0: greedy), topK, topP, repetitionPenalty, doSample, endIds, and
 *     seed (a bigint, or a whole number); undefined and null count as not given
 */
export function resolveSettings(defaults, given = {}) {
  const known = [...SETTINGS.map(([name]) => name), ...OTHERS];
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown !== undefined) throw new UsageError(`unknown setting ${unknown}: expected one of ${known.join(", ")}`);
  const settings = {};
  for (const [name, theirs, otherwise, holds, wanted] of SETTINGS) {
    const value = given[name] ?? defaults[theirs] ?? otherwise;
    if (!holds(value)) throw new UsageError(`${name} is ${value}: expected ${wanted}`);
    settings[name] = value;
  }
  settings.isGreedy = !(given.doSample ?? defaults.do_sample ?? false) || settings.temperature === 0;
  settings.seed = settings.isGreedy ? null : checkedSeed(given.seed ?? drawSeed());
  settings.endIds = new Set([given.endIds ?? defaults.eos_token_id ?? []].flat());
  return settings;
}

function checkedSeed(seed) {
  if (typeof seed !== "bigint" && !isWhole(seed)) throw new UsageError(`seed is ${seed}: expected a whole number`);
  if (seed < 0 || BigInt(seed) >> 64n) throw new UsageError(`seed is ${seed}: expected 0 to 2^64 - 1`);
  return BigInt(seed);
}
