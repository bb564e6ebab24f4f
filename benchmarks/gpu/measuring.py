"""What is measured: speeds in rounds of random order, the device's bandwidth, and memory while a long text grows."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from bandwidth.graph_bytes import step_bytes

from onnxgpt.runtime.device_memory import device_memory
from onnxgpt.runtime.model import Model

from .contestants import Contestant, Ours


def copy_bandwidth(device: str, mebibytes: int, passes: int) -> float:
    """Bytes per second of copying a buffer to another on the device; what is read and what is written both count.

    The median of the passes, each by itself between two waits. The buffers are to be larger than the device's caches.
    """
    source = torch.ones(mebibytes << 20, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(passes + 1):
        _wait(device)
        started = time.perf_counter()
        target.copy_(source)
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * source.numel() / median(seconds[1:])  # the first pass touches the pages


def in_turns(
    contestants: Sequence[Contestant], prompt: Sequence[int], new_tokens: int, rounds: int
) -> dict[str, list[float]]:
    """Tokens per second of each contestant, round by round; in every round they run one after the other, shuffled."""
    speeds: dict[str, list[float]] = {each.name: [] for each in contestants}
    for each in contestants:
        each.tokens_per_second(prompt, max(4, new_tokens // 8))  # kernels are loaded and graphs recorded
    shuffled = random.Random(0)
    for _ in range(rounds):
        for each in shuffled.sample(list(contestants), len(contestants)):
            speeds[each.name].append(each.tokens_per_second(prompt, new_tokens))
    return speeds


def share_of_bound(ours: Ours, context: int, speeds: Sequence[float], bandwidth: float) -> dict[str, float]:
    """The bytes that a token takes, and which share of the bandwidth they make at the median speed.

    Bytes are those of all weights but tables that are only looked up in, and of the cache at the context halfway.
    """
    weights = step_bytes(ours.model.bundle.graph_path).all
    read = weights + ours.model.session.spec.layout.bytes_per_token() * context
    return {"bytes_per_token": read, "share_of_bound": round(read * median(speeds) / bandwidth, 3)}


def memory_growth(model: Model, prompt: Sequence[int], tokens: int, provider: str) -> dict[str, int | None]:
    """Bytes that memory in use grows by between an eighth of a text and its end, the cache included.

    The cache has room for all tokens from the beginning, since they are asked for; on a GPU it is the device's memory.
    """
    used: list[int | None] = []
    stream = model.stream(list(prompt), max_new_tokens=tokens, do_sample=False, eos_token_id=())
    with stream:
        for count, _ in enumerate(stream, start=1):
            if count in (max(1, tokens // 8), tokens - 1):
                used.append(memory_in_use(provider, model))
    first, last = used
    return {"tokens": tokens, "bytes": None if first is None or last is None else last - first}


def memory_in_use(provider: str, model: Model) -> int | None:
    """Bytes in use on the model's device, by all processes; of this process where that is the CPU; None: not known."""
    if provider != "cpu":
        found = device_memory(provider, model.session.place.device)
        return None if found.total is None or found.free is None else found.total - found.free
    resident = Path("/proc/self/statm")
    if not resident.exists():
        return None
    return int(resident.read_text().split()[1]) * 4096


def ratios(speeds: dict[str, list[float]], first: str) -> dict[str, float]:
    """Median over the rounds of each contestant's speed as a multiple of the first's in the same round."""
    return {
        name: round(median(own / base for own, base in zip(values, speeds[first], strict=True)), 3)
        for name, values in speeds.items()
    }


def describe_device(device: str) -> dict[str, Any]:
    """What figures depend on."""
    if device == "cpu":
        return {"name": "cpu", "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(0)
    return {"name": found.name, "memory_bytes": found.total_memory, "cuda": torch.version.cuda}


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
