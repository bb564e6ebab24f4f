"""The pipeline of logits processors: which of them a config asks for, and in which order.

The order is that of transformers 5.23 (`GenerationMixin._get_logits_processor`), so that the same options give the same
distribution. What transformers lacks stands where its kind stands:

1. `logit_bias` and `sequence_bias`: biases of the model's own logits come first, as in OpenAI's API
2. `repetition_penalty`
3. `presence_penalty` and `frequency_penalty`: right after it, as in llama.cpp, which does the three at once
4. DRY: after the other penalties and before what forbids, as in llama.cpp
5. `no_repeat_ngram_size`
6. `bad_words_ids` and `bad_words`
7. `min_length`, `min_new_tokens`
8. `forced_bos_token_id`, `forced_eos_token_id`
9. `exponential_decay_length_penalty`
10. `suppress_tokens`, `begin_suppress_tokens`

and when sampling

11. `temperature`
12. `top_k`, `top_p`, `min_p`, `typical_p`, `epsilon_cutoff`, `eta_cutoff`
13. XTC: last of the filters, as in llama.cpp, so that it chooses among tokens that are good enough; llama.cpp scales by
    temperature after it, here that is done already

A processor is a function (rows, logits) -> logits over float32 [rows, vocabulary] that never writes into its input. A
token that is forbidden or filtered out has the logit -inf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from . import constraints, filters, penalties
from .config import GenerationConfig
from .distributions import Logits, log_softmax, log_sum_exp, softmax
from .dry import Dry, breaker_tokens
from .errors import OptionError
from .random import uniform
from .token_rows import Ids, Rows
from .tokenizer import Tokenizer

__all__ = ["Logits", "Pipeline", "Processor", "Rows", "log_softmax", "log_sum_exp", "processors_for", "softmax"]

Processor = Callable[[Rows, Logits], Logits]


@dataclass(frozen=True)
class Pipeline:
    """Processors in order: called with rows and their logits float32 [rows, vocabulary], it gives new logits.

    Where there is a `top_k`, filters (its own too) see the candidates for it alone.
    """

    processors: tuple[Processor, ...] = ()
    filters: tuple[Processor, ...] = ()
    top_k: int = 0
    last_filters: tuple[Processor, ...] = ()  # those of `filters` behind temperature, top_k and top_p

    def __call__(self, rows: Rows, logits: Logits) -> Logits:
        """Apply all; with none the logits themselves come back.

        Raises:
            OptionError: the options forbid every token.
        """
        logits = _apply(self.processors, rows, logits)
        if 0 < self.top_k < logits.shape[1]:
            shortlist = filters.Shortlist(logits, self.top_k)
            return shortlist.spread(_apply(self.filters, rows, shortlist.values))
        return self._filter_all(rows, logits)

    def shortlist(self, rows: Rows, logits: Logits) -> tuple[Logits, Ids | None]:
        """As a call, for a sampler: logits of candidates, and their ids; of the whole vocabulary, None."""
        logits = _apply(self.processors, rows, logits)
        if 0 < self.top_k < logits.shape[1]:
            shortlist = filters.Shortlist(logits, self.top_k)
            return _apply(self.filters, rows, shortlist.values), shortlist.ids
        return self._filter_all(rows, logits), None

    def _filter_all(self, rows: Rows, logits: Logits) -> Logits:
        if len(logits) == 1 or not self.filters:
            return _apply(self.filters, rows, logits)
        # Row by row: whole vocabularies of many rows would leave the processor's cache with every operation.
        single = [_apply(self.filters, rows.only(row), logits[row, None]) for row in range(len(logits))]
        return np.concatenate(single)


def processors_for(
    config: GenerationConfig,
    *,
    vocabulary_size: int,
    context_length: int,
    tokenizer: Tokenizer | None = None,
    seed: int | None = None,
    least_kept: int = 1,
) -> Pipeline:
    """The pipeline that a config asks for; processors that would change nothing are left out.

    Args:
        config: the options.
        vocabulary_size: of the logits; options that name other tokens are refused.
        context_length: where a text ends at the latest, for the forced last token.
        tokenizer: for options that are texts (`bad_words`, `dry_sequence_breakers`).
        seed: for XTC, which draws a number of its own.
        least_kept: filters leave this many tokens at least (beam sampling: one more than end tokens).

    Raises:
        OptionError: an option names a token outside the vocabulary.
    """
    _check_tokens(config, vocabulary_size)
    processors = [
        *_biases(config),
        *_penalties(config, vocabulary_size, tokenizer),
        *_constraints(config, vocabulary_size, context_length, tokenizer),
    ]
    if any(getattr(config, name) not in (None, (), 0) for name in _MAY_FORBID_ALL):
        processors.append(_require_a_token)
    if config.is_greedy:
        return Pipeline(tuple(processors))
    top_k = max(config.top_k, least_kept) if config.top_k else 0
    last_filters = tuple(_last_filters(config, seed, least_kept))
    return Pipeline(tuple(processors), (*_first_filters(config, top_k, least_kept), *last_filters), top_k, last_filters)


def _apply(processors: Iterable[Processor], rows: Rows, logits: Logits) -> Logits:
    for process in processors:
        logits = process(rows, logits)
    return logits


def _biases(config: GenerationConfig) -> Iterable[Processor]:
    single = [((token,), bias) for token, bias in config.logit_bias]
    if single or config.sequence_bias:
        yield constraints.SequenceBiases([*single, *config.sequence_bias])


def _penalties(config: GenerationConfig, vocabulary: int, tokenizer: Tokenizer | None) -> Iterable[Processor]:
    if config.repetition_penalty != 1:
        yield lambda rows, logits: penalties.penalize_repetition(rows, logits, config.repetition_penalty)
    if config.presence_penalty or config.frequency_penalty:
        yield lambda rows, logits: penalties.penalize_presence_and_frequency(
            rows, logits, config.presence_penalty, config.frequency_penalty
        )
    if config.dry_multiplier:
        texts = config.dry_sequence_breakers
        yield Dry(
            config.dry_multiplier,
            config.dry_base,
            config.dry_allowed_length,
            config.dry_penalty_last_n,
            breaker_tokens(_needed(tokenizer, "dry_sequence_breakers"), texts) if texts else {},
            vocabulary,
        )


def _constraints(
    config: GenerationConfig, vocabulary: int, context_length: int, tokenizer: Tokenizer | None
) -> Iterable[Processor]:
    if size := config.no_repeat_ngram_size:
        yield lambda rows, logits: constraints.forbid_repeated_ngrams(rows, logits, size)
    if bad_words := _bad_words(config, tokenizer):
        yield constraints.SequenceBiases((word, -np.inf) for word in sorted(bad_words))
    ends = _known(config.eos_token_id, vocabulary)
    if config.min_length and ends.size:
        least = config.min_length
        yield lambda rows, logits: constraints.forbid_in(logits, rows.lengths < least, ends)
    if config.min_new_tokens and ends.size:
        least_new = config.min_new_tokens
        yield lambda rows, logits: constraints.forbid_in(logits, rows.new_counts < least_new, ends)
    if config.forced_bos_token_id is not None:
        first = np.array([config.forced_bos_token_id])
        yield lambda rows, logits: constraints.force_in(logits, rows.new_counts == 0, first)
    if config.forced_eos_token_id:
        last = np.array(config.forced_eos_token_id)

        def force_last(rows: Rows, logits: Logits) -> Logits:
            limits = [config.new_token_limit(length, context_length) for length in rows.prompt_lengths]
            return constraints.force_in(logits, rows.new_counts == np.array(limits) - 1, last)

        yield force_last
    if config.exponential_decay_length_penalty and ends.size:
        start, factor = config.exponential_decay_length_penalty
        yield lambda rows, logits: penalties.grow_end(rows, logits, ends, start, factor)
    if config.suppress_tokens:
        suppressed = np.array(config.suppress_tokens)
        yield lambda _, logits: constraints.forbid(logits, suppressed)
    if config.begin_suppress_tokens:
        at_first = np.array(config.begin_suppress_tokens)
        step = 0 if config.forced_bos_token_id is None else 1  # after a forced first token the second is the first
        yield lambda rows, logits: constraints.forbid_in(logits, rows.new_counts == step, at_first)


def _first_filters(config: GenerationConfig, top_k: int, least: int) -> Iterable[Processor]:
    if config.temperature != 1:
        yield lambda _, logits: filters.divide_by_temperature(logits, config.temperature)
    if top_k:
        yield lambda _, logits: filters.keep_top_k(logits, top_k)
    if config.top_p < 1:
        yield lambda _, logits: filters.keep_top_p(logits, config.top_p, least)


def _last_filters(config: GenerationConfig, seed: int | None, least: int) -> Iterable[Processor]:
    if config.min_p:
        yield lambda _, logits: filters.keep_min_p(logits, config.min_p, least)
    if config.typical_p < 1:
        yield lambda _, logits: filters.keep_typical(logits, config.typical_p, least)
    if config.epsilon_cutoff:
        yield lambda _, logits: filters.keep_above_epsilon(logits, config.epsilon_cutoff, least)
    if config.eta_cutoff:
        yield lambda _, logits: filters.keep_above_eta(logits, config.eta_cutoff, least)
    if config.xtc_probability:

        def exclude(rows: Rows, logits: Logits) -> Logits:
            steps = zip(rows.sequences, rows.new_counts.tolist(), strict=True)
            numbers = [uniform(seed or 0, sequence, step, lane=1) for sequence, step in steps]
            chosen = np.array(numbers) < config.xtc_probability
            return filters.exclude_top_choices(logits, config.xtc_threshold, chosen, least)

        yield exclude


# Options that may leave no token: the pipeline then says so.
_MAY_FORBID_ALL = (
    "logit_bias",
    "sequence_bias",
    "no_repeat_ngram_size",
    "bad_words_ids",
    "bad_words",
    "min_length",
    "min_new_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
)


def _require_a_token(rows: Rows, logits: Logits) -> Logits:
    if (logits.max(axis=1) == -np.inf).any():
        raise OptionError(
            "the options forbid every token here: expected one that may come next; "
            "loosen those that forbid, such as suppress_tokens, bad_words_ids or no_repeat_ngram_size"
        )
    return logits


def _bad_words(config: GenerationConfig, tokenizer: Tokenizer | None) -> set[tuple[int, ...]]:
    """Token sequences that must not come; an end token alone never counts, as in transformers."""
    words = set(config.bad_words_ids)
    for text in config.bad_words:
        encode = _needed(tokenizer, "bad_words").encode
        words |= {tuple(encode(form, add_special_tokens=False)) for form in (text, " " + text)}
    return words - {(token,) for token in config.eos_token_id} - {()}


def _needed(tokenizer: Tokenizer | None, option: str) -> Tokenizer:
    if tokenizer is None:
        raise OptionError(f"{option} is text: expected a tokenizer to read it with; use token ids")
    return tokenizer


def _known(tokens: tuple[int, ...], vocabulary: int) -> Ids:
    return np.array([token for token in tokens if token < vocabulary], np.int64)


def _check_tokens(config: GenerationConfig, vocabulary: int) -> None:
    named: dict[str, Iterable[int]] = {
        "bad_words_ids": (token for word in config.bad_words_ids for token in word),
        "suppress_tokens": config.suppress_tokens,
        "begin_suppress_tokens": config.begin_suppress_tokens,
        "logit_bias": (token for token, _ in config.logit_bias),
        "sequence_bias": (token for tokens, _ in config.sequence_bias for token in tokens),
        "forced_bos_token_id": () if config.forced_bos_token_id is None else (config.forced_bos_token_id,),
        "forced_eos_token_id": config.forced_eos_token_id,
    }
    for name, tokens in named.items():
        highest = max(tokens, default=0)
        if highest >= vocabulary:
            raise OptionError(
                f"{name} holds token id {highest}, which is not in the vocabulary: expected 0 to {vocabulary - 1}"
            )
