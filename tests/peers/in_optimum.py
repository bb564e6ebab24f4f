"""Runs in the environment of optimum: makes tiny checkpoints, exports, merges, and generates. No part of onnxgpt here.

in_optimum.py make DIRECTORY            tiny random checkpoints, one folder each
in_optimum.py make_others DIRECTORY     the same of architectures that onnxgpt has no GPT for
in_optimum.py export SOURCE TARGET …    optimum's export of pairs of folders
in_optimum.py merge SOURCE TARGET       the same export as one graph with use_cache_branch
in_optimum.py generate TEXT NEW DIR …   greedy tokens of ORTModelForCausalLM, one JSON line for each folder
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

VOCABULARY = 257  # the bytes, and an end of text


def make(target: str) -> None:
    """Save GPT-2, GPT-NeoX, OPT and Llama with random weights, and a tokenizer of bytes."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, OPTConfig

    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": VOCABULARY}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    configs = {
        "gpt2": GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=128, initializer_range=0.3, **ends),
        "gpt_neox": GPTNeoXConfig(intermediate_size=96, rotary_pct=0.5, initializer_range=0.3, **sizes, **ends),
        "opt": OPTConfig(ffn_dim=96, word_embed_proj_dim=64, init_std=0.3, **sizes, **ends | {"pad_token_id": 1}),
        "llama": LlamaConfig(intermediate_size=96, num_key_value_heads=2, initializer_range=0.3, **sizes, **ends),
    }
    _save(target, configs)


def make_others(target: str) -> None:
    """Save Falcon, GPT-BigCode, CodeGen and MPT (whose context no field but max_seq_len tells); and XGLM."""
    from transformers import CodeGenConfig, FalconConfig, GPTBigCodeConfig, MptConfig, XGLMConfig

    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "vocab_size": VOCABULARY}
    gpt = {"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    configs = {
        "falcon": FalconConfig(max_position_embeddings=128, **sizes, **ends),
        "gpt_bigcode": GPTBigCodeConfig(**gpt, **ends),
        "codegen": CodeGenConfig(n_ctx=128, rotary_dim=4, **gpt, **ends),
        "mpt": MptConfig(d_model=64, n_layers=2, n_heads=4, max_seq_len=128, initializer_range=0.3, **ends),
        "xglm": XGLMConfig(d_model=64, num_layers=2, attention_heads=4, ffn_dim=96, **ends),
    }
    _save(target, configs)


def _save(target: str, configs: dict[str, Any]) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    for name, config in configs.items():
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:  # norms and biases, which begin as ones and zeros
                    parameter += torch.randn_like(parameter) / 10
        model.save_pretrained(Path(target) / name)
        _save_tokenizer(Path(target) / name)


def _save_tokenizer(directory: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    characters = sorted(pre_tokenizers.ByteLevel.alphabet())
    end = "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE({end: 0} | {character: 1 + i for i, character in enumerate(characters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([end])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end).save_pretrained(directory)


def export(*folders: str) -> None:
    """As optimum's documentation shows it."""
    from optimum.exporters.onnx import main_export

    for source, target in zip(folders[::2], folders[1::2], strict=True):
        main_export(source, target, task="text-generation-with-past", do_validation=False)


def merge(source: str, target: str) -> None:
    """optimum's merge_decoders, of an export and of the same without a past (rows: 1)."""
    import numpy as np
    import onnx
    from optimum.onnx.graph_transformations import merge_decoders

    shutil.copytree(source, target)
    path = Path(target) / "model.onnx"
    first, later = onnx.load(path), onnx.load(path)
    for item in [item for item in first.graph.input if item.name.startswith("past_key_values")]:
        _, heads, _, size = (dim.dim_value for dim in item.type.tensor_type.shape.dim)
        first.graph.input.remove(item)
        empty = np.zeros((1, heads, 0, size), np.float32)
        first.graph.initializer.append(onnx.numpy_helper.from_array(empty, item.name))
    merge_decoders(first, later, save_path=Path(target) / "decoder_model_merged.onnx")
    path.unlink()


def generate(text: str, new_tokens: str, *folders: str) -> None:
    """One row, greedy, with the tokenizer that lies there."""
    import torch
    from optimum.onnxruntime import ORTModelForCausalLM
    from transformers import AutoTokenizer

    torch.set_num_threads(2)
    for folder in folders:
        model = ORTModelForCausalLM.from_pretrained(folder, local_files_only=True)
        ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt").input_ids
        found = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=int(new_tokens), do_sample=False
        )
        new = found[0, ids.shape[1] :].tolist()
        if new[-1] == model.config.eos_token_id:
            new.pop()
        print(json.dumps({"prompt": ids[0].tolist(), "new": new}), flush=True)


if __name__ == "__main__":
    {"make": make, "make_others": make_others, "export": export, "merge": merge, "generate": generate}[sys.argv[1]](
        *sys.argv[2:]
    )
