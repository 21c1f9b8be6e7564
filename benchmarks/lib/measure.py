"""How every benchmark measures and prints: hardware, versions, n, warm-up, median, spread, ratio."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torchvision

from rt_scale.data.meta import default_data_dir
from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.spec.errors import InputError


class Summary(NamedTuple):
    """Repeated measurements of one thing, in seconds.

    Attributes:
        median: of all repetitions.
        low: the fastest.
        high: the slowest.
        n: repetitions.
    """

    median: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.median:8.3f} s  ({self.low:.3f} to {self.high:.3f}, n = {self.n})"


def summarise(seconds: list[float]) -> Summary:
    """Median and range of at least one measurement."""
    return Summary(statistics.median(seconds), min(seconds), max(seconds), len(seconds))


def alternate(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> tuple[list[float], list[float]]:
    """Measure ABAB...: whatever else the machine does falls on both.

    Args:
        ours, theirs: do one repetition and return its seconds.
        rounds: repetitions of each, after one of each that warms up and does not count.
    """
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def print_comparison(ours: list[float], theirs: list[float], unit: str) -> float:
    """Print both sides and their ratio, which is returned: the median over rounds of theirs / ours.

    Neighbours in time mostly saw the same machine. Where others use it in bursts they did not; the ratio
    of the fastest repetitions is the one that bursts disturb least.
    """
    fast, slow = summarise(ours), summarise(theirs)
    ratio = statistics.median(slower / faster for faster, slower in zip(ours, theirs, strict=True))
    print(f"paper-style, {unit:<20} {slow}")
    print(f"rt-scale, {unit:<23} {fast}")
    print(f"{'ratio':<33} {ratio:8.2f}    (median over rounds of paper-style / rt-scale)")
    print(f"{'ratio of the fastest':<33} {slow.low / fast.low:8.2f}")
    print(f"{'load after':<33} {os.getloadavg()[0]:8.1f}    (1 minute; our own threads included)")
    return ratio


def describe(facts: Mapping[str, object]) -> dict[str, str]:
    """What is measured with: the machine, how busy it was at the start, versions, then ``facts``."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    described: dict[str, object] = {
        "machine": f"{_processor()}, {torch.get_num_threads()} threads, {platform.system()} {platform.release()}",
        "load before": f"{load} (1, 5, 15 minutes)",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"torchvision {torchvision.__version__}",
    }
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        described["gpu"] = f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB, CUDA {torch.version.cuda}"
    return {name: str(value) for name, value in (described | dict(facts)).items()}


def print_header(title: str, facts: Mapping[str, object]) -> dict[str, str]:
    """Print what is measured, on what, with which versions, and how busy the machine was at the start; returns it."""
    described = describe(facts)
    print(f"# {title}")
    for name, value in described.items():
        print(f"{name + ':':<14} {value}")
    print(flush=True)
    return described


def open_data(name: str, data_dir: Path | None) -> Prepared:
    """The prepared data set, or a plain word on what to set and the end of the process (exit code 2)."""
    try:
        return open_prepared(name, default_data_dir(data_dir))
    except InputError as error:
        print(
            f"{error}\nOr say where prepared data is: --data-dir FOLDER or RT_SCALE_DATA; another set: --data NAME.",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def _processor() -> str:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    description = Path("/proc/cpuinfo")
    if description.exists():
        lines = description.read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    return f"{name}, {cores} cores"
