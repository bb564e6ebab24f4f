"""Rotary positions as configs write them, against transformers' own functions and their defaults."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from onnxgpt.models.config_fields import ConfigReader
from onnxgpt.models.rotary import rotary_frequencies
from onnxgpt.models.rotary_fields import RotaryChoice, read_rotary
from onnxgpt.runtime.errors import CheckpointError, UnsupportedModelError

HEAD_SIZE = 16
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
DIVISORS = {"short_factor": [1.0 + 0.05 * i for i in range(8)], "long_factor": [2.0 + 0.5 * i for i in range(8)]}
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default"},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": LLAMA3 | {"original_max_position_embeddings": 64},
    "llama3, no original": LLAMA3,
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128},
    "yarn, no original": {"rope_type": "yarn", "factor": 4.0},
    "yarn, factor from the lengths": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 128},
    "yarn, magnitude given": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 0.8},
    "yarn, magnitudes inferred": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 1.0},
    "yarn, one magnitude alone": {"rope_type": "yarn", "factor": 40.0, "mscale": 0.707},
    "yarn, betas": {"rope_type": "yarn", "factor": 8, "beta_fast": 16, "beta_slow": 2, "truncate": False},
    "yarn, no longer": {"rope_type": "yarn", "factor": 0.5},
    "longrope": {"rope_type": "longrope", "original_max_position_embeddings": 128, **DIVISORS},
    "longrope, factor": {"rope_type": "longrope", "original_max_position_embeddings": 128, "factor": 32.0, **DIVISORS},
    "longrope, magnitude": {"rope_type": "longrope", "original_max_position_embeddings": 128, **DIVISORS}
    | {"attention_factor": 1.19},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0},
}


def read(data: dict[str, Any], **options: Any) -> RotaryChoice:
    fields = ConfigReader(data, "config.json")
    choice = read_rotary(fields, head_size=HEAD_SIZE, max_positions=512, **options)
    fields.finish()
    return choice


@pytest.mark.parametrize("release", [4, 5])
@pytest.mark.parametrize("name", SCALINGS)
def test_frequencies_are_those_of_transformers(name: str, release: int) -> None:
    scaling = SCALINGS[name]
    if release == 4:
        data: dict[str, Any] = {"rope_theta": 5000.0, "rope_scaling": {"type": scaling["rope_type"], **scaling}}
        del data["rope_scaling"]["rope_type"]
    else:
        data = {"rope_parameters": {"rope_theta": 5000.0, **scaling}}
    choice = read(data)

    sizes = {"hidden_size": 4 * HEAD_SIZE, "num_attention_heads": 4, "max_position_embeddings": 512}
    config = transformers.LlamaConfig(**sizes, rope_parameters={"rope_theta": 5000.0, **scaling})
    if name == "default":
        frequencies, amplitude = 5000.0 ** -(torch.arange(0, HEAD_SIZE, 2) / HEAD_SIZE), 1.0
    else:
        frequencies, amplitude = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config)
    ours = rotary_frequencies(HEAD_SIZE, choice.theta, choice.scaling)
    torch.testing.assert_close(ours, frequencies, rtol=1e-6, atol=0)
    assert (choice.scaling.attention_factor if choice.scaling else 1.0) == pytest.approx(amplitude, rel=1e-12)
    assert choice.context_length == (128 if name.startswith("longrope") else 512)


def test_scalings_that_depend_on_the_length_are_for_the_original_context_and_said_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="onnxgpt"):
        assert read({"rope_scaling": {"type": "dynamic", "factor": 2.0}}).context_length == 512
        assert not caplog.records
        assert read({"rope_scaling": SCALINGS["longrope"]}).context_length == 128
        (record,) = caplog.records
        assert "longrope" in record.getMessage()
        assert "first 128 positions, not for 512" in record.getMessage()
        dynamic = {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 256}
        assert read({"rope_scaling": dynamic}) == RotaryChoice(
            theta=10000.0, scaling=None, size=None, context_length=256
        )


def test_phi3s_original_context_stands_outside_and_su_is_longrope() -> None:
    choice = read({
        "rope_scaling": {"type": "su", **DIVISORS}, "rope_theta": 1e4, "original_max_position_embeddings": 32,
    })  # fmt: skip
    assert choice == read({"rope_scaling": SCALINGS["longrope"] | {"original_max_position_embeddings": 32}})
    assert choice.context_length == 32


def test_the_share_that_rotates_is_read_where_the_family_has_one() -> None:
    half = {"rope_parameters": {"partial_rotary_factor": 0.5}}
    assert read(half, default_share=0.25).size == 8
    assert read({}, default_share=0.25).size == 4
    assert read({"partial_rotary_factor": 1.0}, default_share=0.25).size is None
    assert read({"rotary_pct": 0.5, "rotary_emb_base": 77}, default_share=1.0, share_fields=("rotary_pct",),
                theta_fields=("rotary_emb_base",)) == RotaryChoice(
        theta=77.0, scaling=None, size=8, context_length=512
    )  # fmt: skip
    for data in (half, {"partial_rotary_factor": 0.5}):
        with pytest.raises(UnsupportedModelError, match="partial_rotary_factor"):
            read(data)


def test_layer_types_have_entries_of_their_own() -> None:
    data = {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 900.0},
        }
    }
    assert read(data, layer_type="sliding_attention").theta == 100.0
    full = read(data, layer_type="full_attention")
    assert full.theta == 900.0
    assert full.scaling is not None
    assert full.scaling.factor == 8.0
    with pytest.raises(CheckpointError, match="rope_theta"):
        read({"rope_parameters": {"rope_theta": 100.0}}, layer_type="full_attention")
    with pytest.raises(UnsupportedModelError, match="full_attention"):
        read(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}}, "mrope"),
        ({"rope_scaling": {"type": ["yarn"]}}, "yarn"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "proportional"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mystery": 3}}, "mystery"),
        ({"rope_parameters": {"factor": 2.0}}, "factor"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(data: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        read(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"rope_theta": 1.0, "rope_parameters": {"rope_theta": 2.0}}, "disagree"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "disagree"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "default"}}, "disagree"),
        ({"rope_scaling": SCALINGS["longrope"], "original_max_position_embeddings": 64}, "128.*64|64.*128"),
        ({"rope_parameters": "default"}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "linear"}}, "factor"),
        ({"rope_parameters": {"rope_type": "linear", "factor": -2.0}}, "factor"),
        ({"rope_parameters": LLAMA3 | {"high_freq_factor": 1.0}}, "high_freq_factor"),
        ({"rope_parameters": LLAMA3 | {"low_freq_factor": None}}, "low_freq_factor"),
        ({"rope_parameters": SCALINGS["longrope"] | {"short_factor": [1.0, 2.0]}}, "short_factor has 2 numbers"),
        ({"rope_parameters": SCALINGS["longrope"] | {"short_factor": "none"}}, "short_factor"),
        ({"rope_parameters": SCALINGS["longrope"] | {"long_factor": None}}, "long_factor"),
        ({"rope_theta": "wide"}, "rope_theta"),
    ],
)
def test_entries_that_disagree_or_are_out_of_range_are_refused(data: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read(data)
    assert "\n" not in str(caught.value)
