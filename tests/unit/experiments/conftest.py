"""A run that takes a tenth of a second, and everything that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rt_scale.data.prepare import Prepared, open_prepared, prepare
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.document import resolve_same, set_dotted
from rt_scale.spec.errors import RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store

TINY: dict[str, Any] = {
    "data": {"name": "digits", "samples": 60},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "student": {"alpha": 0.5},
    "train": {"epochs": 2, "batch_size": 32, "optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}},
    "probe": {"every": "1ep", "knn": 5, "epochs": 2, "batch_size": 32, "lr": 0.01},
}
"""2 epochs of 2 steps each."""


@dataclass
class Seen:
    """An observer that remembers every call, in order."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)

    def stage(self, text: str) -> None:
        self.calls.append(("stage", text))

    def started(self, step: int, steps: int) -> None:
        self.calls.append(("started", step, steps))

    def stepped(self, step: int) -> None:
        self.calls.append(("stepped", step))

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        self.calls.append(("logged", step, epoch, dict(values)))

    def decided(self, text: str) -> None:
        self.calls.append(("decided", text))

    def warned(self, text: str) -> None:
        self.calls.append(("warned", text))

    def named(self, kind: str) -> list[tuple[Any, ...]]:
        """The arguments of every call of one kind."""
        return [call[1:] for call in self.calls if call[0] == kind]


@pytest.fixture
def seen() -> Seen:
    return Seen()


BreakOff = Callable[..., None]
"""From a spec, options with a ``Seen`` and ``at``, a step, to a run that fails when that step is shown."""


@pytest.fixture
def break_off(monkeypatch: pytest.MonkeyPatch) -> BreakOff:
    def run_until(spec: RunSpec, options: Options, *, at: int) -> None:
        def stop(step: int) -> None:
            if step == at:
                raise RuntimeError("stopped on the way")

        with monkeypatch.context() as patch:
            patch.setattr(options.observer, "stepped", stop)
            with pytest.raises(RunError, match="stopped on the way"):
                run(spec, options)

    return run_until


def curves(store: Store, spec: RunSpec) -> dict[str, list[tuple[int, float]]]:
    """Name of each metric of a run -> its steps and values."""
    table = read_metrics(store.run(spec).metrics_path).to_pydict()
    found: dict[str, list[tuple[int, float]]] = {}
    for step, name, value in zip(table["step"], table["name"], table["value"], strict=True):
        found.setdefault(name, []).append((step, value))
    return found


def saved(run_dir: RunDir, step: int, name: str = "student") -> dict[str, torch.Tensor]:
    """The weights in one checkpoint of a run."""
    return load_file(run_dir.path / "checkpoints" / str(step) / f"{name}.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two networks have the same weights, bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def resumed_and_whole(settings: Callable[..., Options], seen: Seen, break_off: BreakOff, tmp_path: Path) -> Any:
    """From a spec to the stores of two runs of it: one broken off at step 3 of 4 and resumed, one undisturbed.

    Their curves and their last weights are the same.
    """

    def make(spec: RunSpec) -> tuple[Store, Store]:
        resumed, whole = (settings(store=Store(tmp_path / name), observer=seen) for name in ("resumed", "whole"))
        run(spec, whole)
        for before in spec.dependencies:
            run(before, resumed)
        break_off(spec, resumed, at=3)
        run(spec, resumed)
        assert curves(resumed.store, spec) == curves(whole.store, spec)
        assert equal(*(saved(options.store.run(spec), 4) for options in (resumed, whole)))
        return resumed.store, whole.store

    return make


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    open_prepared("digits", folder)
    return folder


@pytest.fixture(scope="session")
def digits(data_dir: Path) -> Prepared:
    return open_prepared("digits", data_dir)


@pytest.fixture(scope="session")
def colours(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The set `colours` beside the digits: 100 noisy colour images of 8 x 8 pixels, 50 of each of two classes."""
    folder = tmp_path_factory.mktemp("originals") / "colours"
    generator = np.random.default_rng(0)
    for number in range(100):
        path = folder / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return prepare("colours", data_dir, folder)


@pytest.fixture(scope="session")
def tiny() -> Callable[..., RunSpec]:
    """The tiny spec with dotted fields changed; `same` and `same_but` may stand for other runs."""

    def make(changes: Mapping[str, Any] | None = None) -> RunSpec:
        document = TINY
        for key, value in (changes or {}).items():
            document = set_dotted(document, key, value)
        return RunSpec.model_validate(resolve_same(document))

    return make


@pytest.fixture
def settings(tmp_path: Path, data_dir: Path) -> Callable[..., Options]:
    """Options on the CPU with one thread and a store of the test's own."""

    def make(**changes: Any) -> Options:
        defaults = {"store": Store(tmp_path / "store"), "data_dir": data_dir, "device": "cpu", "threads": 1}
        return Options(**{**defaults, **changes})

    return make
