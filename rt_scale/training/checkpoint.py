"""Everything that resuming needs: weights as safetensors, the rest as a file for ``weights_only`` loading."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rt_scale.training.loop import Progress
from rt_scale.training.teacher import Sharpening

STATE = "state.pt"
STUDENT = "student.safetensors"


@dataclass(frozen=True)
class Spent:
    """Wall time of a run over all its attempts, and GPU-seconds (``gpu``) or core-seconds (``cpu``) held."""

    seconds: float = 0.0
    devices: Mapping[str, float] = field(default_factory=dict)

    def plus(self, seconds: float, kind: str, held: float) -> Spent:
        """The sum after ``seconds`` more, during which ``held`` devices of ``kind`` were held."""
        return Spent(self.seconds + seconds, {**self.devices, kind: self.devices.get(kind, 0.0) + seconds * held})


def save_weights(path: Path, model: nn.Module) -> None:
    """Write parameters and buffers to ``path`` (safetensors, contiguous layout)."""
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, path)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers by name, on the CPU; OSError or SafetensorError if the file is missing or damaged."""
    weights: dict[str, Tensor] = load_file(path)
    return weights


def save_training(
    folder: Path,
    student: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    sharpenings: Mapping[str, Sharpening],
) -> None:
    """Write weights, optimiser, progress, centres and the state of every random generator into ``folder``."""
    save_weights(folder / STUDENT, student)
    state = {
        "optimizer": optimizer.state_dict(),
        "epoch": progress.epoch,
        "step": progress.step,
        "sums": progress.sums,
        "weight": progress.weight,
        "evaluate_first": progress.evaluate_first,
        "centres": {name: each.centre for name, each in sharpenings.items() if each.centre is not None},
        "rng": rng_state(),
    }
    torch.save(state, folder / STATE)


def load_training(
    folder: Path, student: nn.Module, optimizer: torch.optim.Optimizer, sharpenings: Mapping[str, Sharpening]
) -> tuple[Progress, Spent | None]:
    """Undo :func:`save_training`; returns the progress, and the time spent if an earlier version wrote it here.

    Raises:
        OSError, ValueError, UnpicklingError: a file is damaged; nothing was changed.
        RuntimeError, KeyError: the files are of another model or version.
    """
    state: Mapping[str, Any] = torch.load(folder / STATE, map_location="cpu", weights_only=True)
    weights = read_weights(folder / STUDENT)
    student.load_state_dict(weights)
    optimizer.load_state_dict(dict(state["optimizer"]))
    device = next(student.parameters()).device
    for name, sharpening in sharpenings.items():
        centre: Tensor | None = state["centres"].get(name)
        sharpening.centre = None if centre is None else centre.to(device)
    restore_rng(state["rng"])
    # Checkpoints of older versions lack these two: they were written after the evaluation, and without device time.
    evaluate_first = bool(state.get("evaluate_first", False))
    progress = Progress(state["epoch"], state["step"], dict(state["sums"]), state["weight"], evaluate_first)
    spent = Spent(float(state["elapsed"]), dict(state.get("devices", {}))) if "elapsed" in state else None
    return progress, spent


def rng_state() -> dict[str, Any]:
    """The state of the generators of torch, numpy and Python in this process."""
    # rt-scale draws from generators seeded by (name, seed, epoch), without state to keep; libraries may use these.
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def restore_rng(state: Mapping[str, Any]) -> None:
    """Undo what was drawn since :func:`rng_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.device_count() == len(state["cuda"]):
        tensors: list[Tensor] = state["cuda"]
        torch.cuda.set_rng_state_all(tensors)
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
