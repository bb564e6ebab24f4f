"""Reads a Hugging Face `config.json` so that no field goes unnoticed: used, known as harmless, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from ..runtime.errors import CheckpointError, UnsupportedModelError
from .config import Activation

Value = TypeVar("Value", int, float, bool, str)
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}

# Names that transformers gives to activations, by the function they compute in float32.
ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}

# Generation defaults that older checkpoints keep in config.json; they say nothing of the network.
GENERATION_FIELDS = frozenset({
    "max_length", "min_length", "max_new_tokens", "min_new_tokens", "do_sample", "early_stopping",
    "num_beams", "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "min_p",
    "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "forced_bos_token_id",
    "forced_eos_token_id", "remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens",
    "begin_suppress_tokens", "bos_token_id", "eos_token_id", "pad_token_id",
})  # fmt: skip

# Fields of every transformers config that change neither weights nor logits of a causal language model.
_COMMON_HARMLESS = GENERATION_FIELDS | frozenset({
    # provenance and storage
    "model_type", "transformers_version", "_name_or_path", "name_or_path", "_commit_hash", "dtype",
    "torch_dtype", "torchscript", "use_bfloat16", "transformers.js_config", "custom_pipelines",
    # what a forward call returns, and how it is computed (the same numbers)
    "output_hidden_states", "output_attentions", "output_scores", "return_dict", "return_dict_in_generate",
    "use_cache", "chunk_size_feed_forward", "_attn_implementation", "_attn_implementation_autoset",
    "attn_implementation", "pretraining_tp", "output_past",
    # training and the heads of other tasks
    "initializer_range", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task",
    "task_specific_params", "tf_legacy_loss", "is_decoder", "tie_encoder_decoder", "sep_token_id",
    "decoder_start_token_id", "tokenizer_class", "prefix", "_num_labels", "gradient_checkpointing",
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
})  # fmt: skip

# Fields of every transformers config that would change the network: (field, values under which they do not).
_COMMON_INACTIVE: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": (None, {}, []),
    "quantization_config": (None,),
    "per_layer_config": (None, {}),
    "auto_map": (None, {}),  # code of the checkpoint's own, which is never run
}


class ConfigReader:
    """One `config.json`, read field by field; `finish` refuses what nobody asked for.

    A field that is `null` and that nobody knows is let pass: it asks for nothing.
    """

    def __init__(self, data: Mapping[str, Any], origin: str) -> None:
        self.data = data
        self.origin = origin  # names the file in messages
        self._seen: set[str] = set()
        self._adopted: frozenset[str] = frozenset()

    def number(self, name: str, default: int | None = None, *, least: int = 1) -> int:
        """A whole number of at least `least`; required when no default is given."""
        value = self._typed(name, int, default)
        if value < least:
            raise CheckpointError(f"{self.origin}: {name} is {value}, expected a whole number of at least {least}")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        """A positive finite number; required when no default is given."""
        value = float(self._typed(name, float, default))
        if not 0 < value < float("inf"):
            raise CheckpointError(f"{self.origin}: {name} is {value}, expected a positive number")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        return self._typed(name, bool, default)

    def optional(self, name: str) -> Any:
        """The raw value, or None when the field is absent; the caller judges it."""
        self._seen.add(name)
        return self.data.get(name)

    def name_of(self, *names: str) -> str:
        """Which of several names of one field the config uses; the first when none.

        Raises:
            CheckpointError: two of them that disagree.
        """
        found = {name: value for name in names if (value := self.optional(name)) is not None}
        if any(value != next(iter(found.values())) for value in found.values()):
            raise CheckpointError(f"{self.origin}: {found} disagree; expected one value")
        return next(iter(found), names[0])

    def head_size(self, hidden_size: int, num_heads: int, name: str | None = None) -> int:
        """Elements of each head: what the field `name` says, else the hidden size shared out evenly."""
        if name and self.optional(name) is not None:
            return self.number(name)
        if hidden_size % num_heads:
            raise CheckpointError(
                f"{self.origin}: {num_heads} heads do not share {hidden_size} elements evenly: expected a multiple"
            )
        return hidden_size // num_heads

    def activation(self, name: str, default: str, known: Mapping[str, Activation] = ACTIVATIONS) -> Activation:
        """The activation function named by a field, by the names that the family knows.

        Raises:
            UnsupportedModelError: a function that is not implemented, named.
        """
        value = self._typed(name, str, default)
        if value not in known:
            raise UnsupportedModelError(
                f"{self.origin}: {name} {value!r} is not implemented; implemented are {', '.join(sorted(known))}"
            )
        return known[value]

    def inactive(self, name: str, *values: Any) -> None:
        """Refuse the field by name unless it is absent or has one of the values under which it does nothing."""
        found = self.optional(name)
        if name in self.data and found not in values:
            self.refuse(name, found, " or ".join(map(repr, values)))

    def refuse(self, name: str, found: Any, expected: str) -> NoReturn:
        """Raise UnsupportedModelError for what a field asks for."""
        shown = repr(found) if len(repr(found)) < 60 else f"{repr(found)[:56]}…"
        raise UnsupportedModelError(f"{self.origin}: {name} = {shown} is not implemented; expected {expected}")

    def harmless(self, *names: str) -> None:
        """Fields that change neither weights nor logits."""
        self._seen.update(names)

    def adopted_code(self, *classes: str) -> None:
        """Classes of a checkpoint's own code that `auto_map` may name: transformers has since taken them in."""
        self._adopted = frozenset(classes)

    def architectures(self, known: Sequence[str]) -> None:
        """Refuse a checkpoint that says it is a model of another kind (a classifier, say)."""
        found = self.optional("architectures")
        if found and not (isinstance(found, list) and any(name in known for name in found)):
            raise UnsupportedModelError(
                f"{self.origin}: architectures is {found}, expected {' or '.join(known)}: a causal language model"
            )

    def finish(self, *, common: bool = True) -> None:
        """Refuse, by name, every field that was neither read nor declared harmless."""
        if common:
            for name, values in _COMMON_INACTIVE.items():
                if name != "auto_map" or not self._is_adopted():
                    self.inactive(name, *values)
            self.harmless(*_COMMON_HARMLESS)
        unknown = sorted(name for name in self.data if name not in self._seen and self.data[name] is not None)
        if unknown:
            shown = ", ".join(f"{name} = {self.data[name]!r}"[:60] for name in unknown[:4])
            raise UnsupportedModelError(
                f"{self.origin}: {len(unknown)} field(s) unknown for this family: {shown}; "
                "what they ask for is not implemented, remove them only if they do not change the model"
            )

    def _is_adopted(self) -> bool:
        code = self.optional("auto_map")
        return bool(self._adopted and isinstance(code, Mapping)) and all(
            name == "AutoTokenizer" or value in self._adopted for name, value in code.items()
        )

    def _typed(self, name: str, kind: type[Value], default: Value | None) -> Value:
        self._seen.add(name)
        value = self.data.get(name)
        if value is None:
            if default is None:
                raise CheckpointError(f"{self.origin} has no {name}: expected {_KINDS[kind]}")
            return default
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise CheckpointError(f"{self.origin}: {name} is {value!r}, expected {_KINDS[kind]}")
        return kind(value)
