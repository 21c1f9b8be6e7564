"""All readers serve a run the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.data.loaders import choose as loaders
from rt_scale.data.loaders.choose import training_loader, training_subset
from rt_scale.data.loaders.gaussian import GaussianLoader
from rt_scale.data.prepare import Prepared
from rt_scale.data.prepared import noise_set
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.store import Store

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BreakOff = Callable[..., None]


@pytest.mark.parametrize("samples", [60, None])
def test_every_reader_gives_the_same_batches(tiny: Tiny, digits: Prepared, samples: int | None) -> None:
    spec = tiny({"data.samples": samples, "seeds.data": 3})
    subset = training_subset(spec, digits)
    expected: list[Any] = []
    for name in ("resident", "host", "map", "ffcv"):
        loader = training_loader(spec, digits, name, CPU, subset)
        batches = [*loader.epoch(1), *loader.sequential()]
        expected = expected or batches
        for batch, known in zip(batches, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, known, strict=True))


def test_ffcv_reads_with_as_many_threads_as_the_run_computes_with(
    tiny: Tiny, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several runs share a machine: each keeps to the cores that it was given."""
    asked: list[Any] = []
    monkeypatch.setattr(loaders, "FFCVLoader", lambda *given, **named: asked.append(named["threads"]))
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        training_loader(tiny(), digits, "ffcv", CPU, None)
    torch.set_num_threads(before)
    assert asked == [1, 3]


@pytest.mark.parametrize(("precision", "dtype"), [("float32", torch.float32), ("float64", torch.float64)])
def test_noise_is_drawn_whatever_the_reader(tiny: Tiny, precision: str, dtype: torch.dtype) -> None:
    data = {"name": "gaussian", "size": 8, "samples": 60, "channels": 1, "sigma": 2.0}
    spec = tiny({"data": data, "probe.also": ["digits"], "precision": precision})
    noise = noise_set("gaussian", 60, 8, 1, 2.0)
    assert training_subset(spec, noise) is None
    loader = training_loader(spec, noise, "drawn", CPU, None, dtype=dtype)
    assert isinstance(loader, GaussianLoader)
    batch = next(loader.epoch(0))
    assert batch.images.dtype == dtype
    assert batch.images.shape == (32, 8, 8, 1)
    assert batch.images.std() == pytest.approx(2.0, rel=0.1)


def finish(spec: RunSpec, given: Options) -> tuple[bytes, Any, Any]:
    """What must not depend on who reads the images."""
    result = run(spec, given)
    run_dir = given.store.run(spec)
    weights = (run_dir.path / "checkpoints" / str(result.steps) / "student.safetensors").read_bytes()
    return weights, read_metrics(run_dir.metrics_path).drop_columns("time"), (result.last, result.best)


@pytest.mark.parametrize("cache", [True, False])
def test_runs_are_bitwise_the_same_whatever_reads_the_images(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path, cache: bool
) -> None:
    found = []
    for loader in ("resident", "map", "ffcv"):
        given = settings(store=Store(tmp_path / loader), loader=loader, cache_teacher=cache, observer=seen)
        found.append(finish(tiny(), given))
        environment = given.store.run(tiny()).record()
        assert environment is not None
        assert environment.execution.loader == loader
        assert seen.named("decided")[-1] == (f"images: {loader}, as {environment.execution.loader_reason}",)
    assert len(seen.named("decided")) == 3
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize(("first", "then"), [("resident", "ffcv"), ("ffcv", "map"), ("map", "resident")])
def test_a_run_goes_on_bitwise_with_another_reader(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path, break_off: BreakOff, first: str, then: str
) -> None:
    spec = tiny({"train.epochs": 3})
    undisturbed = finish(spec, settings(store=Store(tmp_path / "undisturbed"), loader=first))

    break_off(spec, settings(observer=seen, loader=first), at=5)
    assert finish(spec, settings(observer=seen, loader=then)) == undisturbed
    assert seen.named("started") == [(0, 6), (4, 6)]
    environment = settings().store.run(spec).record()
    assert environment is not None
    assert environment.execution.loader == then
