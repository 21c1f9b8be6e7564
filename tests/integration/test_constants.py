"""What runs share, between processes: computed once, whoever is killed on the way, and on several machines."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments import constants as constants_module
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.objects import lease as remote_lease
from rt_scale.store.objects.store import RemoteStore
from rt_scale.store.store import Store
from rt_scale.training.distributed import Group
from tests.distributed import Ranks
from tests.integration.dying import DIES, outcome
from tests.unit.store.objects.fake import Objects

Start = Callable[..., subprocess.Popen[str]]
DOCUMENT: dict[str, Any] = {
    "data": {"name": "digits", "samples": 256},
    "encoder": {"name": "convnet_8_2", "norm": "batch"},
    "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 256},
    "student": {"alpha": 0.5},
    "train": {"epochs": 2, "batch_size": 64},
    "probe": {"epochs": 2, "standardized": False, "statistics": True},
}
ONE = RunSpec.model_validate(DOCUMENT)
OTHER = RunSpec.model_validate({**DOCUMENT, "student": {"alpha": 1.0}})
MOMENTS = {
    # Killed there -> what the next run finds of it.
    "rt_scale.probes.prober:Prober:embed_network:1:before": {"input": "read"},
    "rt_scale.store.checkpoints::write_json:1:before": {},  # the files of the first constant are there, their list not
}
KINDS = ("input", "teacher", "features")


def settings(store: Store, data_dir: Path, **changes: Any) -> Options:
    return Options(store=store, data_dir=data_dir, device="cpu", threads=1, **changes)


def recorded(store: Store, spec: RunSpec) -> dict[str, str]:
    """Kind of constant -> whether the run read or computed it, over all attempts."""
    environment = store.run(spec).environment()
    assert environment is not None
    found: dict[str, str] = {}
    for attempt in environment["attempts"]:
        found |= {name.split("-")[0]: how for name, how in attempt.get("constants", {}).items()}
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def command(tmp_path: Path, data_dir: Path) -> list[str]:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT))
    where = ["--store", tmp_path / "store", "--data-dir", data_dir]
    return [*map(str, ["run", path, *where]), "--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Store:
    """Both runs, sharing nothing."""
    store = Store(tmp_path_factory.mktemp("alone"))
    for spec in (ONE, OTHER):
        run(spec, settings(store, data_dir, share=False))
    return store


def check(store: Store, alone: Store) -> None:
    for spec in (ONE, OTHER):
        assert outcome(store.run(spec)) == outcome(alone.run(spec))
    assert not list((store.root / "constants").rglob(".tmp-*"))
    assert not any(each.is_held(60.0) for each in store.constants())


def waits(seconds: float) -> None:
    raise AssertionError("It waits for a process that is dead.")


@pytest.mark.parametrize("moment", MOMENTS)
def test_whoever_is_killed_leaves_nothing_that_is_waited_for(
    command: list[str],
    start: Start,
    store: Store,
    alone: Store,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    process = start(moment, *command, program=DIES)
    out, err = process.communicate(timeout=480)
    assert process.returncode == -signal.SIGKILL, (out, err)
    with monkeypatch.context() as patient:
        patient.setattr(constants_module.time, "sleep", waits)
        run(OTHER, settings(store, data_dir))
    assert recorded(store, OTHER) == dict.fromkeys(KINDS, "computed") | MOMENTS[moment]
    run(ONE, settings(store, data_dir))
    assert set(recorded(store, ONE)) == set(KINDS)
    check(store, alone)


def test_two_processes_at_once_compute_each_constant_once(
    command: list[str], start: Start, store: Store, alone: Store, data_dir: Path, wait_for: Any
) -> None:
    process = start(*command)
    wait_for(lambda: list((store.root / "constants").glob("input-*/lease/1.json")), process)
    run(OTHER, settings(store, data_dir))
    out, err = process.communicate(timeout=480)
    assert process.returncode == 0, (out, err)
    one, other = recorded(store, ONE), recorded(store, OTHER)
    assert {kind: {one[kind], other[kind]} for kind in KINDS} == {kind: {"computed", "read"} for kind in KINDS}
    check(store, alone)


def test_another_machine_reads_what_one_sent_to_an_object_store(
    tmp_path: Path, alone: Store, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_lease, "SETTLING", 0.02)
    monkeypatch.setattr(remote_lease, "RESOLUTION", -60.0)
    objects = Objects(time.time)
    one, other = (Store(tmp_path / name, RemoteStore(objects.bucket(), tmp_path / name)) for name in ("a", "b"))
    run(ONE, settings(one, data_dir))
    run(OTHER, settings(other, data_dir))
    assert recorded(other, OTHER) == dict.fromkeys(KINDS, "read")
    assert outcome(other.run(OTHER)) == outcome(alone.run(OTHER))
    assert sum(key.endswith("manifest.json") for key in objects.keys("constants")) == 3


def compute(group: Group, store: Path, data_dir: Path) -> None:
    """Both runs by the processes of a group, sharing in one store and each on its own in another."""
    for spec in (ONE, OTHER):
        for name, share in (("shared", True), ("apart", False)):
            run(spec, settings(Store(store / name), data_dir, group=group, share=share))


def test_workers_together_share_what_workers_together_computed(tmp_path: Path, data_dir: Path) -> None:
    Ranks(tmp_path / "ranks", 2, compute, tmp_path, data_dir).results()
    shared, apart = (Store(tmp_path / name) for name in ("shared", "apart"))
    assert recorded(shared, ONE) == dict.fromkeys(KINDS, "computed")
    assert recorded(shared, OTHER) == dict.fromkeys(KINDS, "read")
    check(shared, apart)
    # One process splits its sums otherwise: it computes its own.
    run(RunSpec.model_validate({**DOCUMENT, "student": {"alpha": 0.0}}), settings(shared, data_dir))
    assert len(shared.constants()) == 6
