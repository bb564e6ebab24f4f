"""From logits to a token as nodes: what runtime.penalties, runtime.filters and runtime.sampling do, in their order.

What a setting switches off is not computed: it lies in the other branch of an If. Everything is a vector; a number is
a vector of one element.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .building import DOUBLE, FLOAT, INT64, GraphBuilder, Values

# Tokens that are sorted to find the nucleus: few first, then more, at last all of them.
_WIDTHS = (512, 4096)


@dataclass(frozen=True)
class SamplingValues:
    """Names of values [1] that do not change from token to token."""

    temperature: str  # float32
    top_k: str  # int64
    top_p: str  # float32
    repetition_penalty: str  # float32
    is_greedy: str  # bool
    is_plain: str  # bool: greedy, and nothing changes the logits
    keeps_scores: str  # bool: no repetition penalty
    limits_k: str  # bool: top_k leaves tokens out
    limits_p: str  # bool: top_p may leave tokens out
    numbers: str  # float64 [most new tokens], none when greedy


def add_token(builder: GraphBuilder, logits: str, history: str, step: str, values: SamplingValues) -> str:
    """The token that logits and settings choose.

    Args:
        builder: gets the nodes.
        logits: float32 [vocabulary].
        history: int64 [1, tokens], the text so far, prompt included.
        step: int64 [1], the index of the new token.
        values: the settings.

    Returns:
        int64 [1].
    """

    def choose(inner: GraphBuilder) -> Values:
        scores, *_ = inner.branch(
            values.keeps_scores,
            lambda same: [(logits, FLOAT)],
            lambda penalized: [(_penalized(penalized, logits, history, values.repetition_penalty), FLOAT)],
        )
        token, *_ = inner.branch(
            values.is_greedy,
            lambda greedy: [(_likeliest(greedy, scores), INT64)],
            lambda sampling: [(_sampled(sampling, scores, step, values), INT64)],
        )
        return [(token, INT64)]

    token, *_ = builder.branch(values.is_plain, lambda inner: [(_likeliest(inner, logits), INT64)], choose)
    return token


def _likeliest(builder: GraphBuilder, scores: str) -> str:
    return builder.node("ArgMax", scores, axis=0, keepdims=1)


def _penalized(builder: GraphBuilder, logits: str, history: str, penalty: str) -> str:
    """Of the product and the quotient the less likely one, or the likelier one for a penalty below 1."""
    ids = builder.node("Reshape", history, builder.constant([-1]))
    scores = builder.node("Gather", logits, ids)
    choices = (builder.node("Mul", scores, penalty), builder.node("Div", scores, penalty))
    lower, higher = builder.node("Min", *choices), builder.node("Max", *choices)
    new = builder.node("Where", builder.node("Greater", penalty, builder.constant([1.0])), lower, higher)
    return builder.node("ScatterElements", logits, ids, new)  # an id that is there twice writes the same twice


def _sampled(builder: GraphBuilder, scores: str, step: str, values: SamplingValues) -> str:
    scaled = builder.node("Div", scores, values.temperature)
    candidates, ids = builder.branch(
        values.limits_k, lambda few: _top_k(few, scaled, values.top_k), lambda every: _all_tokens(every, scaled)
    )
    kept, *_ = builder.branch(
        values.limits_p,
        lambda nucleus: [(_top_p(nucleus, candidates, values.top_p), FLOAT)],
        lambda same: [(candidates, FLOAT)],
    )
    number = builder.node("Gather", values.numbers, step)
    return builder.node("Gather", ids, _chosen(builder, kept, number))


def _top_k(builder: GraphBuilder, scores: str, k: str) -> Values:
    """The likeliest tokens in order of id, and their ids; ties with the k-th stay."""
    best, _ = builder.nodes_of("TopK", [scores, k], [builder.fresh("best"), builder.fresh("places")], sorted=0)
    lowest = builder.node("ReduceMin", best, keepdims=1)
    found = builder.node("NonZero", builder.node("GreaterOrEqual", scores, lowest))
    ids = builder.node("Reshape", found, builder.constant([-1]))
    return [(builder.node("Gather", scores, ids), FLOAT), (ids, INT64)]


def _all_tokens(builder: GraphBuilder, scores: str) -> Values:
    count = builder.node("Squeeze", builder.node("Shape", scores))
    ids = builder.node("Range", builder.constant(0), count, builder.constant(1))
    return [(scores, FLOAT), (ids, INT64)]


def _top_p(builder: GraphBuilder, scores: str, top_p: str) -> str:
    """-inf for what is not in the smallest set of likeliest tokens that reaches top_p; of ties the highest ids stay."""
    one = builder.constant([1.0], np.float64)
    left_over = builder.node("Sub", one, builder.node("Cast", top_p, to=DOUBLE))
    border, size = _nucleus(builder, scores, left_over, _WIDTHS)
    reached = builder.node("GreaterOrEqual", scores, border)
    surplus = builder.node("Sub", _count(builder, reached), size)
    ties = builder.node("Equal", scores, border)
    ranks = builder.node("CumSum", builder.node("Cast", ties, to=INT64), builder.constant(0))
    dropped = builder.node("And", ties, builder.node("LessOrEqual", ranks, surplus))
    kept = builder.node("And", reached, builder.node("Not", dropped))
    return builder.node("Where", kept, scores, builder.constant([-np.inf], np.float32))


def _nucleus(builder: GraphBuilder, scores: str, left_over: str, widths: Sequence[int]) -> tuple[str, str]:
    """The lowest logit in the nucleus, float32 [1], and how many tokens it has, int64 [1].

    Sorts the likeliest tokens only; when all of those are in the nucleus, more of them.
    """
    count = builder.node("Shape", scores)
    width = builder.node("Min", count, builder.constant([widths[0]])) if widths else count
    best, _ = builder.nodes_of("TopK", [scores, width], [builder.fresh("best"), builder.fresh("places")])
    highest = builder.node("ReduceMax", scores, keepdims=1)
    weights = builder.node("Exp", builder.node("Sub", best, highest))
    sums = builder.node("CumSum", weights, builder.constant(0), reverse=1)  # of each token and all that are less likely
    sums = builder.node("Cast", sums, to=DOUBLE)
    if widths:
        all_weights = builder.node("Exp", builder.node("Sub", scores, highest))
        total = builder.node("Cast", builder.node("ReduceSum", all_weights, keepdims=1), to=DOUBLE)
        below = builder.node("Sub", total, builder.node("Gather", sums, builder.constant([0])))
        is_all = builder.node("Equal", width, count)
        sums = builder.node("Add", sums, builder.node("Where", is_all, builder.constant([0.0], np.float64), below))
    limit = builder.node("Mul", left_over, builder.node("Gather", sums, builder.constant([0])))
    removed = _count(builder, builder.node("LessOrEqual", sums, limit))
    one = builder.constant([1])
    size = builder.node("Max", builder.node("Sub", width, removed), one)
    border = builder.node("Gather", best, builder.node("Sub", size, one))
    if not widths:
        return border, size

    def wider(inner: GraphBuilder) -> Values:
        found = _nucleus(inner, scores, left_over, widths[1:])
        return list(zip(found, (FLOAT, INT64), strict=True))

    is_found = builder.node("Or", is_all, builder.node("Greater", removed, builder.constant([0])))
    border, size = builder.branch(is_found, lambda _: [(border, FLOAT), (size, INT64)], wider)
    return border, size


def _chosen(builder: GraphBuilder, scores: str, number: str) -> str:
    """The index of the first score whose running sum of shares is above number * total (docs/random.md), [1]."""
    wide = builder.node("Cast", scores, to=DOUBLE)
    shares = builder.node("Exp", builder.node("Sub", wide, builder.node("ReduceMax", wide, keepdims=1)))
    sums = builder.node("CumSum", shares, builder.constant(0))
    wanted = builder.node("Mul", number, builder.node("Gather", sums, builder.constant([-1])))
    return _count(builder, builder.node("LessOrEqual", sums, wanted))


def _count(builder: GraphBuilder, flags: str) -> str:
    """How many are true, int64 [1]."""
    return builder.node("ReduceSum", builder.node("Cast", flags, to=INT64), keepdims=1)
