"""Runs that take only the start of another: nothing but the other's spec is needed, and its data set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import Sets, check, unfinished
from rt_scale.experiments.dependencies import weights_of
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.experiments.network import NetworkOf
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store

Tiny = Callable[..., TrainingSpec]
Make = Callable[..., Options]
Weights = dict[str, torch.Tensor]
FREE: dict[str, Any] = {"student": {}}
"""The tiny spec's alpha aside."""
FIRST = {"same_but": {"seeds": {"teacher": 5, "student": 6}, "teacher": {}, "student": {"alpha": 0.75}}}


def equal(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)


def began(store: Store, spec: TrainingSpec, name: str = "student") -> Weights:
    return load_file(store.run(spec).path / "checkpoints" / "0" / f"{name}.safetensors")


def of(spec: TrainingSpec, take: str) -> NetworkOf:
    return NetworkOf.model_validate({"run": spec.model_dump(mode="json"), "take": take})


STARTS: dict[str, dict[str, Any]] = {
    "near": {"encoder.norm": "batch"},
    "epsilon": {**FREE, "student.epsilon": 0.5},
    "float64": {"precision": "float64"},
    "bf16": {"precision": "bf16", "projector.init": "torch"},
    "labels": {"kind": "supervise", "projector.out_dim": 10},
    "size": {"data.size": 12, "encoder.name": "mlp_16_1"},
    "around a student": {"teacher.start_from": {"run": FIRST}},
    "around a student of float64": {"teacher.start_from": {"run": {"same_but": {"precision": "float64"}}}},
    "encoder of a student": {**FREE, "student.start_from": {"run": FIRST, "part": "encoder"}},
    "two drawn": {
        **FREE,
        "teacher.start_from": {"run": FIRST, "take": "teacher"},
        "student.start_from": {"run": FIRST, "take": "init"},
    },
}


@pytest.mark.parametrize("changes", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("take", ["init", "teacher"])
def test_drawn_weights_are_those_of_the_runs_first_checkpoint(
    tiny: Tiny, settings: Make, take: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    spec, given = tiny(changes), settings()
    network = of(spec, take)
    assert network.drawn
    for first in network.needed:
        run(first, given)
    data = check(spec, given.data_dir)
    assert data is not None
    drawn = weights_of(network, given.store, Sets(data.main, starts={spec.name: data}))
    assert {path.name for path in (tmp_path / "store" / "runs").glob("*")} == {run.name for run in network.needed}
    run(spec, given)
    assert equal(drawn, began(given.store, spec, "teacher" if take == "teacher" else "student"))


@pytest.mark.parametrize("take", ["init", "teacher"])
@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_run_that_takes_a_start_computes_no_other_and_is_the_same(
    tiny: Tiny, settings: Make, take: str, role: str, tmp_path: Path
) -> None:
    spec = tiny({**FREE, f"{role}.start_from": {"run": FIRST, "take": take}})
    alone, after = (settings(store=Store(tmp_path / name)) for name in ("alone", "after"))
    assert [each.name for each in unfinished(spec, alone.store)] == [spec.name]
    results = [run(spec, alone)]
    assert [path.name for path in (alone.store.root / "runs").iterdir()] == [spec.name]
    run(spec.starts[0].run, after)
    results.append(run(spec, after))
    assert results[0].last == results[1].last
    assert results[0].data == results[1].data
    assert equal(began(alone.store, spec, role), began(after.store, spec, role))
    (record,) = results[0].data.starts.values()
    assert record.name == "digits"


def rewrite(run_dir: RunDir, change: Callable[[Path], None]) -> None:
    """The checkpoint of step 0 as if it had been written so."""
    folder = run_dir.checkpoints.folder / "0"
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}

    def write(there: Path) -> None:
        for name, content in files.items():
            (there / name).write_bytes(content)
        change(there)

    with run_dir.acquire():
        run_dir.save_checkpoint(0, write)


def test_the_file_of_a_begun_run_counts(tiny: Tiny, settings: Make) -> None:
    """As of a run of an earlier version, or of another torch."""
    spec, given = tiny({**FREE, "student.start_from": {"run": FIRST, "take": "init"}}), settings()
    first = spec.starts[0].run
    run(first, given)
    other = {name: value + 1 for name, value in began(given.store, first).items()}
    rewrite(given.store.run(first), lambda folder: save_file(other, folder / "student.safetensors"))
    given.store.run(first).path.joinpath("result.json").unlink()  # as while it is running
    assert equal(weights_of(spec.starts[0], given.store, None), other)
    run(spec, given)
    assert equal(began(given.store, spec), other)


def test_a_file_that_a_bundle_left_out_is_drawn(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({**FREE, "student.start_from": {"run": FIRST, "take": "init"}}), settings()
    first = spec.starts[0].run
    run(first, given)
    before = began(given.store, first)
    rewrite(given.store.run(first), lambda folder: (folder / "student.safetensors").unlink())
    assert equal(weights_of(spec.starts[0], given.store, check(spec, given.data_dir)), before)


def test_a_damaged_file_is_not_drawn_over(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({**FREE, "student.start_from": {"run": FIRST, "take": "init"}}), settings()
    run(spec.starts[0].run, given)
    (given.store.run(spec.starts[0].run).checkpoints.folder / "0" / "student.safetensors").write_bytes(b"torn")
    with pytest.raises(RunError, match=r"takes the init of run .* not as it was written .* Move the folder"):
        run(spec, given)


def test_a_kind_without_data_cannot_draw(tiny: Tiny, settings: Make) -> None:
    with pytest.raises(InputError, match="opens no data set: let its spec name one in data_sets"):
        weights_of(of(tiny(), "init"), settings().store, None)


def test_a_start_on_other_images_is_drawn_for_them(tiny: Tiny, settings: Make, colours: Prepared) -> None:
    spec, given = tiny({"data": {"name": "colours"}}), settings()
    data = check(spec, given.data_dir)
    assert data is not None
    weights = weights_of(of(spec, "init"), given.store, Sets(data.main, starts={spec.name: data}))
    assert weights["encoder.features.0.weight"].shape[1] == 3
    taking = tiny({**FREE, "student.start_from": {"run": {"same_but": {"data": {"name": "colours"}}}, "take": "init"}})
    with pytest.raises(InputError, match="another number of channels"):
        run(taking, given)
    missing = tiny({**FREE, "student.start_from": {"run": {"same_but": {"data": {"name": "nowhere"}}}, "take": "init"}})
    with pytest.raises(InputError, match="'nowhere'"):
        run(missing, given)


def test_what_a_start_needs_is_computed_first(tiny: Tiny, settings: Make) -> None:
    middle = {"same_but": {"teacher": {"start_from": {"run": FIRST}}, "student": {"alpha": 0.25}}}
    spec, given = tiny({**FREE, "student.start_from": {"run": middle, "take": "init"}}), settings()
    between = spec.starts[0].run
    (first,) = spec.dependencies
    assert first == between.starts[0].run
    run(spec, given)
    assert {path.name for path in (given.store.root / "runs").iterdir()} == {first.name, spec.name}
    run(between, given)
    assert equal(began(given.store, spec), began(given.store, between))
