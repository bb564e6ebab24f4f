"""`onnxgpt generate --batch`: many prompts from a JSON Lines file, generated together.

A line of the input is `{"prompt": "…"}` or `{"messages": [{"role": "user", "content": "…"}]}`, which goes through the
bundle's chat template; both may have an `id`, which the result repeats, and `options`, which win over those of the
command line; what that says of sampling is for the lines that sample. Empty lines are passed over. A line that can't
be generated is reported and written as an `error`; the rest goes on.

A line's text depends on its prompt, its options and its seed alone, not on the lines around it. Without a seed one is
drawn for all lines; a run that goes on after an interruption takes it from the results that are there.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

from .batch_lines import Line, parse_lines
from .batch_results import ResultFile
from .runtime.config import GenerationConfig
from .runtime.errors import MemoryLimitError, OptionError, PromptError
from .runtime.manifest import MANIFEST_NAME
from .runtime.model import Model
from .runtime.random import draw_seed
from .runtime.request import Encoder, Request
from .runtime.results import Completion

BATCH_SIZE = 8  # rows: on a CPU more bring little
_AHEAD = 64  # lines for each row of a batch that are prepared at once
_REFRESH = 0.2  # seconds
_SAMPLING = frozenset(item.name for item in fields(GenerationConfig) if "sampling" in item.metadata["needs"])

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class BatchReport:
    """What came of a batch, in lines of the input."""

    done: int  # now, without those done before
    done_before: int  # by a run that was interrupted
    failed: int
    drawn_seed: int | None


@dataclass(frozen=True)
class _Job:
    """A line that was found sound."""

    line: Line
    prompt: list[int]
    options: dict[str, Any]
    config: GenerationConfig  # what the options come to


class BatchRun:
    """One run over the lines of a file."""

    def __init__(
        self,
        model: Model,
        lines: Iterable[bytes],
        *,
        options: Mapping[str, Any],
        as_chat: bool = False,
        batch_size: int | None = None,
        assistant: Model | None = None,
        report_error: Callable[[int, str], None] = lambda number, message: None,
        progress: Progress | None = None,
    ):
        """Read the lines.

        Args:
            model: what generates.
            lines: of the input, UTF-8.
            options: fields of GenerationConfig, for lines that don't say otherwise.
            as_chat: prompts are a user's messages.
            batch_size: rows that are generated together; None: 8, or one where guesses are checked for single rows.
            assistant: see `Model.generate`.
            report_error: is told the number of each bad line, and what is wrong.
            progress: is told how far the run is.

        Raises:
            OptionError: the options are wrong, whatever the lines say.
        """
        config = GenerationConfig.resolve(model.generation_defaults, options)
        if batch_size is not None and config.num_beams > 1:
            raise OptionError("batch_size has no effect with num_beams: a prompt's beams are a batch; leave one out")
        self._model = model
        self._batch_size = batch_size
        self._assistant = assistant
        self._report_error = report_error
        self._progress = progress
        self._encoder = Encoder(model.tokenizer, model.session.spec.vocab_size, model.context_length)
        manifest = (model.bundle.directory / MANIFEST_NAME).read_bytes()
        self._lines = parse_lines(lines, options, as_chat=as_chat, model=hashlib.sha256(manifest).hexdigest())
        self._drawn_seed: int | None = None
        self._failed = 0
        self._tokens = 0
        self._began = self._shown = 0.0

    def write(self, out: str | os.PathLike[str], *, force: bool = False) -> BatchReport:
        """Generate what is not among the results yet.

        Results are written as they come; at the end they are in the order of the input.

        Args:
            out: the file of results.
            force: forget the results that are there.

        Raises:
            OutputExistsError: it holds something else than results of these lines, this model and these options.
            OnnxGptError: it can't be written.
        """
        requests = {number: line.request for number, line in self._lines.items()}
        with ResultFile.open(Path(out), requests, self._sequences_of, force=force) as results:
            self._results = results
            self._began = time.monotonic()
            done_before = len(results.done)
            self._drawn_seed = self._seed_drawn_before()
            waiting = iter([line for number, line in self._lines.items() if number not in results.done])
            while lines := list(islice(waiting, _AHEAD * (self._batch_size or BATCH_SIZE))):
                for jobs in _alike(self._sound(lines)):
                    self._generate(jobs, self._rows_at_once(jobs[0].config))
            results.finish()
            done = len(results.done) - done_before - self._failed
        return BatchReport(done, done_before, self._failed, self._drawn_seed)

    # What lines ask for

    def _sequences_of(self, number: int) -> int:
        return self._resolve(self._options_of(self._lines[number])).num_return_sequences

    def _resolve(self, options: Mapping[str, Any]) -> GenerationConfig:
        return GenerationConfig.resolve(self._model.generation_defaults, options)

    def _options_of(self, line: Line) -> dict[str, Any]:
        """A line's options; those of the command line that are about sampling are for lines that sample."""
        options = dict(line.options)
        for name in _SAMPLING.intersection(options) - line.own if line.own else ():
            # Temperature 0 is what makes a line greedy.
            if (name, options[name]) != ("temperature", 0) and self._resolve_all(options).is_greedy:
                del options[name]
        return options

    def _resolve_all(self, options: Mapping[str, Any]) -> GenerationConfig:
        """What options come to, without judging whether each has an effect."""
        return GenerationConfig.resolve({**self._model.generation_defaults, **options}, {})

    def _seed_drawn_before(self) -> int | None:
        """The seed that the results which are there were drawn by, where nobody gave one."""
        for number, seed in self._results.seeds.items():
            if seed is not None and self._resolve(self._options_of(self._lines[number])).seed is None:
                return seed
        return None

    def _sound(self, lines: Sequence[Line]) -> Iterator[_Job]:
        """The lines that can be generated; the others fail."""
        for line in lines:
            try:
                if line.error:
                    raise PromptError(line.error)
                job = self._prepare(line)
            except (OptionError, PromptError) as error:
                self._fail(line, str(error))
            else:
                yield job

    def _prepare(self, line: Line) -> _Job:
        options = self._options_of(line)
        config = self._resolve(options)
        prompt = self._model.chat_prompt(line.content) if line.is_chat else line.content
        request = Request.make([prompt], config, self._encoder)
        if request.seed is not None and config.seed is None:
            if self._drawn_seed is None:
                self._drawn_seed = draw_seed()
            options["seed"] = self._drawn_seed
        return _Job(line, request.prompts[0], options, self._resolve(options))

    def _rows_at_once(self, config: GenerationConfig) -> int:
        guesses = self._assistant is not None or config.prompt_lookup_num_tokens is not None
        return self._batch_size or (1 if guesses else BATCH_SIZE)

    # Generating

    def _generate(self, jobs: Sequence[_Job], rows: int) -> None:
        """Generate lines with the same options, and write their results; a smaller batch is tried if need be."""
        try:
            for job, completions in self._completed(jobs, rows):
                self._results.append(job.line.number, [_record(job, completion) for completion in completions])
                self._tell()
        except (OptionError, PromptError, MemoryLimitError) as error:
            left = [job for job in jobs if job.line.number not in self._results.done]
            if isinstance(error, MemoryLimitError) and rows > 1:
                self._generate(left, rows // 2)
            elif len(jobs) > 1:
                for job in left:  # alone, to find the one that can't be generated
                    self._generate([job], rows)
            else:
                self._fail(jobs[0].line, str(error))

    def _completed(self, jobs: Sequence[_Job], rows: int) -> Iterator[tuple[_Job, list[Completion]]]:
        """Lines and their completions, as they get ready."""
        if jobs[0].config.num_beams > 1:
            for job in jobs:
                yield job, self._model.generate(job.prompt, assistant=self._assistant, **job.options)
            return
        sequences = jobs[0].config.num_return_sequences
        running = [sequences] * len(jobs)
        prompts = [job.prompt for job in jobs]
        with self._model.stream(prompts, batch_size=rows, assistant=self._assistant, **jobs[0].options) as stream:
            for token in stream:
                self._count_token()
                index = token.row // sequences
                running[index] -= token.finish_reason is not None
                if running[index] == 0:
                    running[index] = -1
                    yield jobs[index], stream.completions_of(index)
            for index, count in enumerate(running):
                if count >= 0:  # time was up before a token came
                    yield jobs[index], stream.completions_of(index)

    def _fail(self, line: Line, message: str) -> None:
        self._failed += 1
        self._report_error(line.number, message)
        self._results.append(line.number, [_answer(line) | {"error": message}])
        self._tell()

    # Progress

    def _count_token(self) -> None:
        self._tokens += 1
        if self._progress is not None and time.monotonic() - self._shown > _REFRESH:
            self._tell()

    def _tell(self) -> None:
        if self._progress is None:
            return
        self._shown = time.monotonic()
        done, total = len(self._results.done), len(self._lines)
        rate = self._tokens / max(self._shown - self._began, 1e-9)
        self._progress(f"{done:,} of {total:,} lines, {rate:.0f} tokens/s", done / total)


def refuse_overwriting(file: str, out: str) -> None:
    """Refuse to write results over the prompts.

    Raises:
        OptionError: both are one file.
    """
    with suppress(OSError):
        if os.path.samefile(file, out):
            raise OptionError(f"{out} is the file of prompts itself: expected another one for the results; give --out")


def _alike(jobs: Iterable[_Job]) -> list[list[_Job]]:
    """Lines that can be generated together: with the same options. A time limit is for each line by itself."""
    groups: dict[Any, list[_Job]] = {}
    for job in jobs:
        alone = None if job.config.max_time is None else job.line.number
        groups.setdefault((job.config, alone), []).append(job)
    return list(groups.values())


def _answer(line: Line) -> dict[str, Any]:
    """What the result of a line begins with, behind its number."""
    return {"request": line.request} | ({} if line.id is None else {"id": line.id})


def _record(job: _Job, completion: Completion) -> dict[str, Any]:
    """The result of one sequence. Nothing in it depends on the run, so that the same input gives the same file."""
    record = _answer(job.line) | {
        "sequence_index": completion.sequence_index,
        "text": completion.text,
        "token_ids": completion.token_ids,
        "finish_reason": completion.finish_reason,
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "seed": completion.seed,
    }
    if completion.score is not None:
        record["score"] = completion.score
    if job.config.logprobs:
        record |= {"logprobs": completion.logprobs, "top_logprobs": completion.top_logprobs}
    if job.config.prompt_logprobs:
        record["prompt_logprobs"] = completion.prompt_logprobs
        record["prompt_top_logprobs"] = completion.prompt_top_logprobs
    return record
