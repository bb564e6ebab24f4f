"""How stored tensors become the GPT's own: rules as data, checked key by key and shape by shape, both ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ..runtime.errors import CheckpointError, UnsupportedModelError
from .config import GPTConfig

if TYPE_CHECKING:  # which families there are is told where PyTorch is not installed, too
    import torch

Shape = tuple[int, ...]


class TensorSource(Protocol):
    """Named tensors in files, read one at a time."""

    origin: str  # names the source in messages

    def shapes(self) -> Mapping[str, Shape]:
        """Every tensor's shape by its stored name."""
        ...

    def load(self, name: str) -> torch.Tensor:
        """One tensor in its stored type (a GGUF block type comes dequantized, float32)."""
        ...


@dataclass(frozen=True)
class Layout:
    """How a stored tensor holds one or more canonical ones.

    `stored_shape` tells the shape to expect from the canonical shapes, `unpack` makes the canonical tensors.
    """

    stored_shape: Callable[[Sequence[Shape]], Shape]
    unpack: Callable[[torch.Tensor, Sequence[Shape]], Sequence[torch.Tensor]]


def _side_by_side(shapes: Sequence[Shape]) -> Shape:
    return (*shapes[0][:-1], sum(shape[-1] for shape in shapes))


def _split_columns(tensor: torch.Tensor, shapes: Sequence[Shape]) -> Sequence[torch.Tensor]:
    return tensor.split_with_sizes([shape[-1] for shape in shapes], dim=-1)


# Vectors, embeddings [rows, hidden] and matrices kept [in, out]; several stand side by side in the last dimension.
AS_STORED = Layout(_side_by_side, _split_columns)

# Norms that multiply by one more than what is stored (Gemma).
PLUS_ONE = Layout(_side_by_side, lambda tensor, shapes: [tensor + 1.0])

# One row of a tensor whose rows are stored each by itself, in the order of their rules.
ONE_ROW = Layout(lambda shapes: shapes[0][1:], lambda tensor, shapes: [tensor[None]])

# torch.nn.Linear keeps [out, in]; several stand one above the other.
OUT_IN = Layout(
    lambda shapes: tuple(reversed(_side_by_side(shapes))),
    lambda tensor, shapes: _split_columns(tensor.transpose(0, -1), shapes),
)


def regrouped_rotary_heads(head_size: int) -> Layout:
    """llama.cpp's order of query and key rows, undone: it puts the pairs (i, i + n/2) of a head next to each other."""

    def unpack(tensor: torch.Tensor, shapes: Sequence[Shape]) -> Sequence[torch.Tensor]:
        halves = tensor.reshape(-1, head_size // 2, 2, *tensor.shape[1:])  # [heads, pairs, 2, in]
        return OUT_IN.unpack(halves.transpose(1, 2).reshape(tensor.shape), shapes)

    return Layout(OUT_IN.stored_shape, unpack)


def query_key_value_by_head(config: GPTConfig) -> Layout:
    """Of each key head in turn: the rows of its queries' heads, its key's and its value's."""
    queries = config.num_heads // config.num_kv_heads

    def unpack(tensor: torch.Tensor, shapes: Sequence[Shape]) -> Sequence[torch.Tensor]:
        groups = tensor.reshape(config.num_kv_heads, queries + 2, config.head_size, *tensor.shape[1:])
        parts = groups.split_with_sizes([queries, 1, 1], dim=1)
        return [part.reshape(-1, *tensor.shape[1:]).transpose(0, -1) for part in parts]

    return Layout(OUT_IN.stored_shape, unpack)


def behind_rows(count: int) -> Layout:
    """An embedding whose first `count` rows are never looked up."""
    return Layout(
        lambda shapes: (shapes[0][0] + count, *shapes[0][1:]),
        lambda tensor, shapes: [tensor[count:]],
    )


@dataclass(frozen=True)
class WeightRule:
    """One stored tensor and the canonical ones it holds."""

    source: str
    targets: tuple[str, ...]
    layout: Layout = AS_STORED


def canonical_shapes(config: GPTConfig) -> dict[str, Shape]:
    """Every parameter of the GPT that `config` describes: its name and shape; matrices are [in, out]."""
    hidden, inner = config.hidden_size, config.intermediate_size
    query_width = config.num_heads * config.head_size
    kv_width = config.num_kv_heads * config.head_size
    width = config.embedding_width
    shapes: dict[str, Shape] = {"token_embedding.weight": (config.vocab_size, width)}
    if config.position == "learned":
        shapes["position_embedding.weight"] = (config.context_length, hidden)
    norm_has_bias = config.norm == "layernorm" and config.norm_bias
    if config.embedding_size is not None:
        shapes |= _matrix("input_projection", width, hidden, False)
        shapes |= _matrix("output_projection", hidden, width, False)
    if config.embedding_norm:
        shapes |= _norm("embedding_norm", hidden, norm_has_bias)
    norms = ["attention_norm"] + ["mlp_norm"] * config.mlp_norm
    if config.norm_place == "both":
        norms += ["attention_post_norm", "mlp_post_norm"]
    for layer in range(config.num_layers):
        block = f"blocks.{layer}"
        matrices = {
            "attention.query": (hidden, query_width, config.attention_bias),
            "attention.key": (hidden, kv_width, config.attention_bias),
            "attention.value": (hidden, kv_width, config.attention_bias),
            "attention.output": (query_width, hidden, config.attention_output_bias),
            **({"mlp.gate": (hidden, inner, config.mlp_bias)} if config.gated_mlp else {}),
            "mlp.up": (hidden, inner, config.mlp_bias),
            "mlp.down": (inner, hidden, config.mlp_bias),
        }
        for name, (rows, columns, has_bias) in matrices.items():
            shapes |= _matrix(f"{block}.{name}", rows, columns, has_bias)
        for name in norms:
            shapes |= _norm(f"{block}.{name}", hidden, norm_has_bias)
        if config.query_key_norm is not None:
            for name, heads in (("query_norm", config.num_heads), ("key_norm", config.num_kv_heads)):
                leading = () if config.query_key_norm == "shared" else (heads,)
                shapes |= _norm(f"{block}.attention.{name}", (*leading, config.head_size), config.query_key_norm_bias)
    if config.final_norm:
        shapes |= _norm("final_norm", hidden, norm_has_bias)
    if not config.tied_head:
        shapes["head.weight"] = (width, config.vocab_size)
    if config.head_bias:
        shapes["head.bias"] = (config.vocab_size,)
    return shapes


def _matrix(name: str, rows: int, columns: int, has_bias: bool) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {f"{name}.weight": (rows, columns)}
    return shapes | ({f"{name}.bias": (columns,)} if has_bias else {})


def _norm(name: str, shape: Shape | int, has_bias: bool) -> dict[str, Shape]:
    shape = (shape,) if isinstance(shape, int) else shape
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape} if has_bias else {})


def read_weights(
    source: TensorSource,
    rules: Sequence[WeightRule],
    shapes: Mapping[str, Shape],
    *,
    prefix: str = "",
    ignorable: Sequence[str] = (),
    copies: Mapping[str, str] | None = None,
) -> dict[str, torch.Tensor]:
    """Turn the source's tensors into float32 tensors under the canonical names, one tensor at a time.

    Args:
        source: where the tensors are.
        rules: what is stored under which name; names carry `prefix`, which a source may have left out.
        shapes: the canonical names and shapes, from `canonical_shapes`.
        prefix: the part of stored names that a checkpoint of the bare model lacks.
        ignorable: patterns of stored names that hold no weights (causal masks, rotary frequencies).
        copies: stored names that may repeat another one's tensor (a tied head); they must be equal to it.

    Raises:
        CheckpointError: a tensor too many, too few, of another shape, with a NaN or infinity, named.
        UnsupportedModelError: a tensor of a type that is no float.
    """
    _check_rules(rules, shapes)
    stored = source.shapes()
    names = {rule.source: _stored_name(rule.source, stored, prefix) for rule in rules}
    _check_names(source, set(names.values()), stored, prefix, ignorable, copies or {})
    for rule in rules:
        expected = rule.layout.stored_shape([shapes[target] for target in rule.targets])
        if tuple(stored[names[rule.source]]) != expected:
            raise CheckpointError(
                f"{source.origin}: {names[rule.source]} has shape {list(stored[names[rule.source]])}, "
                f"its config says {list(expected)}: config and weights do not belong together"
            )
    weights: dict[str, torch.Tensor] = {}
    rows: dict[str, list[torch.Tensor]] = {}
    for rule in rules:
        tensor = _load_float32(source, names[rule.source])
        parts = rule.layout.unpack(tensor, [shapes[target] for target in rule.targets])
        if rule.layout is ONE_ROW:
            rows.setdefault(rule.targets[0], []).extend(parts)
        else:
            weights |= {target: part.contiguous() for target, part in zip(rule.targets, parts, strict=True)}
    weights |= {target: _one_tensor(parts) for target, parts in rows.items()}
    _check_copies(source, stored, prefix, copies or {})
    return weights


def _check_rules(rules: Sequence[WeightRule], shapes: Mapping[str, Shape]) -> None:
    in_rows = {rule.targets[0] for rule in rules if rule.layout is ONE_ROW}
    targets = [target for rule in rules for target in rule.targets if rule.layout is not ONE_ROW] + [*in_rows]
    if sorted(targets) != sorted(shapes):
        odd = sorted(set(targets) ^ set(shapes)) or "a name twice"
        raise AssertionError(f"the family's weight rules and its config disagree on {odd}")


def _one_tensor(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    tensor = rows[0].new_empty((len(rows), *rows[0].shape[1:]))
    for index, row in enumerate(rows):
        tensor[index] = row[0]
    return tensor


def _stored_name(name: str, stored: Mapping[str, Shape], prefix: str) -> str:
    short = name.removeprefix(prefix)
    return short if name not in stored and short in stored else name


def _check_names(
    source: TensorSource,
    needed: set[str],
    stored: Mapping[str, Shape],
    prefix: str,
    ignorable: Sequence[str],
    copies: Mapping[str, str],
) -> None:
    missing = sorted(needed - set(stored))
    if missing:
        raise CheckpointError(f"{source.origin} lacks {_listed(missing)}: the config asks for it; is a file missing?")
    allowed = {_stored_name(name, stored, prefix) for name in copies}
    extra = sorted(
        name
        for name in set(stored) - needed - allowed
        if not any(re.fullmatch(pattern, name.removeprefix(prefix)) for pattern in ignorable)
    )
    if extra:
        raise CheckpointError(
            f"{source.origin} holds {_listed(extra)}, which the config does not ask for: "
            "the weights are of another model, or of a part that is not implemented"
        )


def _check_copies(source: TensorSource, stored: Mapping[str, Shape], prefix: str, copies: Mapping[str, str]) -> None:
    for copy, original in copies.items():
        name = _stored_name(copy, stored, prefix)
        if name not in stored:
            continue
        other = _stored_name(original, stored, prefix)
        if stored[name] != stored[other] or not source.load(name).equal(source.load(other)):
            raise CheckpointError(
                f"{source.origin}: {name} differs from {other} though the config ties them: "
                'set "tie_word_embeddings": false in config.json if the head is its own'
            )


def _load_float32(source: TensorSource, name: str) -> torch.Tensor:
    tensor = source.load(name)
    if not tensor.dtype.is_floating_point or tensor.dtype.itemsize < 2:
        raise UnsupportedModelError(
            f"{source.origin}: {name} is stored as {tensor.dtype}, expected float32, float16 or bfloat16: "
            "take the checkpoint from before its quantization"
        )
    tensor = tensor.float()
    low, high = tensor.aminmax()
    if not (low.isfinite() and high.isfinite()):
        raise CheckpointError(
            f"{source.origin}: {name} holds NaN or infinity: the weights are damaged; fetch or save them again"
        )
    return tensor


def _listed(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def per_layer(config: GPTConfig, rules: Callable[[int], Sequence[WeightRule]]) -> Iterator[WeightRule]:
    """The rules of every layer, in order."""
    for layer in range(config.num_layers):
        yield from rules(layer)


def module_rules(source: str, *targets: str, bias: bool = True, layout: Layout = AS_STORED) -> list[WeightRule]:
    """The weight and, where it has one, the bias of a stored module that holds one or more of the GPT's own."""
    return [
        WeightRule(f"{source}.{kind}", tuple(f"{target}.{kind}" for target in targets), layout)
        for kind in (("weight", "bias") if bias else ("weight",))
    ]
