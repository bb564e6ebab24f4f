"""Make lora/: adapters as the peft package saves them, and the logits of its own adapted models.

python tests/golden/make_lora.py  (with peft installed beside torch and transformers; made with peft 0.21.2)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tiny_gpt2 import tiny_gpt2
from tiny_llama import VOCABULARY, tiny_llama

HERE = Path(__file__).parent

PROMPT = [1, 7, 33, 60, 12, 12, 5, 48, 21, 3, 59, 30]  # of both models' vocabulary
CASES: dict[str, dict[str, Any]] = {
    "llama": {
        "r": 4,
        "lora_alpha": 6,
        "use_rslora": True,
        "target_modules": ["q_proj", "v_proj", "down_proj", "embed_tokens"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2, r".*\.down_proj": 3},
        "alpha_pattern": {"v_proj": 11},
        "modules_to_save": ["lm_head"],
    },
    "gpt2": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ["c_attn", "c_proj", "c_fc"],
        "layers_to_transform": [1],
        "bias": "lora_only",
        "fan_in_fan_out": True,
    },
}


def adapted(model: transformers.PreTrainedModel, settings: dict[str, Any], seed: int) -> Any:
    """The model with an adapter whose every weight matters."""
    import peft

    changed = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **settings)).eval()
    random = np.random.RandomState(seed)
    with torch.no_grad():
        for _, weight in sorted(changed.named_parameters()):
            if weight.requires_grad:
                weight.copy_(torch.from_numpy(random.standard_normal(tuple(weight.shape)).astype(np.float32)) * 0.3)
    return changed


def main() -> None:
    """Write a directory for each case."""
    for seed, (name, settings) in enumerate(CASES.items()):
        model = adapted({"llama": tiny_llama, "gpt2": tiny_gpt2}[name](), settings, seed)
        directory = HERE / "lora" / name
        shutil.rmtree(directory, ignore_errors=True)
        model.save_pretrained(directory)
        (directory / "README.md").unlink(missing_ok=True)
        with torch.inference_mode():
            logits = model(torch.tensor([PROMPT])).logits[0].numpy()
        assert logits.shape == (len(PROMPT), VOCABULARY)
        np.save(directory / "logits.npy", logits)


if __name__ == "__main__":
    main()
