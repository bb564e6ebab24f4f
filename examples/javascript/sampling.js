// From logits to a token: the same processors, in the same order and in the same float32 steps, as onnxgpt's runtime.

import { uniform } from "./random.js";

const NEVER = -Infinity;
const BLOCK = 64; // tokens
const round = Math.fround;

/**
 * The next token.
 * @param {Float32Array} logits of the last position, [vocabulary]; left as they are
 * @param {number[]} ids the text so far, prompt and new tokens
 * @param {object} settings as `resolveSettings` gives them
 * @param {number} step index of the new token, from 0
 * @param {number} sequence index of the sequence within its prompt
 */
export function chooseToken(logits, ids, settings, step, sequence = 0) {
  const scores = settings.repetitionPenalty === 1 ? logits : penalizeRepetition(logits, ids, settings.repetitionPenalty);
  if (settings.isGreedy) return likeliest(scores);
  const flattened = scores.map((score) => score / round(settings.temperature));
  const candidates = keepTopK(flattened, settings.topK);
  const values = Float32Array.from(candidates, (id) => flattened[id]);
  if (settings.topP < 1) keepTopP(values, settings.topP);
  return candidates[chooseByNumber(values, uniform(settings.seed, sequence, step))];
}

/** The index of the highest value; of equal ones the first. */
export function likeliest(values) {
  let best = 0;
  for (let index = 1; index < values.length; index++) if (values[index] > values[best]) best = index;
  return best;
}

/** Divide positive and multiply negative logits of tokens that occurred (Keskar et al. 2019, CTRL); gives new logits. */
export function penalizeRepetition(logits, ids, penalty) {
  const result = logits.slice();
  const strength = round(penalty);
  for (const id of new Set(ids)) {
    const [product, quotient] = [round(logits[id] * strength), round(logits[id] / strength)];
    result[id] = penalty > 1 ? Math.min(product, quotient) : Math.max(product, quotient);
  }
  return result;
}

/** Ids, in order, of the `k` likeliest tokens and of what is as likely as the last of them; 0: of all. */
export function keepTopK(logits, k) {
  if (k === 0 || k >= logits.length) return idsFrom(logits, NEVER);
  const bound = boundOfTopK(logits, k);
  const likely = logits.filter((logit) => logit >= bound).sort();
  return idsFrom(logits, likely[likely.length - k]);
}

/** What the k-th highest logit is not below: the k-th highest of the blocks' highest ones. Sorting all takes longer. */
function boundOfTopK(logits, k) {
  const peaks = new Float32Array(Math.floor(logits.length / BLOCK)).fill(NEVER);
  if (k > peaks.length) return NEVER;
  for (let index = 0; index < peaks.length * BLOCK; index++) {
    const block = Math.floor(index / BLOCK);
    if (logits[index] > peaks[block]) peaks[block] = logits[index];
  }
  return peaks.sort()[peaks.length - k];
}

function idsFrom(logits, border) {
  const ids = [];
  for (let id = 0; id < logits.length; id++) if (logits[id] >= border) ids.push(id);
  return Uint32Array.from(ids);
}

/** Leave the smallest set of likeliest tokens that reach the probability `topP`; the others become -Infinity, in place. */
export function keepTopP(values, topP) {
  // Least likely first; of equal ones the lowest id first, so that the highest ids stay.
  const order = Uint32Array.from(values.keys()).sort((one, other) => values[one] - values[other] || one - other);
  const highest = values[order[order.length - 1]];
  const sums = new Float32Array(values.length);
  let sum = 0;
  for (let place = 0; place < order.length; place++) {
    sum = round(sum + round(Math.exp(round(values[order[place]] - highest))));
    sums[place] = sum;
  }
  const border = (1 - topP) * sum;
  for (let place = 0; place < order.length - 1 && sums[place] <= border; place++) values[order[place]] = NEVER;
}

/** The token that a number in [0, 1) chooses: tokens take consecutive shares of the interval, in order of id. */
export function chooseByNumber(values, number) {
  const highest = values[likeliest(values)];
  const sums = new Float64Array(values.length);
  let sum = 0;
  for (let index = 0; index < values.length; index++) {
    sum += Math.exp(values[index] - highest);
    sums[index] = sum;
  }
  return sums.findIndex((reached) => reached > number * sum);
}
