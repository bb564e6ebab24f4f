"""The GPT against formulas written out by hand in float64: token by token, head by head, without a cache."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from onnxgpt.models.config import GPTConfig
from onnxgpt.models.gpt import GPT

SIZES: dict[str, Any] = {
    "family": "test",
    "vocab_size": 40,
    "context_length": 24,
    "hidden_size": 24,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_size": 8,
    "intermediate_size": 20,
}
GPT2 = {"position": "learned", "norm": "layernorm", "activation": "gelu_tanh", "tied_head": True}
LLAMA = {"position": "rotary", "norm": "rmsnorm", "activation": "silu", "gated_mlp": True, "tied_head": False}
NO_BIAS = {"attention_bias": False, "attention_output_bias": False, "mlp_bias": False}
CONFIGS = {
    "gpt2": GPT2 | {"num_kv_heads": 4},
    "llama": LLAMA | NO_BIAS,
    "partial interleaved rotary": LLAMA | {"rotary_size": 6, "rotary_interleaved": True, "rotary_theta": 500.0},
    "partial rotary": GPT2 | {"position": "rotary", "rotary_size": 4},
    "sinusoidal, relu, norms after": GPT2
    | {"position": "sinusoidal", "activation": "relu", "norm_place": "after", "final_norm": False},
    "rms norms after, erf gelu": LLAMA | {"norm_place": "after", "activation": "gelu", "gated_mlp": False},
    "one key head, quick gelu, head bias, scale, no norm bias": GPT2
    | {
        "num_kv_heads": 1,
        "activation": "quick_gelu",
        "head_bias": True,
        "attention_scale": 0.2,
        "norm_bias": False,
        "tied_head": False,
    },
}


def random_gpt(**changes: Any) -> GPT:
    gpt = GPT(GPTConfig(**(SIZES | changes)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in gpt.parameters():
            parameter.normal_(0.0, 0.4, generator=generator)
    return gpt.eval().requires_grad_(False)


def ids_of(length: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, SIZES["vocab_size"], (1, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_follow_the_formulas(name: str) -> None:
    gpt = random_gpt(**CONFIGS[name])
    ids = ids_of(9)
    logits, _ = gpt(ids, torch.ones_like(ids))
    np.testing.assert_allclose(logits[0].numpy(), by_hand(gpt, ids[0].tolist()), atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_chunks_and_single_steps_give_the_logits_of_the_whole(name: str) -> None:
    gpt = random_gpt(**CONFIGS[name])
    ids = ids_of(11)
    whole, _ = gpt(ids, torch.ones_like(ids))
    past, pieces = None, []
    for start, stop in ((0, 4), (4, 8), (8, 9), (9, 10), (10, 11)):
        piece, past = gpt(ids[:, start:stop], torch.ones((1, stop), dtype=torch.int64), past)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-5, rtol=0)


def test_rows_of_unequal_length_are_as_alone() -> None:
    gpt = random_gpt(**CONFIGS["llama"])
    long, short = ids_of(8, 1), ids_of(8, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0, 0]])
    logits, past = gpt(torch.cat((long[:, :7], short[:, :7])), mask)  # the short row's last four are padding
    torch.testing.assert_close(logits[1, :3], alone(gpt, short[:, :3]), atol=1e-5, rtol=0)

    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0, 0, 0]])
    logits, _ = gpt(torch.stack((long[0, 7:], short[0, 3:4])), mask, past)
    torch.testing.assert_close(logits[0, -1], alone(gpt, long)[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(logits[1, -1], alone(gpt, short[:, :4])[-1], atol=1e-5, rtol=0)


def test_only_the_last_logits_are_given_when_asked() -> None:
    gpt = random_gpt(**CONFIGS["gpt2"])
    ids = ids_of(6)
    whole = alone(gpt, ids)
    kept, _ = gpt(ids, torch.ones_like(ids), None, 2)
    torch.testing.assert_close(kept[0], whole[-2:], atol=1e-6, rtol=0)


def test_a_tied_head_has_no_matrix_of_its_own() -> None:
    names = set(random_gpt(**GPT2).state_dict())
    assert "head.weight" not in names
    assert "head.weight" in set(random_gpt(**LLAMA).state_dict())
    assert not any(name.startswith("operator") for name in names)


def alone(gpt: GPT, ids: torch.Tensor) -> torch.Tensor:
    return gpt(ids, torch.ones_like(ids))[0][0]


# What follows shares no line with the code under test: float64, loops, complex numbers for rotations.


def by_hand(gpt: GPT, ids: list[int]) -> np.ndarray:
    config = gpt.config
    weights = {name: value.double().numpy() for name, value in gpt.state_dict().items()}
    states = [weights["token_embedding.weight"][token].copy() for token in ids]
    for position, state in enumerate(states):
        if config.position == "learned":
            state += weights["position_embedding.weight"][position]
        if config.position == "sinusoidal":
            for element in range(config.hidden_size):
                angle = position / 10000 ** ((element - element % 2) / config.hidden_size)
                state[element] += math.cos(angle) if element % 2 else math.sin(angle)
    for layer in range(config.num_layers):
        part = {
            name.removeprefix(f"blocks.{layer}."): value
            for name, value in weights.items()
            if name.startswith(f"blocks.{layer}.")
        }
        if config.norm_place == "before":
            attended = attention(config, part, [norm(config, part, "attention_norm", state) for state in states])
            states = [state + new for state, new in zip(states, attended, strict=True)]
            states = [state + mlp(config, part, norm(config, part, "mlp_norm", state)) for state in states]
        else:
            attended = attention(config, part, states)
            states = [
                norm(config, part, "attention_norm", state + new) for state, new in zip(states, attended, strict=True)
            ]
            states = [norm(config, part, "mlp_norm", state + mlp(config, part, state)) for state in states]
    if config.final_norm:
        states = [norm(config, weights, "final_norm", state) for state in states]
    matrix = weights["token_embedding.weight"].T if config.tied_head else weights["head.weight"]
    return np.array(states) @ matrix + weights.get("head.bias", 0.0)


def norm(config: GPTConfig, weights: dict[str, np.ndarray], name: str, state: np.ndarray) -> np.ndarray:
    if config.norm == "rmsnorm":
        return state / math.sqrt((state**2).mean() + config.norm_epsilon) * weights[f"{name}.weight"]
    centred = state - state.mean()
    scaled = centred / math.sqrt((centred**2).mean() + config.norm_epsilon)
    return scaled * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0)


def project(weights: dict[str, np.ndarray], name: str, state: np.ndarray) -> np.ndarray:
    return state @ weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0.0)


def rotate(config: GPTConfig, head: np.ndarray, position: int) -> np.ndarray:
    turned, width = head.copy(), config.rotary_width
    for pair in range(width // 2):
        first, second = (2 * pair, 2 * pair + 1) if config.rotary_interleaved else (pair, pair + width // 2)
        angle = position * config.rotary_theta ** (-2 * pair / width)
        number = complex(head[first], head[second]) * complex(math.cos(angle), math.sin(angle))
        turned[first], turned[second] = number.real, number.imag
    return turned


def attention(config: GPTConfig, weights: dict[str, np.ndarray], states: list[np.ndarray]) -> list[np.ndarray]:
    size, results = config.head_size, []
    queries, keys, values = ([project(weights, f"attention.{part}", s) for s in states] for part in PARTS)
    scale = 1 / math.sqrt(size) if config.attention_scale is None else config.attention_scale
    for position in range(len(states)):
        heads = []
        for head in range(config.num_heads):
            shared = head * config.num_kv_heads // config.num_heads
            query = queries[position][head * size : (head + 1) * size]
            scores = []
            for seen in range(position + 1):
                key = keys[seen][shared * size : (shared + 1) * size]
                if config.position == "rotary":
                    scores.append(rotate(config, query, position) @ rotate(config, key, seen) * scale)
                else:
                    scores.append(query @ key * scale)
            shares = np.exp(np.array(scores) - max(scores))
            shares /= shares.sum()
            heads.append(
                sum(share * values[seen][shared * size : (shared + 1) * size] for seen, share in enumerate(shares))
            )
        results.append(project(weights, "attention.output", np.concatenate(heads)))
    return results


PARTS = ("query", "key", "value")


def mlp(config: GPTConfig, weights: dict[str, np.ndarray], state: np.ndarray) -> np.ndarray:
    up = project(weights, "mlp.up", state)
    if config.gated_mlp:
        return project(weights, "mlp.down", nonlinear(config, project(weights, "mlp.gate", state)) * up)
    return project(weights, "mlp.down", nonlinear(config, up))


def nonlinear(config: GPTConfig, values: np.ndarray) -> np.ndarray:
    def one(x: float) -> float:
        if config.activation == "relu":
            return max(x, 0.0)
        if config.activation == "silu":
            return x / (1 + math.exp(-x))
        if config.activation == "quick_gelu":
            return x / (1 + math.exp(-1.702 * x))
        if config.activation == "gelu":
            return 0.5 * x * (1 + math.erf(x / math.sqrt(2)))
        return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    return np.array([one(float(value)) for value in values])
