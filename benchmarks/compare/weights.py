"""The same weights for everybody: a checkpoint as a float32 Hugging Face directory and as a float32 GGUF file.

Runs where onnxgpt's [export] extra is installed; peers convert from what is written here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gguf
    import torch

    from onnxgpt.models.checkpoint import Checkpoint

_WRITTEN = ("gpt2", "llama")  # GGUF's architectures whose metadata is all written here


def write_hugging_face(checkpoint: Checkpoint, directory: Path) -> None:
    """Write config.json, model.safetensors (float32) and the tokenizer as transformers reads them."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    for name, content in checkpoint.files.items():
        (directory / name).write_bytes(content)
    config = json.loads(checkpoint.files["config.json"])
    # transformers 5 keeps the base of rotary positions inside rope_parameters, where version 4 does not look.
    if "rope_theta" in (nested := config.get("rope_parameters") or {}):
        config["rope_theta"] = nested["rope_theta"]
    config |= {"torch_dtype": "float32"}
    (directory / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    save_file(stored_tensors(checkpoint), directory / "model.safetensors", metadata={"format": "pt"})


def stored_tensors(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """The weights under the names and in the shapes of the family's class in transformers."""
    from onnxgpt.models.families import family_of
    from onnxgpt.models.weight_rules import AS_STORED, OUT_IN

    family = family_of(json.loads(checkpoint.files["config.json"]), "config.json")
    tensors = {}
    for rule in family.weight_rules(checkpoint.config):
        joined = side_by_side(checkpoint, rule.targets)
        if rule.layout not in (AS_STORED, OUT_IN):
            raise ValueError(f"{rule.source} has a layout that can't be written back: expected as stored or [out, in]")
        tensors[rule.source] = (joined.transpose(0, -1) if rule.layout is OUT_IN else joined).contiguous()
    return tensors


def write_checkpoint_as_gguf(checkpoint: Checkpoint, target: Path) -> None:
    """Write a checkpoint that is no GGUF file as one, float32 and without its tokenizer: token ids are all that counts.

    Raises:
        ValueError: GGUF has no form of this family that is known here.
    """
    import gguf

    from onnxgpt.models.families import family_of
    from onnxgpt.models.gguf_rules import gguf_rules
    from onnxgpt.models.weight_rules import AS_STORED, canonical_shapes

    config = checkpoint.config
    dialect = family_of(json.loads(checkpoint.files["config.json"]), "config.json").gguf
    if dialect is None or dialect.architecture not in _WRITTEN:
        raise ValueError(f"how GGUF writes {config.family} is not known here")
    writer = gguf.GGUFWriter(target, dialect.architecture)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    add_epsilon = writer.add_layer_norm_rms_eps if config.norm == "rmsnorm" else writer.add_layer_norm_eps
    add_epsilon(config.norm_epsilon)
    if config.position == "rotary":
        writer.add_rope_freq_base(config.rotary_theta)
        writer.add_rope_dimension_count(config.rotary_width)
        writer.add_key_length(config.head_size)
        writer.add_value_length(config.head_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for rule in gguf_rules(dialect, config, canonical_shapes(config)):
        joined = side_by_side(checkpoint, rule.targets)
        values = joined if rule.layout is AS_STORED else joined.transpose(0, -1)
        if dialect.regrouped_rotary and rule.source.endswith(("attn_q.weight", "attn_k.weight")):
            values = _grouped_in_pairs(values, config.head_size)
        writer.add_tensor(rule.source, values.contiguous().numpy())
    _finish(writer)


def _grouped_in_pairs(rows: torch.Tensor, head_size: int) -> torch.Tensor:
    """llama.cpp's order of query and key rows [out, in]: the pairs (i, i + n/2) of a head next to each other."""
    halves = rows.reshape(-1, 2, head_size // 2, rows.shape[-1])  # [heads, halves, pairs, in]
    return halves.transpose(1, 2).reshape(rows.shape)


def side_by_side(checkpoint: Checkpoint, names: Sequence[str]) -> torch.Tensor:
    """Canonical tensors side by side in the last dimension."""
    import torch

    return torch.cat([checkpoint.weights[name] for name in names], dim=-1)


def write_gguf(source: Path, target: Path) -> None:
    """Write a GGUF file again with its tensors dequantized to float32; everything else stays as it is."""
    import gguf

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value: Any = field.contents()
        writer.add_key_value(name, value, kind, element)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        shape = tuple(int(size) for size in reversed(tensor.shape))
        writer.add_tensor(tensor.name, values.astype("float32").reshape(shape))
    _finish(writer)


def _finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
