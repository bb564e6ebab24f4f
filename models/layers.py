"""The parts that a GPT is put together from: matrices, embeddings, norms and activations."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GPTConfig

_SINUSOIDAL_BASE = 10000.0  # Vaswani et al. 2017, section 3.5
_TABLES = torch.device("cpu")  # computed here even where parameters are made on "meta" and loaded afterwards


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
        return rms_norm(hidden, self.weight, self.epsilon)


class HeadNorm(nn.Module):
    """The configured kind of norm over each head by itself, with weights for all heads or for each."""

    def __init__(self, config: GPTConfig, heads: int) -> None:
        super().__init__()
        shape = (config.head_size,) if config.query_key_norm == "shared" else (heads, config.head_size)
        self.heads = heads
        self.norm = config.norm
        self.epsilon = config.norm_epsilon
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape)) if config.query_key_norm_bias else None

    def forward(self, values: Tensor) -> Tensor:
        """[batch, sequence, heads * head_size] to the same shape."""
        batch, sequence, width = values.shape
        split = values.reshape(batch, sequence, self.heads, width // self.heads)
        if self.norm == "rmsnorm":
            normed = rms_norm(split, self.weight, self.epsilon)
        elif self.weight.dim() == 1:
            normed = functional.layer_norm(split, self.weight.shape, self.weight, self.bias, self.epsilon)
        else:
            normed = functional.layer_norm(split, split.shape[-1:], eps=self.epsilon) * self.weight
            normed = normed if self.bias is None else normed + self.bias
        return normed.reshape(batch, sequence, width)


def make_norm(config: GPTConfig) -> nn.Module:
    """A norm over the hidden size, of the configured kind."""
    if config.norm == "rmsnorm":
        return RMSNorm(config.hidden_size, config.norm_epsilon)
    return LayerNorm(config.hidden_size, config.norm_epsilon, bias=config.norm_bias)


def make_head_norm(config: GPTConfig, heads: int) -> HeadNorm | None:
    """The norm over queries or keys, where there is one."""
    return None if config.query_key_norm is None else HeadNorm(config, heads)


def rms_norm(hidden: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """hidden / sqrt(mean(hidden ** 2) + epsilon) * weight, over the last dimension."""
    mean_square = hidden.square().mean(dim=-1, keepdim=True)
    return hidden / torch.sqrt(mean_square + epsilon) * weight


def soft_cap(values: Tensor, cap: float) -> Tensor:
    """Values bent smoothly into (-cap, cap) (Gemma 2 report, section 2)."""
    return torch.tanh(values / cap) * cap


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
