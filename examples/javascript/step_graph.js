// The step graph of a bundle with its cache of keys and values: token ids in, logits of the last one out.

import { BundleError } from "./errors.js";

const FIRST_CAPACITY = 64; // positions
const ARRAYS = { float32: Float32Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array };

/** A loaded graph; it serves any number of sequences, each with a cache of its own. */
export class StepGraph {
  /**
   * @param {object} ort onnxruntime-node's or onnxruntime-web's module
   * @param {object} session an ort.InferenceSession
   * @param {object} about
   * @param {number} about.contextLength the most positions
   * @param {number} about.layers as bundle.json has them
   * @param {boolean} about.sharesBuffer past and present may be one buffer (bundle.json, graph.shares_cache_buffer), and
   *     the engine writes into tensors that it is given: onnxruntime-node does, onnxruntime-web copies
   */
  constructor(ort, session, { contextLength, layers, sharesBuffer }) {
    this.ort = ort;
    this.session = session;
    this.contextLength = contextLength;
    this.sharesBuffer = sharesBuffer;
    this.states = session.inputMetadata
      .filter(({ name }) => name.startsWith("past_key_values."))
      .map(({ name, type, shape }) => ({
        past: name,
        present: name.replace("past_key_values", "present"),
        type,
        heads: shape?.[1],
        headSize: shape?.[3],
      }));
    this.#requireContract(layers);
  }

  #requireContract(layers) {
    const { session, states } = this;
    const expected = ["input_ids", "attention_mask", ...states.map(({ past }) => past)];
    const extra = session.inputNames.find((name) => !expected.includes(name));
    if (extra) throw new BundleError(`the graph wants an input ${extra}: expected the inputs of an onnxgpt bundle; export it again`);
    const missing = ["logits", ...states.map(({ present }) => present)].find((name) => !session.outputNames.includes(name));
    if (missing) throw new BundleError(`the graph gives no ${missing}: expected the outputs of an onnxgpt bundle; export it again`);
    const wrong = states.find(({ heads, headSize }) => !Number.isInteger(heads) || !Number.isInteger(headSize));
    if (wrong) throw new BundleError(`${wrong.past} is not [batch, heads, positions, head size]: export the model again`);
    if (states.length !== 2 * layers) {
      throw new BundleError(`the graph has ${states.length} past_key_values: expected ${2 * layers}, two for each layer; copy the bundle again`);
    }
  }

  /** The state of a new sequence. */
  newCache() {
    return new Cache(this);
  }

  /**
   * Read more tokens.
   * @param {number[]} ids at least one
   * @param {Cache} cache what was read so far; it grows by `ids`
   * @returns {Promise<Float32Array>} logits of the last token, [vocabulary]
   */
  async step(ids, cache) {
    const total = cache.length + ids.length;
    if (!ids.length || total > this.contextLength) {
      throw new RangeError(`${total} tokens in a context of ${this.contextLength}: expected fewer; shorten the text`);
    }
    const { Tensor } = this.ort;
    cache.reserve(total);
    const feeds = {
      input_ids: new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
      attention_mask: new Tensor("int64", new BigInt64Array(total).fill(1n), [1, total]),
      ...cache.pasts(),
    };
    const results = await this.session.run(feeds, { logits: null, ...cache.presents() });
    cache.take(results, total);
    return lastRow(results.logits);
  }
}

/** Keys and values of one sequence: tensors [1, heads, positions, head size], two for each layer. */
class Cache {
  constructor(graph) {
    this.graph = graph;
    this.length = 0; // positions that were read
    this.capacity = 0; // positions that there is room for
    this.tensors = graph.states.map((state) => emptyTensor(graph.ort, state, 0));
  }

  /** Make room: shared buffers grow to twice their size, so that copying costs little; separate ones are exact. */
  reserve(total) {
    if (!this.graph.sharesBuffer || total <= this.capacity) return;
    const capacity = Math.min(Math.max(2 * this.capacity, total, FIRST_CAPACITY), this.graph.contextLength);
    this.tensors = this.graph.states.map((state, index) => this.#grown(state, this.tensors[index], capacity));
    this.capacity = capacity;
  }

  #grown(state, tensor, capacity) {
    const larger = emptyTensor(this.graph.ort, state, capacity);
    const [before, after] = [this.capacity * state.headSize, capacity * state.headSize];
    for (let head = 0; head < state.heads; head++) {
      larger.data.set(tensor.data.subarray(head * before, head * before + this.length * state.headSize), head * after);
    }
    return larger;
  }

  pasts() {
    return Object.fromEntries(this.graph.states.map(({ past }, index) => [past, this.tensors[index]]));
  }

  /** Where the graph shall write: into the pasts, or wherever the engine likes. */
  presents() {
    const { states, sharesBuffer } = this.graph;
    return Object.fromEntries(states.map(({ present }, index) => [present, sharesBuffer ? this.tensors[index] : null]));
  }

  take(results, length) {
    this.length = length;
    if (this.graph.sharesBuffer) return;
    const before = this.tensors;
    this.tensors = this.graph.states.map(({ present }) => results[present]);
    for (const tensor of before) if (tensor.location !== "cpu") tensor.dispose();
  }

  /** Free what lies on a graphics card; the cache is not used again. */
  dispose() {
    for (const tensor of this.tensors) if (tensor.location !== "cpu") tensor.dispose();
    this.tensors = [];
  }
}

function emptyTensor(ort, { type, heads, headSize }, positions) {
  if (!(type in ARRAYS)) throw new BundleError(`the cache is of ${type}: expected one of ${Object.keys(ARRAYS).join(", ")}`);
  return new ort.Tensor(type, new ARRAYS[type](heads * positions * headSize), [1, heads, positions, headSize]);
}

/** The last row of logits [1, kept, vocabulary], as float32. */
function lastRow({ data, dims, type }) {
  const row = data.subarray(data.length - dims[2]);
  if (type === "float32") return row;
  return row instanceof Uint16Array ? Float32Array.from(row, fromHalf) : Float32Array.from(row);
}

function fromHalf(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}
