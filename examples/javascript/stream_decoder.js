// Token ids to text as they come, never half a character.

const REPLACEMENT = "\ufffd"; // what decoders put for bytes that are no character, or not yet
const WINDOW_LIMIT = 64; // tokens

/**
 * The pieces joined are the whole text. A character whose bytes lie in several tokens is held back until its last
 * byte. The prompt's last tokens go in as `context`, so that the text goes on from them.
 */
export class StreamDecoder {
  #decode;
  #window;
  #settled; // tokens of the window whose text was given in full
  #shown; // characters of the window's text that were given

  /** @param {(ids: number[]) => string} decode */
  constructor(decode, context = []) {
    this.#decode = decode;
    this.#window = wholeCharacters(decode, context);
    this.#settled = this.#window.length;
    this.#shown = certainLength(decode(this.#window));
  }

  /** Take the next token; give the text that is now certain, maybe none. */
  push(id) {
    this.#window.push(id);
    const text = this.#decode(this.#window);
    const certain = this.#window.length > WINDOW_LIMIT ? text.length : certainLength(text);
    const piece = text.slice(this.#shown, certain);
    this.#shown = Math.max(this.#shown, certain);
    if (certain === text.length) {
      this.#window = this.#window.slice(this.#settled);
      this.#settled = this.#window.length;
      this.#shown = this.#decode(this.#window).length;
    }
    return piece;
  }

  /** Give what was held back: bytes that never became a character, as replacement characters. */
  flush() {
    const text = this.#decode(this.#window);
    const piece = text.slice(this.#shown);
    this.#shown = text.length;
    return piece;
  }
}

function certainLength(text) {
  let end = text.length;
  while (end > 0 && text[end - 1] === REPLACEMENT) end--;
  return end;
}

/** The last few tokens of a prompt, beginning where a character begins. */
function wholeCharacters(decode, context) {
  let window = [];
  for (let count = 4; count < 9; count++) {
    window = context.slice(-count);
    if (!decode(window).startsWith(REPLACEMENT)) break;
  }
  return window;
}
