"""A worker's process, with the embedded model in it: what it answers, that it idles, that it survives errors."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pytest
from compare.contestants import Contestant
from compare.processes import Worker, WorkerError, processor_seconds
from compare.runtime import NotMeasuredError
from compare.worker import Stopwatch, log_softmax

import onnxgpt

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a worker is stopped with SIGSTOP: Linux")
PROMPT = [300, 17, 1234, 5, 900]


def test_it_generates_what_the_library_generates(worker: Worker) -> None:
    model = onnxgpt.load("fairytale", threads=1)
    expected = model.generate(PROMPT, do_sample=False, max_new_tokens=12, eos_token_id=())[0].token_ids

    reply = worker.ask("generate", prompts=[PROMPT], new_tokens=12)

    assert tuple(reply["ids"]) == expected
    assert reply["rest_tokens"] == 11
    assert reply["first_seconds"] > 0
    assert reply["rest_seconds"] > 0


def test_rows_of_a_batch_generate_what_they_generate_alone(worker: Worker) -> None:
    alone = worker.ask("generate", prompts=[PROMPT], new_tokens=8)
    together = worker.ask("generate", prompts=[PROMPT, PROMPT[::-1], [7] * len(PROMPT)], new_tokens=8)

    assert together["ids"] == alone["ids"]
    assert together["rest_tokens"] == 7


def test_decoding_stops_at_the_time_limit(worker: Worker) -> None:
    reply = worker.ask("generate", prompts=[PROMPT], new_tokens=400, limit_seconds=0.01)

    assert 1 <= reply["rest_tokens"] < 399
    assert reply["rest_seconds"] >= 0.01


def test_its_divergence_from_itself_is_nothing_and_its_likelihood_the_librarys(worker: Worker, tmp_path: Path) -> None:
    path = str(tmp_path / "reference.npy")
    score = onnxgpt.load("fairytale", threads=1).score(PROMPT)

    worker.ask("reference", token_ids=PROMPT, path=path)
    reply = worker.ask("divergence", token_ids=PROMPT, path=path)

    assert reply["kl"] == pytest.approx(0.0, abs=1e-6)
    assert reply["top1"] == reply["positions"] == 5
    assert reply["nll"] == pytest.approx(-score.total, rel=1e-4)
    assert reply["reference_nll"] == reply["nll"]


def test_divergence_is_of_the_reference_from_the_runtime_over_the_whole_vocabulary(
    worker: Worker, tmp_path: Path
) -> None:
    logits = onnxgpt.load("fairytale", threads=1).logits(PROMPT)
    uniform = np.full_like(logits, -np.log(logits.shape[1]))
    path = tmp_path / "uniform.npy"
    np.save(path, uniform)

    reply = worker.ask("divergence", token_ids=PROMPT, path=str(path))

    own = (
        logits
        - np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True))
        - logits.max(1, keepdims=True)
    )
    assert reply["kl"] == pytest.approx(float((-np.log(logits.shape[1]) - own.mean(axis=1)).sum()), rel=1e-4)
    assert reply["reference_nll"] == pytest.approx(4 * np.log(logits.shape[1]), rel=1e-6)


def test_an_error_is_told_and_the_worker_goes_on(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="not in the vocabulary"):
        worker.ask("generate", prompts=[[10**9]], new_tokens=1)

    assert worker.ask("generate", prompts=[PROMPT], new_tokens=2)["rest_tokens"] == 1


def test_an_unknown_command_is_an_error(worker: Worker) -> None:
    with pytest.raises(WorkerError, match="KeyError"):
        worker.ask("dance")


def test_it_is_stopped_between_commands_and_uses_no_processor_time(worker: Worker) -> None:
    worker.ask("generate", prompts=[PROMPT], new_tokens=30)
    pid = worker._process.pid
    state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    used = processor_seconds(pid)
    time.sleep(0.2)

    assert state == "T"
    assert processor_seconds(pid) == used
    worker.ask("memory")
    assert worker.idle_seconds == 0


def test_peak_memory_is_more_than_the_model(worker: Worker, fairytale: Contestant) -> None:
    assert worker.ask("memory")["peak_bytes"] > fairytale.weight_bytes


@linux_only
def test_a_process_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    program = "import sys; sys.stderr.write('no such library: libx\\n'); sys.exit(3)"

    dead = Worker([sys.executable, "-c", program], {}, tmp_path / "log")
    with dead, pytest.raises(WorkerError, match=r"the process ended \(3\): no such library: libx"):
        dead.ask("load")


@linux_only
def test_what_a_runtime_can_not_do_is_no_failure(tmp_path: Path) -> None:
    program = """print('{"not_measured": "one sequence at a time"}', flush=True); input(); input()"""

    modest = Worker([sys.executable, "-c", program], {}, tmp_path / "log")
    with modest, pytest.raises(NotMeasuredError, match="one sequence at a time"):
        modest.ask("generate", prompts=[[1], [2]], new_tokens=1)


def test_a_stopwatch_takes_times_of_the_past() -> None:
    watch = Stopwatch(limit_seconds=1.0)

    assert watch([5], 10.0) is False
    assert watch([6], 10.9) is False
    assert watch([7], 11.0) is True
    assert watch.times == [10.0, 10.9, 11.0]
    assert watch.ids == [5, 6, 7]


def test_log_softmax_by_hand() -> None:
    found = log_softmax([[0.0, np.log(3.0)], [1000.0, 1000.0]])

    np.testing.assert_allclose(found, np.log([[0.25, 0.75], [0.5, 0.5]]), rtol=1e-6)
