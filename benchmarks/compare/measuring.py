"""The measurements: loading in fresh processes, speed in rounds of random order, quality against a reference."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bandwidth.native import BandwidthError, ReadTest

from .contestants import Contestant
from .processes import Worker, WorkerError
from .results import Entry, quality_of
from .runtime import NotMeasuredError
from .workloads import WORKLOADS, Workload, prompts, tokens_per_second

Say = Callable[[str], None]

_WARM_UP = {"prompt": 16, "new_tokens": 4}


class Measuring:
    """A comparison under way: contestants, their entries, and one stream of random numbers for order and prompts."""

    def __init__(
        self, contestants: Sequence[Contestant], *, threads: int, vocabulary: int, context: int, seed: int, say: Say
    ):
        self.contestants = list(contestants)
        self.entries = {
            each.name: Entry(dict(each.versions), each.weight_bytes, each.read_bytes) for each in contestants
        }
        self._threads = threads
        self._vocabulary = vocabulary
        self._context = context
        self._random = random.Random(seed)
        self._same_prompt = prompts(self._random, 1, 64, vocabulary)
        self._say = say
        self._logs = tempfile.TemporaryDirectory()

    def close(self) -> None:
        """Remove the workers' logs."""
        self._logs.cleanup()

    def _shuffled(self, items: Sequence[Any]) -> list[Any]:
        return self._random.sample(list(items), len(items))

    def _start(self, contestant: Contestant) -> Worker:
        log = Path(self._logs.name) / f"{self.contestants.index(contestant)}.log"
        return contestant.start(self._threads, log)

    def loading(self, rounds: int) -> None:
        """Start every contestant in a process of its own: import, load, first token; then peak memory of some work.

        The files are read before, so that everybody finds them in the system's cache. Peak memory is of the process:
        libraries, model, 16 new tokens after a prompt of 64, and a prompt of 512 tokens if the context holds as many.
        """
        for number in range(rounds):
            for contestant in self._shuffled(self.contestants):
                self._say(f"loading, round {number + 1} of {rounds}: {contestant.name}")
                _read_through(contestant.model)
                entry = self.entries[contestant.name]
                try:
                    with self._start(contestant) as worker:
                        self._load_once(worker, entry)
                except (WorkerError, NotMeasuredError) as error:
                    entry.not_measured["load"] = str(error)

    def _load_once(self, worker: Worker, entry: Entry) -> None:
        times = worker.ask("load")
        first = worker.ask("generate", prompts=self._same_prompt, new_tokens=1)
        cold = worker.age
        entry.first_ids = worker.ask("generate", prompts=self._same_prompt, new_tokens=16)["ids"]
        long = prompts(self._random, 1, min(512, self._context - 2), self._vocabulary)
        worker.ask("generate", prompts=long, new_tokens=2)
        peak = worker.ask("memory")["peak_bytes"]
        assert first["rest_tokens"] == 0
        entry.import_seconds.append(times["import_seconds"])
        entry.load_seconds.append(times["load_seconds"])
        entry.cold_first_token_seconds.append(cold)
        if peak is not None:
            entry.peak_bytes.append(peak)

    def speed(self, rounds: int, limit_seconds: float, workloads: Sequence[Workload] = WORKLOADS) -> dict[str, Any]:
        """Every workload of every contestant once per round, in random order; the memory's bandwidth in every round.

        Within a round all contestants take their turns at one workload before the next comes, so that those whose
        ratio is of interest are measured within seconds of each other. Decoding stops after `limit_seconds`, and at the
        model's context; a workload whose prompt leaves no room in it is left out.

        Returns:
            The bandwidth test's result.
        """
        fitting = [fitted for workload in workloads if (fitted := workload.within(self._context))]
        with ExitStack() as stack:
            workers = {}
            for contestant in self.contestants:
                worker = stack.enter_context(self._start(contestant))
                try:
                    worker.ask("load")
                    workers[contestant.name] = worker
                except WorkerError as error:
                    self.entries[contestant.name].not_measured["speed"] = str(error)
            test = _bandwidth_test(stack)
            speeds: list[float] = []
            instructions = ""
            for number in range(rounds):
                if isinstance(test, ReadTest):
                    found = test.run(self._threads)
                    speeds.append(found.typical)
                    instructions = found.instructions
                for workload in self._shuffled(fitting):
                    for name in self._shuffled(list(workers)):
                        self._say(f"round {number + 1} of {rounds}: {workload.title}, {name}")
                        self._turn(self.entries[name], workers[name], workload, limit_seconds)
            for name, worker in workers.items():
                self.entries[name].idle_seconds = worker.idle_seconds
        if not speeds:
            return {"not_measured": str(test)} if not isinstance(test, ReadTest) else {}
        return {"bytes_per_second": speeds, "instructions": instructions}

    def _turn(self, entry: Entry, worker: Worker, workload: Workload, limit_seconds: float) -> None:
        values = entry.tokens_per_second.setdefault(workload.key, [])
        if workload.key in entry.not_measured:
            values.append(None)
            return

        def ask(length: int, new_tokens: int) -> dict[str, Any]:
            rows = prompts(self._random, workload.rows, length, self._vocabulary)
            return worker.ask("generate", prompts=rows, new_tokens=new_tokens, limit_seconds=limit_seconds)

        try:
            ask(_WARM_UP["prompt"], _WARM_UP["new_tokens"])
            replies = [ask(workload.prompt_tokens, workload.new_tokens) for _ in range(workload.repeats)]
            values.append(tokens_per_second(workload, replies))
        except (WorkerError, NotMeasuredError, ValueError) as error:
            entry.not_measured[workload.key] = str(error)
            values.append(None)
            return
        if workload.key == "prefill_64":
            entry.first_token_seconds.append(workload.prompt_tokens / (values[-1] or 1.0))

    def quality(self, texts: Mapping[str, Sequence[Sequence[int]]], reference: str) -> None:
        """KL divergence and perplexity of everybody who gives logits, against one contestant, window by window.

        Args:
            texts: by name, windows of token ids, each read from an empty cache.
            reference: the contestant that is taken as the truth.
        """
        chosen = [each for each in self.contestants if each.name == reference]
        others = [each for each in self.contestants if each.name != reference]
        if not chosen:
            for each in others:
                self.entries[each.name].not_measured["quality"] = f"the reference, {reference}, does not take part"
            return
        with tempfile.TemporaryDirectory() as scratch:
            paths = {
                (text, index): str(Path(scratch) / f"{position}-{index}.npy")
                for position, (text, windows) in enumerate(texts.items())
                for index in range(len(windows))
            }
            try:
                self._ask_windows(chosen[0], "reference", texts, paths)
            except (WorkerError, NotMeasuredError) as error:
                for each in others:
                    self.entries[each.name].not_measured["quality"] = f"the reference failed: {error}"
                return
            for contestant in [chosen[0], *others]:
                entry = self.entries[contestant.name]
                try:
                    sums = self._ask_windows(contestant, "divergence", texts, paths)
                except (WorkerError, NotMeasuredError) as error:
                    entry.not_measured["quality"] = str(error)
                    continue
                entry.quality = {text: quality_of(windows) for text, windows in sums.items()}

    def _ask_windows(
        self,
        contestant: Contestant,
        do: str,
        texts: Mapping[str, Sequence[Sequence[int]]],
        paths: Mapping[tuple[str, int], str],
    ) -> dict[str, list[dict[str, float]]]:
        self._say(f"quality: {contestant.name}")
        with self._start(contestant) as worker:
            worker.ask("load")
            return {
                text: [
                    worker.ask(do, token_ids=list(window), path=paths[text, index])
                    for index, window in enumerate(windows)
                ]
                for text, windows in texts.items()
            }


def _bandwidth_test(stack: ExitStack) -> ReadTest | BandwidthError:
    try:
        return stack.enter_context(ReadTest())
    except BandwidthError as error:
        return error


def _read_through(path: Path) -> None:
    """Read a model's files, so that they are in the system's cache."""
    for file in [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file()):
        with file.open("rb") as stream:
            while stream.read(1 << 22):
                pass
