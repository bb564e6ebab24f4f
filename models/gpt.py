"""The GPT in PyTorch: embeddings, blocks, final norm and head, with past key values going in and coming out.

The forward pass follows one contract, in eager PyTorch and in the exported graph alike: rows are right-
padded, a row's length is the sum of its mask, positions come from the mask, and every row's new keys are
written at its own positions. How queries meet keys is a module of its own, `GPT.operator`, which an
export may replace by a fused one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GPTConfig

KeyValue = tuple[Tensor, Tensor]  # each [batch, kv_heads, past_sequence, head_size]
Attended = tuple[Tensor, KeyValue]  # [batch, sequence, width], and the layer's present key and value

_SINUSOIDAL_BASE = 10000.0  # Vaswani et al. 2017, section 3.5
_TABLES = torch.device("cpu")  # computed here even where parameters are made on "meta" and loaded afterwards


class GPT(nn.Module):
    """A decoder-only transformer, every choice taken from its `GPTConfig`; parameters are not initialized."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = _position_embedding(config)
        self.operator = StandardAttention(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = make_norm(config) if config.final_norm else None
        self.head = Head(config)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        past_key_values: Sequence[KeyValue] | None = None,
        num_logits_to_keep: int = 0,
    ) -> tuple[Tensor, list[KeyValue]]:
        """Return the logits and the keys and values of all positions so far.

        Args:
            input_ids: int64 [batch, sequence], the new tokens, right-padded.
            attention_mask: int64 [batch, total_sequence], 1 for tokens and 0 for padding; its row sums are
                the rows' lengths, new tokens included. Several new tokens on top of a past are for batch 1.
            past_key_values: one (key, value) per layer, each [batch, kv_heads, past_sequence, head_size].
            num_logits_to_keep: logits of this many last positions only; 0 for all.

        Returns:
            logits float32 [batch, kept, vocabulary], and one (key, value) per layer, past + sequence long.
        """
        batch, sequence = input_ids.shape
        if past_key_values is None:
            past_key_values = self.empty_past(batch)
        lengths = attention_mask.sum(dim=-1, keepdim=True)  # [batch, 1]
        positions = new_positions(lengths, sequence)
        hidden = self.token_embedding(input_ids)  # [batch, sequence, hidden]
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        step = self.operator.prepare(positions, lengths, attention_mask, past_key_values[0][0])
        present = []
        for block, past in zip(self.blocks, past_key_values, strict=True):
            hidden, key_value = block(hidden, self.operator, past, step)
            present.append(key_value)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        if num_logits_to_keep:
            hidden = hidden[:, -num_logits_to_keep:]
        return self.head(hidden, self.token_embedding.weight), present

    def empty_past(self, batch: int) -> list[KeyValue]:
        """The state before the first token."""
        config = self.config
        shape = (batch, config.num_kv_heads, 0, config.head_size)
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_layers)]


class Block(nn.Module):
    """Attention and MLP, each with its norm before it (on its input) or after it (on the residual sum)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_place == "before"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)

    def forward(self, hidden: Tensor, operator: nn.Module, past: KeyValue, step: Any) -> Attended:
        """[batch, sequence, hidden] to the same shape, and the layer's present key and value."""
        if self.norm_first:
            attended, present = self.attention(self.attention_norm(hidden), operator, past, step)
            hidden = hidden + attended
            return hidden + self.mlp(self.mlp_norm(hidden)), present
        attended, present = self.attention(hidden, operator, past, step)
        hidden = self.attention_norm(hidden + attended)
        return self.mlp_norm(hidden + self.mlp(hidden)), present


class Attention(nn.Module):
    """The four projections around the attention operator."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        query_size, key_size = config.num_heads * config.head_size, config.num_kv_heads * config.head_size
        self.query = Linear(config.hidden_size, query_size, bias=config.attention_bias)
        self.key = Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.value = Linear(config.hidden_size, key_size, bias=config.attention_bias)
        self.output = Linear(query_size, config.hidden_size, bias=config.attention_output_bias)

    def forward(self, hidden: Tensor, operator: nn.Module, past: KeyValue, step: Any) -> Attended:
        """[batch, sequence, hidden] to the same shape, and the layer's present key and value."""
        attended, present = operator(self.query(hidden), self.key(hidden), self.value(hidden), past, step)
        return self.output(attended), present


class MLP(nn.Module):
    """down(activation(up(x))), or down(activation(gate(x)) * up(x)) when gated."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.activation = config.activation
        width = config.intermediate_size
        self.gate = Linear(config.hidden_size, width, bias=config.mlp_bias) if config.gated_mlp else None
        self.up = Linear(config.hidden_size, width, bias=config.mlp_bias)
        self.down = Linear(width, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """[batch, sequence, hidden] to the same shape."""
        if self.gate is None:
            inner = activate(self.up(hidden), self.activation)
        else:
            inner = activate(self.gate(hidden), self.activation) * self.up(hidden)
        result: Tensor = self.down(inner)
        return result


class Head(nn.Module):
    """Hidden states to logits, by a matrix of its own or by the token embedding's."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        shape = (config.hidden_size, config.vocab_size)
        self.weight = None if config.tied_head else nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if config.head_bias else None

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """[batch, kept, hidden] to [batch, kept, vocabulary]; `embedding` is [vocabulary, hidden]."""
        logits = hidden @ (embedding.T if self.weight is None else self.weight)
        return logits if self.bias is None else logits + self.bias


@dataclass(frozen=True)
class StandardStep:
    """What all layers of one step share."""

    positions: Tensor  # int64 [batch, sequence]
    bias: Tensor  # float32 [batch, 1, sequence, past + sequence]: 0 where a key is seen, else very negative


class StandardAttention(nn.Module):
    """Rotary position, cache and softmax attention in plain PyTorch operators."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.rotary = Rotary(config) if config.position == "rotary" else None

    def prepare(self, positions: Tensor, lengths: Tensor, attention_mask: Tensor, past: Tensor) -> StandardStep:
        """Compute once what every layer needs: here which keys each new position sees."""
        slots = torch.arange(past.shape[2] + positions.shape[1], device=positions.device)
        seen = slots <= positions.unsqueeze(1).unsqueeze(-1)  # [batch, 1, sequence, past + sequence]
        lowest = torch.finfo(torch.float32).min
        return StandardStep(positions, torch.where(seen, 0.0, lowest))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, past: KeyValue, step: StandardStep) -> Attended:
        """Attend from the new positions to all of their row.

        Args:
            query: [batch, sequence, heads * head_size].
            key: [batch, sequence, kv_heads * head_size], as is value.
            value: see key.
            past: key and value, [batch, kv_heads, past, head_size].
            step: what `prepare` made.

        Returns:
            [batch, sequence, heads * head_size]; key and value [batch, kv_heads, past + sequence, head_size].
        """
        config = self.config
        query = split_heads(query, config.num_heads)
        key, value = split_heads(key, config.num_kv_heads), split_heads(value, config.num_kv_heads)
        if self.rotary is not None:
            query, key = self.rotary(query, step.positions), self.rotary(key, step.positions)
        key, value = write_rows(past[0], key, step.positions), write_rows(past[1], value, step.positions)

        batch, heads, sequence, head_size = query.shape
        group_rows = heads // config.num_kv_heads * sequence
        # The heads of one group become rows against the group's one key head, which is thus never repeated.
        grouped = query.reshape(batch, config.num_kv_heads, group_rows, head_size)
        scores = (grouped * config.scale) @ key.transpose(2, 3)  # [batch, kv_heads, group * sequence, keys]
        scores = scores.reshape(batch, heads, sequence, -1) + step.bias
        weights = torch.softmax(scores, dim=-1).reshape(batch, config.num_kv_heads, group_rows, -1)
        attended = (weights @ value).reshape(batch, heads, sequence, head_size)
        return attended.transpose(1, 2).reshape(batch, sequence, heads * head_size), (key, value)


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021) of the leading `rotary_width` elements of each head."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.width = config.rotary_width
        self.interleaved = config.rotary_interleaved
        cosines, sines = rotary_tables(config)
        self.cosines: Tensor
        self.sines: Tensor
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("sines", sines, persistent=False)

    def forward(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Rotate [batch, heads, sequence, head_size] by `positions` [batch, sequence]."""
        cosines = functional.embedding(positions, self.cosines).unsqueeze(1)  # [batch, 1, sequence, width / 2]
        sines = functional.embedding(positions, self.sines).unsqueeze(1)
        turning, still = heads[..., : self.width], heads[..., self.width :]  # [batch, heads, sequence, …]
        if self.interleaved:
            first, second = turning[..., 0::2], turning[..., 1::2]
        else:
            first, second = turning[..., : self.width // 2], turning[..., self.width // 2 :]
        turned = (first * cosines - second * sines, second * cosines + first * sines)
        rotated = torch.stack(turned, dim=-1).flatten(-2) if self.interleaved else torch.cat(turned, dim=-1)
        return rotated if self.width == heads.shape[-1] else torch.cat((rotated, still), dim=-1)


class Linear(nn.Module):
    """y = x @ weight + bias with weight [in, out], as ONNX multiplies: graphs need no transposes."""

    def __init__(self, in_size: int, out_size: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_size, out_size))
        self.bias = nn.Parameter(torch.empty(out_size)) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, in] to […, out]."""
        product: Tensor = hidden @ self.weight
        return product if self.bias is None else product + self.bias


class Embedding(nn.Module):
    """Rows of a learned table."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, indices: Tensor) -> Tensor:
        """int64 […] to […, size]."""
        return functional.embedding(indices, self.weight)


class SinusoidalEmbedding(nn.Module):
    """The fixed table of Vaswani et al. 2017, section 3.5: sine at even elements, cosine at odd ones."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        frequencies = _SINUSOIDAL_BASE ** -(torch.arange(0, size, 2, dtype=torch.float64, device=_TABLES) / size)
        angles = torch.arange(rows, dtype=torch.float64, device=_TABLES)[:, None] * frequencies
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :size]
        self.table: Tensor
        self.register_buffer("table", table.float(), persistent=False)

    def forward(self, indices: Tensor) -> Tensor:
        """int64 […] to […, size]."""
        return functional.embedding(indices, self.table)


class LayerNorm(nn.Module):
    """Layer normalization over the last dimension; its bias is optional."""

    def __init__(self, size: int, epsilon: float, *, bias: bool) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size)) if bias else None

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, size] to the same shape."""
        return functional.layer_norm(hidden, self.weight.shape, self.weight, self.bias, self.epsilon)


class RMSNorm(nn.Module):
    """Root-mean-square normalization (Zhang and Sennrich 2019) over the last dimension."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.empty(size))

    def forward(self, hidden: Tensor) -> Tensor:
        """[…, size] to the same shape."""
        mean_square = hidden.square().mean(dim=-1, keepdim=True)
        return hidden / torch.sqrt(mean_square + self.epsilon) * self.weight


def make_norm(config: GPTConfig) -> nn.Module:
    """A norm over the hidden size, of the configured kind."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_epsilon)
    return LayerNorm(config.hidden_size, config.norm_epsilon, bias=config.norm_bias)


def activate(values: Tensor, activation: str) -> Tensor:
    """The MLP's non-linearity, named as in `GPTConfig.activation`."""
    if activation == "gelu":
        return functional.gelu(values)
    if activation == "gelu_tanh":
        return functional.gelu(values, approximate="tanh")
    if activation == "quick_gelu":
        return values * torch.sigmoid(1.702 * values)
    if activation == "silu":
        return values * torch.sigmoid(values)
    if activation == "relu":
        return functional.relu(values)
    raise ValueError(f"activation is {activation!r}: expected gelu, gelu_tanh, quick_gelu, relu or silu")


def new_positions(lengths: Tensor, sequence: int) -> Tensor:
    """Positions [batch, sequence] of the new tokens of rows whose `lengths` [batch, 1] count them too.

    A whole row (no past) starts at 0, a continued one at length - sequence. Without a past no row is longer
    than the sequence, so the larger of the two is right in both cases.
    """
    start = (lengths - sequence).clamp(min=0)
    return start + torch.arange(sequence, device=lengths.device)


def split_heads(values: Tensor, heads: int) -> Tensor:
    """[batch, sequence, heads * head_size] to [batch, heads, sequence, head_size]."""
    batch, sequence, width = values.shape
    return values.reshape(batch, sequence, heads, width // heads).transpose(1, 2)


def write_rows(past: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """The past [batch, kv_heads, past, head_size] with as many slots more, and `new` at its `positions`."""
    grown = torch.cat((past, new), dim=2)
    index = positions.unsqueeze(1).unsqueeze(-1).expand(new.shape)
    return grown.scatter(2, index, new)


def rotary_tables(config: GPTConfig) -> KeyValue:
    """Cosines and sines, each float32 [context_length, rotary_width / 2]."""
    width = config.rotary_width
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=_TABLES) / width
    frequencies = 1.0 / config.rotary_theta**exponents
    angles = torch.arange(config.context_length, dtype=torch.float32, device=_TABLES)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _position_embedding(config: GPTConfig) -> nn.Module | None:
    if config.position == "learned":
        return Embedding(config.context_length, config.hidden_size)
    if config.position == "sinusoidal":
        return SinusoidalEmbedding(config.context_length, config.hidden_size)
    return None
