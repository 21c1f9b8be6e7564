"""Runs that share what is constant in them, and are bit for bit what they are alone."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rt_scale.experiments import constants as module
from rt_scale.experiments.constants import FollowedConstants
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.pair import build_pair
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store import constants as kept_by_store
from rt_scale.store.constants import Constant
from rt_scale.store.store import Store
from rt_scale.training.loop import Stopped
from tests.integration.dying import outcome

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
WORK = {
    "probing input pixels": "input",
    "probing the teacher": "teacher",
    "embedding the teacher's targets": "features",
}
KINDS = ["features", "input", "teacher"]


def computed(seen: Any) -> list[str]:
    """Kinds of the constants that were computed since this was last asked."""
    found = sorted(WORK[text] for (text,) in seen.named("stage") if text in WORK)
    seen.calls.clear()
    return found


def recorded(store: Store, spec: RunSpec) -> dict[str, str]:
    """Kind of constant -> whether the newest attempt read or computed it."""
    environment = store.run(spec).environment()
    assert environment is not None
    return {name.split("-")[0]: how for name, how in environment["attempts"][-1].get("constants", {}).items()}


def same_as_alone(store: Store, spec: RunSpec, settings: Make, tmp_path: Path) -> None:
    alone = settings(store=Store(tmp_path / "alone"), share=False)
    run(spec, alone)
    assert not (alone.store.root / "constants").exists()
    assert outcome(store.run(spec)) == outcome(alone.store.run(spec))


def test_the_second_run_computes_nothing_of_what_it_shares(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path
) -> None:
    changes = {"probe.statistics": True, "probe.also": ["digits"]}
    first, second = (tiny({**changes, "student.alpha": alpha}) for alpha in (0.5, 1.0))
    given = settings(observer=seen)
    run(first, given)
    assert computed(seen) == KINDS
    assert recorded(given.store, first) == dict.fromkeys(KINDS, "computed")
    run(second, given)
    assert computed(seen) == []
    assert recorded(given.store, second) == dict.fromkeys(KINDS, "read")
    for spec in (first, second):
        same_as_alone(given.store, spec, settings, tmp_path)
    assert sorted(each.name.split("-")[0] for each in given.store.constants()) == KINDS
    about = json.loads((_constant(given.store, "teacher").path / "0" / "about.json").read_text())
    assert about["made"]["run"] == first.name
    assert about["of"]["execution"]["threads"] == 1


def _constant(store: Store, kind: str) -> Constant:
    (found,) = (each for each in store.constants() if each.name.startswith(kind))
    return found


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({"teacher.update": "ema"}, ["input"]),
        ({"teacher.mode": "train"}, ["input", "teacher"]),
        ({"seeds.teacher": 1, "precision": "float64"}, KINDS),
    ],
)
def test_what_moves_is_not_shared(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path, changes: dict[str, Any], shared: list[str]
) -> None:
    given = settings(observer=seen)
    for alpha in (0.25, 0.75):
        spec = tiny({**changes, "student.alpha": alpha})
        run(spec, given)
    assert recorded(given.store, spec) == dict.fromkeys(shared, "read")
    same_as_alone(given.store, spec, settings, tmp_path)


@pytest.mark.parametrize("damage", ["cut", "another"])
def test_what_is_damaged_is_computed_again_and_told(tiny: Tiny, settings: Make, seen: Any, damage: str) -> None:
    given = settings(observer=seen)
    run(tiny(), given)
    for each in given.store.constants():
        path = each.path / "0" / ("about.json" if damage == "another" else "manifest.json")
        if damage == "cut":
            os.truncate(path, path.stat().st_size // 2)
            continue
        # Whole by its checksums, but of other ingredients.
        about = json.loads(path.read_text())
        about["of"]["precision"] = "float64"
        with each.claim() as lease:
            others = {file.name: file.read_bytes() for file in path.parent.iterdir() if file.name != "manifest.json"}
            others["about.json"] = json.dumps(about).encode()

            def write(folder: Path, files: dict[str, bytes] = others) -> None:
                for name, data in files.items():
                    (folder / name).write_bytes(data)

            each.write(lease, write)
    computed(seen)
    second, third = (tiny({"student.alpha": alpha}) for alpha in (0.25, 0.75))
    run(second, given)
    warnings = [text for (text,) in seen.named("warned")]
    assert len(warnings) == 3
    assert all("is damaged (" in text and text.endswith("It is computed again.") for text in warnings)
    assert computed(seen) == KINDS
    run(third, given)
    assert computed(seen) == []


def test_another_process_is_waited_for(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = settings(store=Store(tmp_path / "before"))
    run(tiny(), before)
    done = _constant(before.store, "teacher")
    given = settings(observer=seen)
    constant = given.store.constant(done.name)
    lease = constant.claim()

    def sleep(seconds: float) -> None:
        def write(folder: Path) -> None:
            shutil.copy(done.path / "0" / "about.json", folder)

        constant.write(lease, write)
        lease.release()

    monkeypatch.setattr(module.time, "sleep", sleep)
    run(tiny(), given)
    who = f"process {os.getpid()} on host"
    assert any(f"waiting for {done.name}, which {who}" in text for (text,) in seen.named("stage"))
    assert recorded(given.store, tiny()) == {"input": "computed", "teacher": "read", "features": "computed"}
    assert outcome(given.store.run(tiny())) == outcome(before.store.run(tiny()))


def test_nobody_is_waited_for_for_ever(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "PAUSE", 0.01)
    before, given = settings(store=Store(tmp_path / "before")), settings(observer=seen)
    run(tiny(), before)
    constant = given.store.constant(_constant(before.store, "input").name)
    with constant.claim() as lease:
        with pytest.raises(Stopped):
            run(tiny(), settings(stop=lambda: True))
        run(tiny(), given)
        lease.check()
    (warning,) = (text for (text,) in seen.named("warned"))
    assert f"{constant.name} was waited for for 0.05 s (process {os.getpid()}" in warning
    assert recorded(given.store, tiny()) == {"teacher": "computed", "features": "computed"}
    assert outcome(given.store.run(tiny())) == outcome(before.store.run(tiny()))


@pytest.mark.parametrize("refuses", ["claim", "write"])
def test_a_store_that_refuses_costs_a_computation(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refuses: str
) -> None:
    def refuse(*_: Any) -> None:
        raise {"claim": InputError, "write": RunError}[refuses]("The disk is full.")

    monkeypatch.setattr(Constant, refuses, refuse)
    given = settings(observer=seen)
    run(tiny(), given)
    warnings = [text for (text,) in seen.named("warned")]
    assert len(warnings) == 3
    assert all(text.startswith("The disk is full. So ") and "not kept" in text for text in warnings)
    assert recorded(given.store, tiny()) == {}
    same_as_alone(given.store, tiny(), settings, tmp_path)


def test_what_is_too_large_is_computed_by_every_run(
    tiny: Tiny, settings: Make, seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(observer=seen)
    for limit, features in ((60 * 8 * 4 - 1, ["features"]), (60 * 8 * 4, [])):
        monkeypatch.setattr(kept_by_store, "LARGEST_KEPT", limit)
        run(tiny({"student.alpha": 0.1 if features else 0.2}), given)
        computed(seen)
        run(tiny({"student.alpha": 0.3 if features else 0.4}), given)
        assert computed(seen) == features


class Ranks:
    """A group of which this is rank 1; rank 0 found what was asked for, or did not."""

    def __init__(self, found: bool) -> None:
        self.found = found

    def by_first(self, work: Callable[[], bool]) -> bool:
        return self.found

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 3  # what rank 0 has


@pytest.mark.parametrize("found", [True, False])
def test_other_ranks_compute_what_rank_0_did_not_find(tiny: Tiny, found: bool) -> None:
    teacher = build_pair(tiny(), 1, 8).teacher.double()
    constants = FollowedConstants(Ranks(found))  # type: ignore[arg-type]
    for values in (constants.input_probes(lambda: {"a": 1}), constants.teacher_probes(teacher, lambda: {"a": 1})):
        assert values == ({} if found else {"a": 1})
    own = torch.ones(5, 8, dtype=torch.float64)
    features = constants.features(teacher, 5, lambda: own)
    assert torch.equal(features, torch.full_like(own, 3) if found else own)
