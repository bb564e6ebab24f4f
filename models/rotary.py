"""Rotary position embedding (Su et al. 2021): the frequencies, their scalings for longer contexts, and the tables."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from .config import GPTConfig, RotaryScaling

_TABLES = torch.device("cpu")  # computed here even where parameters are made on "meta" and loaded afterwards


class RotaryTables(nn.Module):
    """Cosines and sines of every position, each float32 [context_length, rotary_width / 2]."""

    def __init__(self, config: GPTConfig, *, local: bool = False) -> None:
        super().__init__()
        theta, scaling = config.rotary_theta, config.rotary_scaling
        if local:
            assert config.local_rotary_theta is not None
            theta, scaling = config.local_rotary_theta, None
        frequencies = rotary_frequencies(config.rotary_width, theta, scaling)
        angles = torch.arange(config.context_length, dtype=torch.float32, device=_TABLES)[:, None] * frequencies
        amplitude = scaling.attention_factor if scaling else 1.0
        self.cosines: Tensor
        self.sines: Tensor
        self.register_buffer("cosines", angles.cos() * amplitude, persistent=False)
        self.register_buffer("sines", angles.sin() * amplitude, persistent=False)


class Rotary(RotaryTables):
    """Rotates the leading `rotary_width` elements of each head."""

    def __init__(self, config: GPTConfig, *, local: bool = False) -> None:
        super().__init__(config, local=local)
        self.width = config.rotary_width
        self.interleaved = config.rotary_interleaved

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


def rotary_frequencies(width: int, theta: float, scaling: RotaryScaling | None = None) -> Tensor:
    """Radians per position of each pair of elements, float32 [width / 2], computed as transformers computes them."""
    exponents = torch.arange(0, width, 2, dtype=torch.float32, device=_TABLES) / width
    frequencies = 1.0 / theta**exponents
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "longrope":
        return frequencies / torch.tensor(scaling.factors, dtype=torch.float32, device=_TABLES)
    if scaling.kind == "llama3":
        return _llama3(frequencies, scaling)
    return _yarn(frequencies, width, theta, scaling)


def _llama3(frequencies: Tensor, scaling: RotaryScaling) -> Tensor:
    """Llama 3.1: slow turns are slowed by the factor, fast ones stay, between them the two are mixed."""
    assert scaling.original_context is not None
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    turns = scaling.original_context * frequencies / (2 * math.pi)  # within the original context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def _yarn(frequencies: Tensor, width: int, theta: float, scaling: RotaryScaling) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): as llama3, with the mixture linear in the pair's index."""
    assert scaling.original_context is not None

    def index_of(turns: float) -> float:
        """The index, not whole, of the pair that turns so often within the original context."""
        return width * math.log(scaling.original_context / (turns * 2 * math.pi)) / (2 * math.log(theta))  # type: ignore[operator]

    first, last = index_of(scaling.beta_fast), index_of(scaling.beta_slow)
    if scaling.truncated:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = last - first if last != first else 0.001
    scaled = ((torch.arange(width // 2, dtype=torch.float32, device=_TABLES) - first) / span).clamp(0, 1)
    return (1 - scaled) * frequencies + scaled * frequencies / scaling.factor
