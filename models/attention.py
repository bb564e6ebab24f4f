"""Attention with keys and values of the past: the projections, and the operator in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .config import GPTConfig
from .layers import Linear, make_head_norm, soft_cap
from .rotary import Rotary

KeyValue = tuple[Tensor, Tensor]  # each [batch, kv_heads, past_sequence, head_size]
Attended = tuple[Tensor, KeyValue]  # [batch, sequence, width], and the layer's present key and value
WriteRows = Callable[[Tensor, Tensor, Tensor], Tensor]  # as `write_rows`

_TABLES = torch.device("cpu")  # computed here even where parameters are made on "meta" and loaded afterwards


class Attention(nn.Module):
    """The four projections around the attention operator."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        query_size, key_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.query = Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.key = Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.value = Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.query_norm = make_head_norm(config, config.num_heads)
        self.key_norm = make_head_norm(config, config.num_kv_heads)
        self.output = Linear(query_size, config.hidden_size, bias=config.attention_output_bias)

    def forward(self, hidden: Tensor, operator: nn.Module, past: KeyValue, step: Any) -> Attended:
        """[batch, sequence, hidden] to the same shape, and the layer's present key and value."""
        query, key, value = self.query(hidden), self.key(hidden), self.value(hidden)
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        attended, present = operator(query, key, value, past, step, self.layer)
        return self.output(attended), present


@dataclass(frozen=True)
class StandardStep:
    """What all layers of one step share."""

    positions: Tensor  # int64 [batch, sequence]
    # By the layers' window (0: none), float32 [batch, 1 or heads, sequence, past + sequence]: very negative where a key
    # is not seen; else 0, or what ALiBi adds.
    biases: dict[int, Tensor]


class StandardAttention(nn.Module):
    """Positions, cache and softmax attention in plain PyTorch operators."""

    def __init__(self, config: GPTConfig, write: WriteRows | None = None) -> None:
        """Attention that writes new keys and values into the past by `write`; None: `write_rows`."""
        super().__init__()
        self.config = config
        self.write = write or write_rows
        self.rotary = Rotary(config) if config.position == "rotary" else None
        self.local_rotary = Rotary(config, local=True) if config.local_rotary_theta is not None else None
        self.alibi = Alibi(config.num_heads) if config.position == "alibi" else None

    def prepare(self, positions: Tensor, lengths: Tensor, attention_mask: Tensor, past: Tensor) -> StandardStep:
        """Compute once what every layer needs: which keys each new position sees, for every kind of window."""
        slots = torch.arange(past.shape[2] + positions.shape[1], device=positions.device)
        rows = positions.unsqueeze(1).unsqueeze(-1)  # [batch, 1, sequence, 1]
        lowest = torch.finfo(torch.float32).min
        biases = {}
        for window in sorted({*self.config.windows} or {0}):
            seen = slots <= rows  # [batch, 1, sequence, past + sequence]
            if window:
                seen = seen & (slots > rows - window)
            bias = 0.0 if self.alibi is None else self.alibi(positions, slots)
            biases[window] = torch.where(seen, bias, lowest)
        return StandardStep(positions, biases)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, past: KeyValue, step: StandardStep, layer: int
    ) -> Attended:
        """Attend from the new positions to all of their row that the layer sees.

        Args:
            query: [batch, sequence, heads * head_size].
            key: [batch, sequence, kv_heads * head_size], as is value.
            value: see key.
            past: key and value, [batch, kv_heads, past, head_size].
            step: what `prepare` made.
            layer: index of the block.

        Returns:
            [batch, sequence, heads * head_size]; key and value [batch, kv_heads, past + sequence, head_size].
        """
        config = self.config
        query = split_heads(query, config.num_heads)
        key, value = split_heads(key, config.num_kv_heads), split_heads(value, config.num_kv_heads)
        rotary = self.local_rotary if config.rotates_locally(layer) else self.rotary
        if rotary is not None:
            query, key = rotary(query, step.positions), rotary(key, step.positions)
        key, value = self.write(past[0], key, step.positions), self.write(past[1], value, step.positions)

        batch, heads, sequence, head_size = query.shape
        group_rows = heads // config.num_kv_heads * sequence
        # The heads of one group become rows against the group's one key head, which is thus never repeated.
        grouped = query.reshape(batch, config.num_kv_heads, group_rows, head_size)
        scores = (grouped * config.scale(layer)) @ key.transpose(2, 3)  # [batch, kv_heads, group * sequence, keys]
        if config.attention_softcap is not None:
            scores = soft_cap(scores, config.attention_softcap)
        scores = scores.reshape(batch, heads, sequence, -1) + step.biases[config.window(layer)]
        weights = torch.softmax(scores, dim=-1).reshape(batch, config.num_kv_heads, group_rows, -1)
        attended = (weights @ value).reshape(batch, heads, sequence, head_size)
        return attended.transpose(1, 2).reshape(batch, sequence, heads * head_size), (key, value)


class Alibi(nn.Module):
    """Attention with linear biases (Press et al. 2022): each head fades keys by their distance, at its own rate."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.slopes: Tensor
        self.register_buffer("slopes", alibi_slopes(heads).reshape(heads, 1, 1), persistent=False)

    def forward(self, positions: Tensor, slots: Tensor) -> Tensor:
        """For `positions` [batch, sequence] and keys at `slots` [keys]: float32 [batch, heads, sequence, keys]."""
        distance = (slots - positions.unsqueeze(-1)).to(torch.float32)  # [batch, sequence, keys], negative or 0
        return self.slopes * distance.unsqueeze(1)


def alibi_slopes(heads: int) -> Tensor:
    """float32 [heads]: 2 ** (-8 i / n) for a power of two n; other numbers take every second one of twice as many."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * index / power) for index in range(1, power + 1)]
    slopes += [2 ** (-4 * index / power) for index in range(1, 2 * (heads - power), 2)]
    return torch.tensor(slopes, dtype=torch.float32, device=_TABLES)


def split_heads(values: Tensor, heads: int) -> Tensor:
    """[batch, sequence, heads * head_size] to [batch, heads, sequence, head_size]."""
    batch, sequence, width = values.shape
    return values.reshape(batch, sequence, heads, width // heads).transpose(1, 2)


def write_rows(past: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """The past [batch, kv_heads, past, head_size] with as many slots more, and `new` at its `positions`."""
    grown = torch.cat((past, new), dim=2)
    index = positions.unsqueeze(1).unsqueeze(-1).expand(new.shape)
    return grown.scatter(2, index, new)
