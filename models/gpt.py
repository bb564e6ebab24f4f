"""The GPT in PyTorch: embeddings, blocks, final norm and head, with past key values going in and coming out.

The forward pass follows one contract, in eager PyTorch and in the exported graph alike: rows are right-
padded, a row's length is the sum of its mask, positions come from the mask, and every row's new keys are
written at its own positions. How queries meet keys is a module of its own, `GPT.operator`, which an
export may replace by a fused one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .attention import Attended, Attention, KeyValue, StandardAttention
from .config import GPTConfig
from .layers import Embedding, Linear, SinusoidalEmbedding, activate, make_norm, soft_cap


class GPT(nn.Module):
    """A decoder-only transformer, every choice taken from its `GPTConfig`; parameters are not initialized."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.embedding_width)
        self.input_projection = _projection(config, config.embedding_size, config.hidden_size)
        self.position_embedding = _position_embedding(config)
        self.embedding_norm = make_norm(config) if config.embedding_norm else None
        self.operator = StandardAttention(config)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.num_layers))
        self.final_norm = make_norm(config) if config.final_norm else None
        self.output_projection = _projection(config, config.hidden_size, config.embedding_size)
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
        hidden = self._embed(input_ids, positions)
        step = self.operator.prepare(positions, lengths, attention_mask, past_key_values[0][0])
        present = []
        for block, past in zip(self.blocks, past_key_values, strict=True):
            hidden, key_value = block(hidden, self.operator, past, step)
            present.append(key_value)
        if self.final_norm is not None:
            hidden = self.final_norm(hidden)
        if num_logits_to_keep:
            hidden = hidden[:, -num_logits_to_keep:]
        if self.output_projection is not None:
            hidden = self.output_projection(hidden)
        return self.head(hidden, self.token_embedding.weight), present

    def _embed(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """Token ids and positions, both [batch, sequence], to [batch, sequence, hidden]."""
        hidden: Tensor = self.token_embedding(input_ids)
        if self.config.embedding_scale != 1.0:
            hidden = hidden * self.config.embedding_scale
        if self.input_projection is not None:
            hidden = self.input_projection(hidden)
        if self.position_embedding is not None:
            hidden = hidden + self.position_embedding(positions)
        return hidden if self.embedding_norm is None else self.embedding_norm(hidden)

    def empty_past(self, batch: int) -> list[KeyValue]:
        """The state before the first token."""
        config = self.config
        shape = (batch, config.num_kv_heads, 0, config.head_size)
        return [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_layers)]


class Block(nn.Module):
    """Attention and MLP, one after the other or side by side, with their norms where the configuration puts them."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.config = config
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config) if config.mlp_norm else None
        self.mlp = MLP(config)
        normed_behind = config.norm_place == "both"
        self.attention_post_norm = make_norm(config) if normed_behind else None
        self.mlp_post_norm = make_norm(config) if normed_behind else None

    def forward(self, hidden: Tensor, operator: nn.Module, past: KeyValue, step: Any) -> Attended:
        """[batch, sequence, hidden] to the same shape, and the layer's present key and value."""
        if self.config.norm_place == "after":
            attended, present = self.attention(hidden, operator, past, step)
            hidden = self.attention_norm(hidden + attended)
            assert self.mlp_norm is not None
            return self.mlp_norm(hidden + self.mlp(hidden)), present

        normed = self.attention_norm(hidden)
        attended, present = self.attention(normed, operator, past, step)
        if self.config.residual != "sequential":
            if self.mlp_norm is not None:
                normed = self.mlp_norm(hidden)
            return hidden + attended + self.mlp(normed), present

        if self.attention_post_norm is not None:
            attended = self.attention_post_norm(attended)
        hidden = (normed if self.config.residual_from_norm else hidden) + attended
        assert self.mlp_norm is not None
        normed = self.mlp_norm(hidden)
        result = self.mlp(normed)
        if self.mlp_post_norm is not None:
            result = self.mlp_post_norm(result)
        return (normed if self.config.residual_from_norm else hidden) + result, present


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
        shape = (config.embedding_width, config.vocab_size)
        self.softcap = config.logit_softcap
        self.weight = None if config.tied_head else nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(config.vocab_size)) if config.head_bias else None

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """[batch, kept, hidden] to [batch, kept, vocabulary]; `embedding` is [vocabulary, hidden]."""
        logits = hidden @ (embedding.T if self.weight is None else self.weight)
        if self.bias is not None:
            logits = logits + self.bias
        return logits if self.softcap is None else soft_cap(logits, self.softcap)


def new_positions(lengths: Tensor, sequence: int) -> Tensor:
    """Positions [batch, sequence] of the new tokens of rows whose `lengths` [batch, 1] count them too.

    A whole row (no past) starts at 0, a continued one at length - sequence. Without a past no row is longer
    than the sequence, so the larger of the two is right in both cases.
    """
    start = (lengths - sequence).clamp(min=0)
    return start + torch.arange(sequence, device=lengths.device)


def _position_embedding(config: GPTConfig) -> nn.Module | None:
    if config.position == "learned":
        return Embedding(config.context_length, config.hidden_size)
    if config.position == "sinusoidal":
        return SinusoidalEmbedding(config.context_length, config.hidden_size)
    return None


def _projection(config: GPTConfig, in_size: int | None, out_size: int | None) -> Linear | None:
    return None if in_size is None or out_size is None else Linear(in_size, out_size, bias=False)
