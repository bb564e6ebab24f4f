"""LoRA adapters in PEFT's layout, merged into the tensors of a checkpoint as these are read.

LoRA (Hu et al. 2021, arXiv 2106.09685) adds `scaling · B A` to a matrix. The sum is made on the stored tensors, before
any rule takes them apart, so that it is the same for every family and every layout.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..runtime.errors import CheckpointError, OptionError, UnsupportedModelError
from .config import GPTConfig
from .config_fields import ConfigReader
from .family import Family
from .stored_tensors import PickleFile, SafetensorsFile
from .tokenizer_files import read_json
from .weight_rules import AS_STORED, Shape, TensorSource, WeightRule

CONFIG_FILE = "adapter_config.json"
_WEIGHT_FILES: Mapping[str, Callable[[Path], TensorSource]] = {
    "adapter_model.safetensors": SafetensorsFile,
    "adapter_model.bin": PickleFile,
}
_LOW_RANK = re.compile(r"(?P<module>.+)\.lora_(?:(?P<part>[AB])\.weight|embedding_(?P<embedding>[AB]))")
_EMBEDDINGS = ("token_embedding.weight", "position_embedding.weight")
# Ways to begin training that leave the base weights as they are; others (PiSSA, OLoRA, CorDA, LoftQ) change them.
_HARMLESS_BEGINNINGS = (True, False, "gaussian", "eva", "orthogonal")

LoraChoice = str | Path | tuple[str | Path, float]


@dataclass(frozen=True)
class LowRank:
    """The change of one module's matrix: the adapter's names of A and B, and what their product is multiplied by."""

    a: str
    b: str
    scaling: float
    embedding: bool  # A is [rank, rows], B [width, rank], of an embedding [rows, width]


@dataclass(frozen=True)
class Adapter:
    """One opened adapter. Modules and tensors are named as the base model's class names them."""

    origin: str
    file: Path
    scale: float
    tensors: TensorSource
    low_rank: Mapping[str, LowRank]  # by module
    whole: Mapping[str, str]  # tensors that take the place of the base's: their name to the adapter's name
    copies: Mapping[str, str]  # tensors that repeat the base's

    def to_dict(self) -> dict[str, Any]:
        """What the bundle's manifest says of it."""
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return {"location": self.origin, "scale": self.scale, "sha256": {self.file.name: digest}}


def adapter_from_text(text: str) -> tuple[str, float]:
    """`DIR` or `DIR=SCALE`, as the command line takes it; a directory whose own name has a `=` wins.

    Raises:
        OptionError: what follows the last `=` is no number.
    """
    directory, separator, scale = text.rpartition("=")
    if not separator or Path(text).is_dir():
        return text, 1.0
    try:
        return directory, float(scale)
    except ValueError as error:
        raise OptionError(f"the adapter {text!r} has the scale {scale!r}: expected DIR or DIR=NUMBER") from error


def open_adapters(choices: Iterable[LoraChoice]) -> list[Adapter]:
    """Open adapters: directories, or pairs of a directory and a scale.

    Raises:
        CheckpointError: a directory that holds no sound adapter, named.
        UnsupportedModelError: an adapter that asks for more than LoRA, by the name of the field.
        OptionError: a scale that is no finite number.
    """
    return [
        _open_adapter(Path(choice[0]), choice[1]) if isinstance(choice, tuple) else _open_adapter(Path(choice), 1.0)
        for choice in choices
    ]


def _open_adapter(directory: Path, scale: float) -> Adapter:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not math.isfinite(scale):
        raise OptionError(f"the adapter {directory} has the scale {scale!r}: expected a finite number")
    if not (directory / CONFIG_FILE).is_file():
        raise CheckpointError(
            f"{directory} has no {CONFIG_FILE}: expected the directory of an adapter as PEFT saves it"
        )
    file = next((directory / name for name in _WEIGHT_FILES if (directory / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{directory} holds no {' or '.join(_WEIGHT_FILES)}: fetch the whole adapter")
    fields = _AdapterFields.read(directory / CONFIG_FILE)
    tensors = _WEIGHT_FILES[file.name](file)
    names = _by_module_path(tensors.shapes(), str(file))
    low_rank = _pair(names, fields, tensors.shapes(), str(file))
    others = {path.replace(".base_layer.", "."): name for path, name in names.items() if not _LOW_RANK.fullmatch(path)}
    whole = {path: name for path, name in others.items() if fields.replaces(path)}
    if whole and scale != 1:
        raise OptionError(
            f"the adapter {directory} replaces {next(iter(whole))} as a whole, which cannot be scaled: "
            f"leave out the scale ({scale:g})"
        )
    copies = {path: name for path, name in others.items() if path not in whole}
    return Adapter(directory.resolve().name, file, float(scale), tensors, low_rank, whole, copies)


@dataclass(frozen=True)
class _AdapterFields:
    """What `adapter_config.json` says of the mathematics."""

    rank: int
    alpha: float
    rank_stabilized: bool  # arXiv 2312.03732: divide by the root of the rank
    rank_pattern: Mapping[str, Any]
    alpha_pattern: Mapping[str, Any]
    saved_modules: tuple[str, ...]
    bias: str

    @classmethod
    def read(cls, path: Path) -> _AdapterFields:
        """Read PEFT's `LoraConfig`; every field is used, known as harmless, or refused by name."""
        fields = ConfigReader(read_json(path), str(path))
        fields.inactive("peft_type", "LORA")
        fields.inactive("task_type", None, "CAUSAL_LM", "FEATURE_EXTRACTION")
        fields.inactive("init_lora_weights", *_HARMLESS_BEGINNINGS)
        for switch in ("use_dora", "use_qalora", "lora_bias", "use_bdlora"):
            fields.inactive(switch, False, None)
        for part in ("trainable_token_indices", "target_parameters", "alora_invocation_tokens", "layer_replication"):
            fields.inactive(part, None, [], {})
        # The tensors themselves say which modules they belong to; the rest is about training.
        fields.harmless("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out",
                        "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "lora_dropout",
                        "peft_version", "qalora_group_size", "megatron_core", "ensure_weight_tying", "eva_config",
                        "loftq_config", "corda_config", "lora_ga_config", "runtime_config")  # fmt: skip
        bias = fields.optional("bias") or "none"
        if bias not in ("none", "all", "lora_only"):
            fields.refuse("bias", bias, "'none', 'all' or 'lora_only'")
        saved = fields.optional("modules_to_save") or []
        patterns = {name: fields.optional(name) or {} for name in ("rank_pattern", "alpha_pattern")}
        if not isinstance(saved, list) or not all(isinstance(found, dict) for found in patterns.values()):
            raise CheckpointError(
                f"{path}: expected a list of names as modules_to_save, and objects as rank_pattern and alpha_pattern"
            )
        read = cls(
            rank=fields.number("r"),
            alpha=fields.real("lora_alpha"),
            rank_stabilized=fields.flag("use_rslora", False),
            saved_modules=tuple(map(str, saved)),
            bias=str(bias),
            **patterns,
        )
        fields.finish(common=False)
        return read

    def scaling_of(self, module: str, rank: int, origin: str) -> float:
        """What B A is multiplied by; the patterns are regular expressions for the end of a module's name."""
        expected, alpha = _matching(self.rank_pattern, module, self.rank), _matching(self.alpha_pattern, module, None)
        alpha = self.alpha if alpha is None else alpha
        if rank != expected:
            raise CheckpointError(f"{origin}: {module} has rank {rank}, {CONFIG_FILE} says {expected!r}")
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
            raise CheckpointError(f"{origin}: alpha_pattern gives {module} {alpha!r}, expected a number")
        return float(alpha) / (math.sqrt(rank) if self.rank_stabilized else rank)

    def replaces(self, path: str) -> bool:
        """Whether a tensor of the adapter takes the place of the base's."""
        module, _, kind = path.rpartition(".")
        saved = any(f".{module}.".find(f".{name}.") >= 0 for name in self.saved_modules)
        return saved or (kind == "bias" and self.bias != "none")


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    for key, value in patterns.items():
        try:
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        except re.error as error:
            raise CheckpointError(f"{CONFIG_FILE}: {key!r} is no regular expression ({error})") from error
    return default


def _by_module_path(names: Iterable[str], origin: str) -> dict[str, str]:
    """The adapter's names without what PEFT puts before the base model's own."""
    prefix = "base_model.model."
    for name in names:
        if not name.startswith(prefix):
            raise CheckpointError(f"{origin} holds {name}: expected names that begin with {prefix}, as PEFT saves them")
    return {name.removeprefix(prefix): name for name in names}


def _pair(
    names: Mapping[str, str], fields: _AdapterFields, shapes: Mapping[str, Shape], origin: str
) -> dict[str, LowRank]:
    """The pairs A and B by module; their shapes fit each other and the rank that the config gives."""
    found: dict[str, dict[str, tuple[str, bool]]] = {}
    for path, name in names.items():
        match = _LOW_RANK.fullmatch(path)
        if match:
            embedding = match["part"] is None
            found.setdefault(match["module"], {})[match["part"] or match["embedding"]] = (name, embedding)
        elif "lora_" in path:
            raise UnsupportedModelError(
                f"{origin} holds {name}, which is no part of LoRA as it is implemented: expected lora_A and lora_B"
            )
    pairs = {}
    for module, parts in found.items():
        if set(parts) != {"A", "B"} or parts["A"][1] != parts["B"][1]:
            raise CheckpointError(f"{origin}: {module} has {' and '.join(sorted(parts))} alone, expected both A and B")
        (a, embedding), (b, _) = parts["A"], parts["B"]
        if len(shapes[a]) != 2 or len(shapes[b]) != 2 or shapes[a][0] != shapes[b][1]:
            raise CheckpointError(
                f"{origin}: {module} has A {list(shapes[a])} and B {list(shapes[b])}: expected [rank, in], [out, rank]"
            )
        pairs[module] = LowRank(a, b, fields.scaling_of(module, shapes[a][0], origin), embedding)
    return pairs


class AdaptedTensors:
    """A checkpoint's tensors with the adapters merged in, in their order."""

    def __init__(self, base: TensorSource, adapters: Sequence[Adapter], family: Family, config: GPTConfig) -> None:
        self.origin = " + ".join([base.origin, *(adapter.origin for adapter in adapters)])
        self._base = base
        self._adapters = adapters
        self._prefix = family.prefix
        self._rules = {self._bare(rule.source): rule for rule in family.weight_rules(config)}
        self._ties = {self._bare(family.head): self._bare(family.embedding)} if config.tied_head else {}
        stored = {self._bare(name): shape for name, shape in base.shapes().items()}
        touched: set[str] = set()
        for adapter in adapters:
            changed = [self._bare(name) for name in (*map(_weight_of, adapter.low_rank), *adapter.whole)]
            _check_tie(adapter, changed, {*self._ties, *self._ties.values()})
            for name in (*changed, *map(self._copied, adapter.copies)):
                _check_name(adapter, name, stored, self._rules)
            _check_order(adapter, touched.intersection(map(self._bare, adapter.whole)))
            touched.update(changed)
            self._check_shapes(adapter, stored)

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its stored name."""
        return self._base.shapes()

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its stored type, or in float32 where an adapter changes it."""
        tensor, bare = self._base.load(name), self._bare(name)
        if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
            return tensor  # which the caller refuses by name
        for adapter in self._adapters:
            for path, theirs in adapter.copies.items():
                if self._copied(path) == bare and not torch.equal(_load(adapter, theirs), tensor.to(torch.float32)):
                    raise CheckpointError(
                        f"{adapter.origin}: {theirs} is neither a LoRA matrix nor in modules_to_save, and differs from "
                        f"the base's {name}: the adapter was trained on another model"
                    )
            for path, theirs in adapter.whole.items():
                if self._bare(path) == bare:
                    tensor = _load(adapter, theirs)
            for module, change in adapter.low_rank.items():
                if self._bare(_weight_of(module)) == bare:
                    tensor = tensor.to(torch.float32) + self._delta(adapter, change, bare)
        return tensor

    def _bare(self, name: str) -> str:
        return name.removeprefix(self._prefix)

    def _copied(self, path: str) -> str:
        """What a copy in an adapter repeats: a tied head is the embedding."""
        return self._ties.get(self._bare(path), self._bare(path))

    def _keeps_in_out(self, bare: str) -> bool:
        """Whether the stored matrix is [in, out]: an embedding seen from its B, or GPT-2's Conv1D."""
        rule = self._rules[bare]
        return rule.layout is AS_STORED or _is_embedding(rule)

    def _delta(self, adapter: Adapter, change: LowRank, bare: str) -> torch.Tensor:
        product = _load(adapter, change.b) @ _load(adapter, change.a)  # [out, in]
        product *= change.scaling * adapter.scale
        return product.transpose(0, 1) if self._keeps_in_out(bare) else product

    def _check_shapes(self, adapter: Adapter, stored: Mapping[str, Shape]) -> None:
        shapes = adapter.tensors.shapes()
        for module, change in adapter.low_rank.items():
            bare = self._bare(_weight_of(module))
            if change.embedding != _is_embedding(self._rules[bare]):
                kind = "an embedding" if change.embedding else "a matrix"
                raise CheckpointError(f"{adapter.origin}: {module} is changed as {kind}, which it is not in the base")
            delta = (shapes[change.b][0], shapes[change.a][1])
            _check_shape(adapter, bare, delta[::-1] if self._keeps_in_out(bare) else delta, stored[bare])
        for path, name in adapter.whole.items():
            _check_shape(adapter, path, shapes[name], stored[self._bare(path)])
        for path, name in adapter.copies.items():
            _check_shape(adapter, path, shapes[name], stored[self._copied(path)])


def _weight_of(module: str) -> str:
    return f"{module}.weight"


def _is_embedding(rule: WeightRule) -> bool:
    return rule.targets[0] in _EMBEDDINGS


def _check_name(adapter: Adapter, name: str, stored: Mapping[str, Shape], rules: Mapping[str, WeightRule]) -> None:
    if name not in stored or name not in rules:
        raise CheckpointError(
            f"{adapter.origin} changes {name}, which the base model does not have as a tensor of its own: "
            "expected an adapter of this model"
        )


def _check_tie(adapter: Adapter, changed: Iterable[str], tied: set[str]) -> None:
    for name in changed:
        if name in tied:
            raise UnsupportedModelError(
                f"{adapter.origin} changes {name}, which the config ties to another tensor (tie_word_embeddings): the "
                "adapter changes one of the two and the merged model would change both; untie the base model first"
            )


def _check_order(adapter: Adapter, again: set[str]) -> None:
    if again:
        raise CheckpointError(
            f"{adapter.origin} replaces {min(again)}, which an adapter before it changed: give it first, or alone"
        )


def _check_shape(adapter: Adapter, name: str, found: Shape, expected: Shape) -> None:
    if tuple(found) != tuple(expected):
        raise CheckpointError(
            f"{adapter.origin}: the change of {name} has shape {list(found)}, the base's tensor {list(expected)}: "
            "the adapter is of another model"
        )


def _load(adapter: Adapter, name: str) -> torch.Tensor:
    tensor = adapter.tensors.load(name)
    if not tensor.dtype.is_floating_point or not torch.isfinite(tensor.to(torch.float32)).all():
        raise CheckpointError(
            f"{adapter.origin}: {name} ({tensor.dtype}) holds something else than finite floats: fetch it again"
        )
    return tensor.to(torch.float32)
