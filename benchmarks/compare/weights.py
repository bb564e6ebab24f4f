"""The same weights for everybody: a checkpoint as a float32 Hugging Face directory and as a float32 GGUF file.

Runs where onnxgpt's [export] extra is installed; peers convert from what is written here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from onnxgpt.models.checkpoint import Checkpoint


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
    import torch

    from onnxgpt.models.families import family_of
    from onnxgpt.models.weight_rules import AS_STORED, OUT_IN

    family = family_of(json.loads(checkpoint.files["config.json"]), "config.json")
    tensors = {}
    for rule in family.weight_rules(checkpoint.config):
        joined = torch.cat([checkpoint.weights[target] for target in rule.targets], dim=-1)
        if rule.layout not in (AS_STORED, OUT_IN):
            raise ValueError(f"{rule.source} has a layout that can't be written back: expected as stored or [out, in]")
        tensors[rule.source] = (joined.transpose(0, -1) if rule.layout is OUT_IN else joined).contiguous()
    return tensors


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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
