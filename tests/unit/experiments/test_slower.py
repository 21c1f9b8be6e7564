"""What takes longer than it was meant to is said in the run's record and to its observer. No GPU is needed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.experiments.context import Follower
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.probes import linear
from rt_scale.spec.run import RunSpec
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.records import run_record

REASON = "its capture failed (no memory for the graph)"


def refusing(*of_what: Any) -> Any:
    raise RuntimeError("no memory for the graph\nand more")


def test_the_record_is_that_of_the_first_rank(tmp_path: Path, settings: Callable[..., Options]) -> None:
    run_dir = RunDir(tmp_path / "distill-0000000000000000")
    Follower(run_dir, run_record().execution, settings(), hparams={}).slower("linear probe", REASON)
    assert not run_dir.path.exists()


def test_a_run_tells_of_it(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "GRAPHED_ON", ("cpu",))
    monkeypatch.setattr(linear, "replayed", refusing)
    given = settings(observer=seen)
    run(tiny({"probe.batch_size": 8}), given)
    environment = given.store.run(tiny({"probe.batch_size": 8})).record()
    assert environment is not None
    assert environment.attempts[-1].slower == {"linear probe": REASON}
    assert len(seen.named("warned")) == 1


def test_a_run_tells_once_of_its_students_pass(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], seen: Any
) -> None:
    """Which goes module by module where CUDA's graphs are asked for and there is no GPU."""
    plain = run(tiny(), settings(store=Store(settings().store.root / "plain")))
    given = settings(observer=seen, accelerate="graphs")
    assert run(tiny(), given).last == plain.last
    environment = given.store.run(tiny()).record()
    assert environment is not None
    slower = environment.attempts[-1].slower
    assert slower.keys() == {"student's pass"}
    assert "its acceleration failed" in slower["student's pass"]
    (warned,) = seen.named("warned")
    assert "student's pass" in warned[0]


def test_a_run_that_goes_as_meant_tells_of_nothing(
    tiny: Callable[..., RunSpec], settings: Callable[..., Options], seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "GRAPHED_ON", ("cpu",))
    monkeypatch.setattr(linear, "replayed", lambda step, rows: step)
    given = settings(observer=seen)
    run(tiny({"probe.batch_size": 8}), given)
    environment = given.store.run(tiny({"probe.batch_size": 8})).record()
    assert environment is not None
    assert environment.attempts[-1].slower == {}
    assert not seen.named("warned")
