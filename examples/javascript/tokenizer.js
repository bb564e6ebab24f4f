// A tokenizer.json, read as the tokenizers library reads it.

/**
 * @param {Function} Tokenizer the class of @huggingface/tokenizers
 * @param {object} json tokenizer.json
 * @param {object} config tokenizer_config.json
 */
export function openTokenizer(Tokenizer, json, config) {
  return new Tokenizer({ ...json, pre_tokenizer: withAllDigits(json.pre_tokenizer) }, config);
}

/** `Digits` means every number of Unicode; @huggingface/tokenizers 0.2 takes decimal digits only: ½ and ² would not count. */
function withAllDigits(preTokenizer) {
  if (preTokenizer?.type === "Sequence") {
    return { ...preTokenizer, pretokenizers: preTokenizer.pretokenizers.map(withAllDigits) };
  }
  if (preTokenizer?.type !== "Digits") return preTokenizer;
  const pattern = { Regex: preTokenizer.individual_digits ? "\\p{N}" : "\\p{N}+" };
  return { type: "Split", pattern, behavior: "Isolated", invert: false };
}
