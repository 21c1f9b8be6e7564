"""How long packed runs take: by packed ones in a store, else by runs alone, which is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.plan import estimate as module
from rt_scale.plan.estimate import ALONE
from rt_scale.plan.run_work import count_run
from rt_scale.store.store import Store
from tests.unit.plan.estimating import FIXED, Fixed, estimator, finish, node, spec


@pytest.fixture(autouse=True)
def _rates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Calibration", Fixed)
    monkeypatch.setattr(Fixed, "asked", [])


def packed(store: Store, seed: int, seconds: float, pack: int, measured: bool = False, **changes: Any) -> None:
    """A run that was finished as one of ``pack`` in a process, as many as ``auto`` measured or as were asked for."""
    finish(store, spec(seeds__data=seed, **changes), seconds, pack=pack, measured=measured)


def test_packed_runs_are_measured_by_packed_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, spec(), 5.0)
    for seed, (seconds, pack) in enumerate(((12.0, 4), (14.0, 4), (16.0, 4), (10.0, 2)), 1):
        packed(store, seed, seconds, pack)
    found = estimator(store, spec())
    told = [(each.seconds, each.how) for each in (found.estimate(node(spec()), together) for together in (1, 2, 4))]
    assert told == [
        (5.0, "measured from 1 run (a chip)"),
        (5.0, "measured from 1 run, 2 to a process (a chip)"),
        (3.5, "measured from 3 runs, 4 to a process (a chip)"),
    ]
    # Three were never together: all that were packed are asked.
    other = found.estimate(node(spec()), 3)
    assert (other.seconds, other.how) == ((3.5 + 4) / 2, "measured from 4 runs, 2 or 4 to a process (a chip)")


def test_packed_runs_of_another_length_are_scaled(tmp_path: Path) -> None:
    packed(Store(tmp_path), 1, 12.0, 4)
    longer = spec(train__epochs=30)
    works = [count_run(run, DATASETS["digits"], {}).seconds(FIXED) for run in (longer, spec())]
    found = estimator(Store(tmp_path), spec()).estimate(node(longer), 4)
    assert found.seconds == pytest.approx(3 * works[0] / works[1])
    assert found.how == "measured from 1 run of another length, scaled, 4 to a process (a chip)"


def test_where_no_packed_run_was_measured_they_are_as_runs_alone(tmp_path: Path) -> None:
    found = estimator(Store(tmp_path), spec()).estimate(node(spec()), 4)
    assert found.seconds == pytest.approx(count_run(spec(), DATASETS["digits"], {}).seconds(FIXED))
    assert found.how == f"fixed, {ALONE}"
    finish(Store(tmp_path), spec(), 5.0)
    found = estimator(Store(tmp_path), spec()).estimate(node(spec()), 4)
    assert (found.seconds, found.how) == (5.0, f"measured from 1 run (a chip), {ALONE}")


def test_what_a_packed_run_took_says_nothing_of_one_alone(tmp_path: Path) -> None:
    packed(Store(tmp_path), 1, 12.0, 4)
    assert estimator(Store(tmp_path), spec()).estimate(node(spec())).how == "fixed"


def test_checkpoints_come_at_ends_of_epochs_of_the_process(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(probe__every="2ep"), 50.0)
    found = estimator(Store(tmp_path), spec(probe__every="2ep"))
    run = node(spec(probe__every="2ep"))
    # An epoch takes 5 s alone, and 20 s among four: after the second one it is probed.
    assert [found.estimate(run, together).checkpoint for together in (1, 4)] == [10.0, 40.0]


def test_the_best_number_is_what_auto_measured(tmp_path: Path) -> None:
    store = Store(tmp_path)
    packed(store, 1, 12.0, 4)
    assert estimator(store, spec()).best_pack(node(spec())) is None
    packed(store, 2, 5.0, 1, measured=True)
    assert estimator(store, spec()).best_pack(node(spec())) == 1
    packed(store, 3, 9.0, 8, measured=True)
    packed(store, 4, 9.0, 3, measured=True)  # as no more were waiting
    assert estimator(store, spec()).best_pack(node(spec())) == 8
    assert estimator(store, spec()).best_pack(node(spec(), cpus=2)) is None
    assert estimator(store, spec()).best_pack(node(spec(projector__out_dim=64))) is None
