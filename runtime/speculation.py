"""Speculation: guessed tokens are checked in one pass instead of one by one; the text stays what it is without them.

Each token is chosen as always: from the model's own logits at its place, processed with the text before it, and when
sampling by the random number of its own step. A guess only decides which places one pass computes: where it was right,
the logits behind it are there already; where it was wrong, they are thrown away. So there is no choice between a
guess and a token, as in the rejection sampling of Leviathan et al. (2023): that would keep the distribution, but draw
other numbers, and a seed's text would depend on the guesses. The price is that guesses come true a little less often.

The logits of a pass over several tokens may differ from those of single steps in their last digits, or in more where
activations are rounded to 8 bits: then a text may take another turn where two tokens are about as likely, as it may in
a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from .assistant import Assistant
from .config import GenerationConfig
from .drafting import CHECKING_COST, CHECKING_COST_QUANTIZED, Drafter
from .errors import OptionError
from .generation import Batch, Token
from .logits import Pipeline
from .prompt_lookup import PromptLookup
from .reading import PREFILL_CHUNK
from .request import Request
from .row import Row
from .stopping import Interruption

if TYPE_CHECKING:
    from .model import Model

# Bytes, as if read: SmolLM2-135M (30 layers) takes 5.2 ms for a step with 151 MB of weights, and 10 ms with 540 MB.
_LAYER_OVERHEAD = 8_000_000

NewDrafter = Callable[[Pipeline, Interruption], Drafter]


class Speculation(Batch):
    """A batch of one row at a time, whose steps check what a drafter guesses."""

    def __init__(self, drafter: Drafter, *arguments: Any, **options: Any):
        """As `Batch`, with what guesses; closing that is up to the caller."""
        super().__init__(*arguments, **options)
        self._drafter = drafter

    def admit(self, row: Row) -> Iterator[Token]:
        """As `Batch.admit`."""
        self._drafter.begin()
        return super().admit(row)

    def step(self) -> Iterator[Token]:
        """As `Batch.step`; the tokens that a pass brings come one by one."""
        self._drop_finished()
        if not self.rows:
            return
        [row] = self.rows
        length = self._cache.length
        # The pass reads the newest token and the candidates, and brings a token more than candidates.
        room = min(row.limit - row.new_tokens, self._context_length - length) - 1
        candidates = self._drafter.draft(row, room) if room > 0 else ()
        if not candidates:
            yield from super().step()
            return
        ids = np.array([[row.last_token, *candidates]], np.int64)
        logits = self._session.step(ids, self._cache, keep=0)[0].astype(np.float32, copy=False)
        for place, scores in enumerate(logits):
            yield from self._choose([row], scores[None])
            if row.finish_reason is not None:
                return
            if place == len(candidates) or row.last_token != candidates[place]:
                self._cache.truncate(length + place + 1)
                return


def drafting_for(
    target: Model, assistant: Model | None, request: Request, given: Collection[str], rows: int
) -> NewDrafter | None:
    """What makes the drafter of a call; None where it does not speculate.

    Args:
        target: the model whose text it is.
        assistant: a smaller model that drafts.
        request: the call.
        given: names of the options that the caller gave; a bundle's own are passed over where they can't be followed.
        rows: how many are generated at once.

    Raises:
        OptionError: what the caller gave can't be followed here.
    """
    config = request.config
    if "num_assistant_tokens" in given and assistant is None:
        raise OptionError("num_assistant_tokens has no effect without an assistant: give assistant, or leave it out")
    if "prompt_lookup_num_tokens" in given and assistant is not None:
        raise OptionError("prompt_lookup_num_tokens and an assistant both given: expected one of them; leave one out")
    name = "assistant" if assistant is not None else "prompt_lookup_num_tokens"
    reason = _reason_against(target, config, rows)
    if reason and (assistant is not None or name in given):
        raise OptionError(f"{reason}, or leave {name} out")
    if assistant is not None:
        return _assistance(target, assistant, request)
    most, longest = config.prompt_lookup_num_tokens, config.max_matching_ngram_size
    if most is None or reason:
        return None
    return lambda _, __: PromptLookup(most, longest, _checking_cost(target))


def _reason_against(target: Model, config: GenerationConfig, rows: int) -> str:
    """Why a call can't speculate and what to do, or ""."""
    if config.num_beams > 1:
        return f"num_beams is {config.num_beams}: guesses are checked for one text, not for beams; give num_beams=1"
    if rows > 1:
        return f"{rows} rows are generated at once: guesses are checked for a single one; give batch_size=1"
    if not target.bundle.manifest.graph.chunked_prefill:
        return (
            f"{target.bundle.manifest.name} can't read several tokens behind others (chunked_prefill is false), as "
            f"checking guesses does: {_made_anew(target)}"
        )
    return ""


def _made_anew(model: Model) -> str:
    """How to get a graph that reads in chunks: where a target's attention operator can't, the standard ones can."""
    graph = model.bundle.manifest.graph
    if graph.foreign or graph.operators != "fused" or graph.target == "cpu":
        return "export it again"
    return f"export it with --target {graph.target} --operators standard"


def _assistance(target: Model, assistant: Model, request: Request) -> NewDrafter:
    name = assistant.bundle.manifest.name
    if not assistant.bundle.manifest.graph.chunked_prefill:
        raise OptionError(
            f"the assistant {name} can't read several tokens behind others (chunked_prefill is false): "
            f"{_made_anew(assistant)}"
        )
    if not _share_vocabulary(target, assistant):
        raise OptionError(
            f"the assistant {name} has another vocabulary than {target.bundle.manifest.name}: expected the same tokens "
            "with the same ids; give an assistant that was made for the same tokenizer"
        )
    step_cost = _step_bytes(assistant) / _step_bytes(target)
    return lambda pipeline, interruption: Assistant(
        assistant.session,
        pipeline,
        interruption,
        most=request.config.num_assistant_tokens,
        step_cost=step_cost,
        checking_cost=_checking_cost(target),
        context_length=assistant.context_length,
        limit=request.longest,
        chunk=PREFILL_CHUNK,
    )


def _step_bytes(model: Model) -> int:
    """Bytes that are read in the time of a step: its weights, and some for the time that each layer takes anyway."""
    return model.bundle.weight_bytes + _LAYER_OVERHEAD * len(model.session.spec.layout.layers)


def _checking_cost(target: Model) -> float:
    return CHECKING_COST if target.bundle.manifest.quantization is None else CHECKING_COST_QUANTIZED


def _share_vocabulary(target: Model, assistant: Model) -> bool:
    if target.session.spec.vocab_size != assistant.session.spec.vocab_size:
        return False
    files = [model.bundle.manifest.files[model.bundle.tokenizer_path.name] for model in (target, assistant)]
    return files[0].sha256 == files[1].sha256 or target.tokenizer.has_vocabulary_of(assistant.tokenizer)
