"""How attention and rotary position enter the graph: the two operator sets and their modules for `GPT.operator`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..graphs.targets import Operators, Target
from ..models.attention import Alibi, Attended, KeyValue, StandardAttention
from ..models.config import GPTConfig
from ..models.rotary import RotaryTables

CONTRIB = "com.microsoft"  # the domain of ONNX Runtime's own operators

_ATTENTION_HEAD_MULTIPLE = 8  # GroupQueryAttention's kernels refuse other head sizes
_BIAS_INPUT = 10  # its index among the operator's inputs, the optional ones counted
_ROTARY_MULTIPLE = 16  # … and, when they rotate, other head sizes and rotary widths


@dataclass(frozen=True)
class FusedStep:
    """What all layers of one step share."""

    positions: Tensor  # int64 [batch, sequence]; read only where rotary is outside of the attention operator
    last_indices: Tensor  # int32 [batch, 1]: row length - 1
    total_sequence: Tensor  # int32, no dimension: the longest row, padding included
    bias: Tensor | None  # ALiBi's, float32 [batch, heads, sequence, total_sequence]


class FusedAttention(nn.Module):
    """ONNX Runtime's `GroupQueryAttention`, for export only: past and present may share one buffer.

    Rotary position is applied inside of the operator where its kernels allow, by `RotaryEmbedding` before it elsewhere.
    """

    shares_cache_buffer = True

    def __init__(self, config: GPTConfig, target: Target) -> None:
        super().__init__()
        self.config = config
        self.rotates = config.position == "rotary"
        self.rotates_inside = self.rotates and rotary_fits_inside(config) and not target.plain_attention
        self.rotary = RotaryTables(config) if self.rotates else None
        self.local_rotary = RotaryTables(config, local=True) if config.local_rotary_theta is not None else None
        self.alibi = Alibi(config.num_heads) if config.position == "alibi" else None

    def prepare(self, positions: Tensor, lengths: Tensor, attention_mask: Tensor, past: Tensor) -> FusedStep:
        """Compute once what every layer needs: the rows' lengths as the operator counts them."""
        total_sequence = torch.scalar_tensor(attention_mask.shape[1], dtype=torch.int32)
        bias = None
        if self.alibi is not None:
            bias = self.alibi(positions, torch.arange(attention_mask.shape[1], device=positions.device))
        return FusedStep(positions, (lengths - 1).to(torch.int32), total_sequence, bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, past: KeyValue, step: FusedStep, layer: int
    ) -> Attended:
        """As `StandardAttention.forward`; symbolic, so it runs under `torch.onnx.export` only."""
        config = self.config
        tables = self.local_rotary if config.rotates_locally(layer) else self.rotary
        if tables is not None and not self.rotates_inside:
            query = self._rotate(query, config.num_heads, step.positions, tables)
            key = self._rotate(key, config.num_kv_heads, step.positions, tables)
        inputs: list[Tensor | None] = [query, key, value, *past, step.last_indices, step.total_sequence]
        attributes: dict[str, Any] = {
            "num_heads": config.num_heads,
            "kv_num_heads": config.num_kv_heads,
            "scale": config.scale(layer),
        }
        if narrows(config, layer):
            attributes["local_window_size"] = config.window(layer)
        if config.attention_softcap is not None:
            attributes["softcap"] = config.attention_softcap
        if tables is not None and self.rotates_inside:
            inputs += [tables.cosines, tables.sines]
            attributes |= {"do_rotary": 1, "rotary_interleaved": int(config.rotary_interleaved)}
        if step.bias is not None:
            inputs += [None] * (_BIAS_INPUT - len(inputs)) + [step.bias]
        batch, sequence, _ = query.shape
        present_shape = (batch, config.num_kv_heads, past[0].shape[2] + sequence, config.head_size)
        attended, present_key, present_value = torch.onnx.ops.symbolic_multi_out(
            f"{CONTRIB}::GroupQueryAttention",
            inputs,
            attributes,
            dtypes=[torch.float32] * 3,
            shapes=[query.shape, present_shape, present_shape],
            version=1,
        )
        return attended, (present_key, present_value)

    def _rotate(self, values: Tensor, heads: int, positions: Tensor, tables: RotaryTables) -> Tensor:
        """Rotate [batch, sequence, heads * head_size] by `positions` [batch, sequence]."""
        return torch.onnx.ops.symbolic(
            f"{CONTRIB}::RotaryEmbedding",
            [values, positions, tables.cosines, tables.sines],
            {
                "interleaved": int(self.config.rotary_interleaved),
                "num_heads": heads,
                "rotary_embedding_dim": self.config.rotary_width,
            },
            dtype=torch.float32,
            shape=values.shape,
            version=1,
        )


def attention_for(config: GPTConfig, operators: Operators, target: Target) -> FusedAttention | StandardAttention:
    """The attention that is exported: the fused one where it was asked for and has a kernel, else the standard one."""
    fits = config.head_size % _ATTENTION_HEAD_MULTIPLE == 0
    fits &= target.biased_attention or config.position != "alibi"
    if operators == "fused" and fits and not (target.plain_attention and asks_more(config)):
        return FusedAttention(config, target)
    return StandardAttention(config) if target.scatters else StandardAttention(config, place_rows)


def asks_more(config: GPTConfig) -> bool:
    """Whether attention is more than scaled scores, a softmax and positions that are rotated before it."""
    return (
        config.position == "alibi"
        or config.attention_softcap is not None
        or any(narrows(config, layer) for layer in range(config.num_layers))
    )


def narrows(config: GPTConfig, layer: int) -> bool:
    """Whether a layer's window hides anything within the context."""
    return 0 < config.window(layer) < config.context_length


def place_rows(past: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """As `write_rows`, by a choice instead of a scatter, which not every target has.

    A single new token goes to its own place. Several follow a past that is as long as the row, as the contract has it
    (several tokens on top of a past are for batch 1, and a past not in a shared buffer has no slots to spare).
    """
    grown = torch.cat((past, new), dim=2)
    slots = torch.arange(grown.shape[2], device=new.device).reshape(1, 1, -1, 1)
    place = positions[:, :1].unsqueeze(1).unsqueeze(-1)  # [batch, 1, 1, 1]: of the first new token
    return torch.where(slots == place, new[:, :, :1], grown)


def rotary_fits_inside(config: GPTConfig) -> bool:
    """Whether `GroupQueryAttention` can rotate heads of this size and rotary width itself."""
    return config.head_size % _ROTARY_MULTIPLE == 0 and config.rotary_width % _ROTARY_MULTIPLE == 0
