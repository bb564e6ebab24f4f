"""Make megatron.npz: logits of tiny_megatron, converted by transformers' own script, for each order of its rows.

python tests/golden/make_megatron.py  (with transformers 4.50.3: later ones dropped the script)
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
import transformers
from tiny_megatron import PROMPT, VOCABULARY, write_tiny_megatron
from transformers.models.megatron_gpt2 import checkpoint_reshaping_and_interoperability as megatron_gpt2

HERE = Path(__file__).parent
VERSIONS = {"none": None, "0": 0, "1.0": 1.0, "2.0": 2.0, "3.0": 3.0}


class NoTokenizer:
    """The script also fetches and saves GPT-2's tokenizer, which no logits depend on."""

    @classmethod
    def from_pretrained(cls, _: str) -> NoTokenizer:
        """None is read."""
        return cls()

    def save_pretrained(self, _: str) -> None:
        """None is written."""


class ConvertedError(Exception):
    """Carries what the script made out of it, before it saves (which 4.50.3 does wrongly: a KeyError)."""


def hand_out(weights: dict[str, torch.Tensor], **_: object) -> None:
    """Stands where the script begins to save."""
    raise ConvertedError(weights)


def logits_of(version: float | None) -> np.ndarray:
    """Logits [positions, vocabulary] of the model that the script makes of the file."""
    with tempfile.TemporaryDirectory() as scratch, torch.serialization.safe_globals([Namespace]):
        source = write_tiny_megatron(Path(scratch) / "iter_0000100", version)
        target = Path(scratch) / "converted"
        megatron_gpt2.AutoTokenizer = NoTokenizer
        megatron_gpt2.split_torch_state_dict_into_shards = hand_out
        options = Namespace(
            load_path=str(source),
            save_path=str(target),
            tokenizer_name=None,
            max_shard_size="10GB",
            print_checkpoint_structure=False,
        )
        weights: dict[str, torch.Tensor] = {}
        try:
            megatron_gpt2.convert_checkpoint_from_megatron_to_transformers(options)
        except ConvertedError as converted:
            weights = converted.args[0]
        config = transformers.GPT2Config.from_pretrained(target)
    model = transformers.GPT2LMHeadModel(config).eval()
    left = model.load_state_dict(weights, strict=False)
    assert not left.missing_keys, left.missing_keys
    with torch.inference_mode():
        logits = model(torch.tensor([PROMPT])).logits[0].numpy()
    assert logits.shape == (len(PROMPT), VOCABULARY)
    return np.asarray(logits)


if __name__ == "__main__":
    np.savez(HERE / "megatron.npz", **{name: logits_of(version) for name, version in VERSIONS.items()})
