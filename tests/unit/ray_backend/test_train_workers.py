"""What became of a run of several workers, from what they left; real workers are in tests/integration."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from rt_scale.ray_backend import train_workers
from rt_scale.ray_backend.trial import TrialConfig
from rt_scale.spec.errors import InputError, RtScaleError, RunError, WorkersDied
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store

SPEC = RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}})


def fit(
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    refused: RtScaleError | None,
    nodes: Collection[str] = (),
    there: Sequence[str] = (),
) -> None:
    monkeypatch.setattr(train_workers, "living_ids", lambda: there)
    monkeypatch.setattr(train_workers, "_fit", lambda *given: "a worker is gone")
    client: Any = SimpleNamespace(
        begin=lambda: None,
        stage=lambda text: None,
        pass_on=lambda: None,
        outcome=lambda: (None, refused, nodes),
        told=None,
    )
    config = TrialConfig(
        specs=(SPEC,), launch=LaunchSpec(workers=2), store=str(store), data_dir=store, device="cpu", local=True
    )
    train_workers.run_with_workers(config, client)


def test_workers_that_are_lost_with_a_node_are_preempted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_workers, "lost_node", {"n1": "", "n2": "its node 10.0.0.3 was lost"}.__getitem__)
    with pytest.raises(WorkersDied, match="a worker of its 2 died") as died:
        fit(monkeypatch, tmp_path, None, ["n1"])
    with pytest.raises(WorkersDied, match=r"^its node 10\.0\.0\.3 was lost$") as lost:
        fit(monkeypatch, tmp_path, None, ["n1", "n2"])
    with pytest.raises(WorkersDied) as unstarted:
        fit(monkeypatch, tmp_path, None, ["n1"], there=["n1", "n2"])
    assert [each.value.with_node for each in (died, lost, unstarted)] == [False, True, True]


def test_the_failure_of_a_worker_without_the_lease_is_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="Worker 1: no memory") as caught:
        fit(monkeypatch, tmp_path, RunError("Worker 1: no memory"))
    assert type(caught.value) is RunError
    run_dir = Store(tmp_path).run(SPEC)
    failure = run_dir.failure()
    assert failure is not None
    assert (failure["reason"], run_dir.status().state) == ("Worker 1: no memory", "failed")


@pytest.mark.parametrize(("refused", "kind"), [(InputError("no such data"), InputError), (None, WorkersDied)])
def test_a_refusal_or_a_death_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: RtScaleError | None, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        fit(monkeypatch, tmp_path, refused)
    assert Store(tmp_path).run(SPEC).failure() is None


@pytest.mark.parametrize("before", [None, "10.0.0.9:6379"])
def test_ray_train_is_told_its_ray_while_it_trains(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if before is not None:
        monkeypatch.setenv("RAY_ADDRESS", before)
    seen = []

    def trained() -> None:
        seen.append((os.environ["RAY_ADDRESS"], "RAY_ADDRESS" in train_workers.ENV_VARS_TO_PROPAGATE))
        raise OSError("a worker is gone")

    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address="10.0.0.1:6379"))
    monkeypatch.setattr(train_workers, "TorchTrainer", lambda *_, **__: SimpleNamespace(fit=trained))
    config = TrialConfig(
        specs=(SPEC,), launch=LaunchSpec(workers=2), store=str(tmp_path), data_dir=tmp_path, device="cpu", local=True
    )
    assert train_workers._fit(config, str(tmp_path)) == "a worker is gone"
    assert seen == [("10.0.0.1:6379", True)]
    assert os.environ.get("RAY_ADDRESS") == before
