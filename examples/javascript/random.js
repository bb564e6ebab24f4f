// The random stream of sampling, as docs/random.md specifies it: Threefry-2x32 with 20 rounds.

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];
const PARITY = 0x1bd11bda;
const ROUNDS = 20;

/**
 * Encrypt a counter of two 32-bit words under a key of two 32-bit words.
 * @returns {[number, number]} two unsigned 32-bit words
 */
export function threefry2x32([key0, key1], [counter0, counter1]) {
  const keys = [key0, key1, key0 ^ key1 ^ PARITY];
  let first = (counter0 + keys[0]) | 0;
  let second = (counter1 + keys[1]) | 0;
  for (let round = 0; round < ROUNDS; round++) {
    const turn = ROTATIONS[round % 8];
    first = (first + second) | 0;
    second = ((second << turn) | (second >>> (32 - turn))) ^ first;
    if (round % 4 === 3) {
      const injection = (round >> 2) + 1;
      first = (first + keys[injection % 3]) | 0;
      second = (second + keys[(injection + 1) % 3] + injection) | 0;
    }
  }
  return [first >>> 0, second >>> 0];
}

/**
 * The number in [0, 1) of token `step` (from 0) of sequence `sequence` (from 0) of its prompt.
 * @param {bigint} seed 64 bits, unsigned
 */
export function uniform(seed, sequence, step) {
  const key = [Number(seed & 0xffffffffn), Number((seed >> 32n) & 0xffffffffn)];
  return (threefry2x32(key, [step, sequence])[0] >>> 8) * 2 ** -24;
}

/** A fresh seed, small enough (32 bits) to be typed again. */
export function drawSeed() {
  return BigInt(globalThis.crypto.getRandomValues(new Uint32Array(1))[0]);
}
