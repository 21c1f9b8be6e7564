"""What the questions of ``gpu.py`` share: where they are measured, at which size, and how much time is left."""

from __future__ import annotations

import gc
import resource
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.options import Options
from rt_scale.spec.document import set_dotted
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from rt_scale.training.precision import TF32_SINCE


@dataclass(frozen=True)
class Bench:
    """Where and at which size.

    Attributes:
        device: that computes.
        data: a prepared set.
        scratch: an empty folder.
        encoder, out_dim, batch: of the full run that is asked about.
        hidden: widths of its projector's hidden layers.
        samples: training images of it.
        epochs: whole epochs that are measured.
        small: encoders of the questions about small runs.
        workers: of the paper-style DataLoader.
        threads: CPU threads; None: all that are allowed.
        until: ``time.monotonic()`` after which nothing new is begun.
    """

    device: torch.device
    data: Prepared
    scratch: Path
    encoder: str
    out_dim: int
    batch: int
    hidden: tuple[int, ...]
    samples: int
    epochs: int
    small: tuple[str, ...]
    workers: int
    threads: int | None
    until: float = field(default=float("inf"))

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the device has arithmetic for: the exact one first."""
        modern = self.device.type == "cuda" and torch.cuda.get_device_capability(self.device) >= TF32_SINCE
        return ("float32", "tf32", "bf16") if modern else ("float32", "bf16")

    @property
    def left(self) -> float:
        """Seconds until nothing new is begun."""
        return self.until - time.monotonic()

    def spec(self, changes: Mapping[str, Any] | None = None) -> RunSpec:
        """The full run, with dotted fields changed; probed as the paper does, at every epoch."""
        document: dict[str, Any] = {
            "data": {"name": self.data.info.name, "samples": self.samples},
            "encoder": {"name": self.encoder},
            "projector": {"out_dim": self.out_dim, "hidden": self.hidden},
            "train": {"batch_size": self.batch, "epochs": self.epochs},
            "probe": {"every": "1ep", "standardized": False},
        }
        for key, value in (changes or {}).items():
            document = set_dotted(document, key, value)
        return RunSpec.model_validate(document)

    def settings(self, **changes: Any) -> Options:
        """Where runs go."""
        given: dict[str, Any] = {"store": Store(self.scratch), "data_dir": self.data.folder.parent}
        return Options(**{**given, "device": str(self.device), "threads": self.threads, **changes})


def answered(question: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    """What a question says of ``given``; where it fails, why: the others are worth their answers."""
    try:
        return question(*given)
    except Exception:
        return {"failed": traceback.format_exc()}


def wait(device: torch.device) -> float:
    """The time, once the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Measure the peak of memory anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """Most memory that was held on a GPU since :func:`forget_peak`; on a CPU, by this process in all its time."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
