"""How long runs take: by runs of their shape in a store, by their FLOPs, or unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import known_data
from rt_scale.plan import estimate as module
from rt_scale.plan import history as measured_module
from rt_scale.plan.estimate import Estimator
from rt_scale.plan.history import measured_runs, shape
from rt_scale.plan.run_work import count_run
from rt_scale.plan.short_run import ShortRunTimes
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.unit.plan.estimating import BASE, DIGITS, FIXED, Fixed, estimator, finish, node, spec


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setattr(module, "Calibration", Fixed)
    monkeypatch.setattr(Fixed, "asked", [])
    return Fixed.asked


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seeds__data", 3),
        ("student__alpha", 0.5),
        ("student__epsilon", 0.1),
        ("student__temperature", 0.1),
        ("teacher__temperature", 0.1),
        ("train__epochs", 3),
        ("train__freeze_last", "1ep"),
        ("train__optimizer", {"lr": 0.1, "weight_decay": 0.1}),
        ("probe__every", "1ep"),
        ("probe__lr", 0.1),
        ("projector__init", "torch"),
        ("teacher__start_from", {"run": BASE}),
    ],
)
def test_a_shape_has_nothing_that_costs_the_same(field: str, value: Any) -> None:
    assert shape(spec(**{field: value})) == shape(spec())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("encoder__name", "convnet_8_3"),
        ("projector__out_dim", 64),
        ("data__samples", 100),
        ("train__batch_size", 128),
        ("train__optimizer", {"name": "sgd"}),
        ("probe__epochs", 3),
        ("probe__knn", 0),
        ("precision", "float64"),
        ("teacher__update", "ema"),
    ],
)
def test_whatever_changes_the_cost_is_another_shape(field: str, value: Any) -> None:
    assert shape(spec(**{field: value})) != shape(spec())


def test_measured_runs_are_the_middle_of_those_alike(tmp_path: Path, asked: list[Any]) -> None:
    store = Store(tmp_path)
    for seed, seconds in enumerate((1.0, 9.0, 2.0)):
        finish(store, spec(seeds__data=seed), seconds)
    found = estimator(store, spec()).estimate(node(spec(seeds__data=7)))
    assert (found.seconds, found.left, found.how) == (2.0, 2.0, "measured from 3 runs (a chip)")
    assert asked == []


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"threads": 2}, {}),
        ({}, {"cpus": 2}),
        ({"device": "cuda:0"}, {}),
    ],
)
def test_runs_on_other_devices_or_threads_do_not_count(
    tmp_path: Path, given: dict[str, Any], wanted: dict[str, Any]
) -> None:
    finish(Store(tmp_path), spec(), 5.0, **given)
    assert estimator(Store(tmp_path), spec()).estimate(node(spec(), **wanted)).how == "fixed"


def test_on_a_gpu_threads_do_not_matter_and_its_name_is_told(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 5.0, device="cuda:1", threads=8, name="a big one")
    found = estimator(Store(tmp_path), spec()).estimate(node(spec(), gpus=0.5))
    assert (found.seconds, found.how) == (5.0, "measured from 1 run (a big one)")


def test_runs_of_another_length_are_scaled_by_steps_and_probings(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 5.0)
    longer = spec(train__epochs=30, probe__every="10ep")
    found = estimator(Store(tmp_path), spec()).estimate(node(longer))
    works = [count_run(run, DATASETS["digits"], {}).total.flops for run in (longer, spec())]
    assert found.seconds == pytest.approx(5 * works[0] / works[1])
    assert found.how == "measured from 1 run of another length, scaled (a chip)"


def test_runs_on_as_many_workers_come_first(tmp_path: Path, asked: list[Any]) -> None:
    store = Store(tmp_path)
    for seed, (seconds, workers) in enumerate(((8.0, None), (8.0, 1), (5.0, 2), (3.0, 4))):
        finish(store, spec(seeds__data=seed), seconds, workers=workers)
    found = estimator(store, spec())
    told = [(each.seconds, each.how) for each in (found.estimate(node(spec(), workers=k)) for k in (1, 2, 4))]
    assert told == [
        (8.0, "measured from 2 runs (a chip)"),
        (5.0, "measured from 1 run on 2 workers (a chip)"),
        (3.0, "measured from 1 run on 4 workers (a chip)"),
    ]
    assert asked == []
    longer = found.estimate(node(spec(train__epochs=30), workers=2))
    assert longer.how == "measured from 1 run of another length, scaled on 2 workers (a chip)"
    work = [count_run(spec(train__epochs=epochs), DATASETS["digits"], {}) for epochs in (30, 10)]
    assert longer.seconds == pytest.approx(5 * work[0].seconds(FIXED, 2) / work[1].seconds(FIXED, 2))


def test_runs_on_other_numbers_of_workers_are_scaled_which_is_said(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 8.0)
    found = estimator(Store(tmp_path), spec())
    work = count_run(spec(), DATASETS["digits"], {})
    for workers in (2, 4):
        told = found.estimate(node(spec(), workers=workers))
        assert told.seconds == pytest.approx(8 * work.seconds(FIXED, workers) / work.seconds(FIXED))
        assert told.how == (
            f"measured from 1 run, scaled to {workers} workers: several are assumed to share steps and embeddings at "
            "90% of ideal speed (Goyal et al. 2017) (a chip)"
        )
    finish(Store(tmp_path), spec(seeds__data=1), 8.0, workers=2)
    alone = estimator(Store(tmp_path), spec()).estimate(node(spec(train__epochs=20)))
    assert alone.how == "measured from 1 run of another length, scaled (a chip)"


def test_flops_are_shared_by_workers_which_is_said(tmp_path: Path) -> None:
    found = estimator(Store(tmp_path)).estimate(node(spec(), workers=2))
    assert found.seconds == pytest.approx(count_run(spec(), DATASETS["digits"], {}).seconds(FIXED, 2))
    assert found.how.startswith("fixed, shared by 2 workers: several are assumed")


def test_without_runs_it_is_flops_at_the_rates_of_the_device(tmp_path: Path, asked: list[Any]) -> None:
    found = estimator(Store(tmp_path))
    first, second = (found.estimate(node(spec(seeds__data=seed), cpus=3)) for seed in (0, 1))
    assert first == second
    assert first.seconds == pytest.approx(count_run(spec(), DATASETS["digits"], {}).total.flops / 1e9)
    assert asked == [("cpu", 3), ("float32",)]


def test_an_assumed_device_takes_no_measured_run(tmp_path: Path, asked: list[Any]) -> None:
    finish(Store(tmp_path), spec(), 5.0, device="cuda:1")
    found = estimator(Store(tmp_path), spec(), teraflops=10).estimate(node(spec(), gpus=1))
    assert "an assumed 10 TFLOP/s" in found.how
    slower = estimator(Store(tmp_path), spec(), teraflops=1e-6).estimate(node(spec(), gpus=1))
    assert found.seconds is not None
    assert slower.seconds is not None
    assert found.seconds < slower.seconds
    assert asked == []


def test_a_gpu_that_is_not_here_leaves_it_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    found = estimator(Store(tmp_path)).estimate(node(spec(), gpus=1))
    assert found.seconds is None
    assert "give --tflops" in found.how
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    assert estimator(Store(tmp_path)).estimate(node(spec(), gpus=1)).how == "fixed"


def test_a_data_set_of_which_nothing_is_known_leaves_it_unknown(tmp_path: Path) -> None:
    for run in (spec(data__name="mine"), spec(probe__also=["mine"])):
        found = estimator(Store(tmp_path)).estimate(node(run))
        assert (found.seconds, found.how) == (None, "unknown: nothing is known of the data set mine yet")


def test_noise_needs_no_data_set_but_those_probed_on() -> None:
    noise = {"name": "gaussian", "size": 8, "samples": 64, "channels": 1}
    run = spec(data=noise, probe__also=["digits"])
    assert Estimator({}, DIGITS, None).estimate(node(run)).how == "fixed"


def test_a_checkpoint_leaves_less_to_do_and_comes_at_the_end_of_epochs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, spec(), 120.0)
    found = estimator(store, spec())
    assert found.estimate(node(spec(seeds__data=1), step=45)).left == pytest.approx(30)
    # An epoch takes 12 s, least between checkpoints are 30 s; a probing writes one, too.
    assert found.estimate(node(spec())).checkpoint == pytest.approx(36)
    finish(store, spec(probe__every="2ep"), 120.0)
    assert estimator(store, spec()).estimate(node(spec(probe__every="2ep"))).checkpoint == pytest.approx(24)


def test_what_cannot_be_read_or_is_not_finished_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    runs = [spec(seeds__data=seed) for seed in range(4)]
    for run in runs:
        finish(store, run, 1.0)
    (store.run(runs[0]).path / "result.json").unlink()
    (store.run(runs[1]).path / "environment.json").write_text('{"execution": {}}')
    (store.run(runs[2]).path / "spec.json").write_text('{"kind": "older"}')
    (found,) = measured_runs(store, {shape(spec())}).values()
    assert [run.spec for run in found] == [runs[3]]
    assert measured_runs(store, {"another"}) == {}
    monkeypatch.setattr(measured_module, "MOST", 0)
    assert measured_runs(store, {shape(spec())}) == {}


def test_data_sets_are_known_prepared_or_from_the_catalogue(tmp_path: Path) -> None:
    found = known_data([spec(), spec(data__name="cifar10", probe__also=["mine"])], tmp_path)
    assert found.infos == {name: DATASETS[name] for name in ("digits", "cifar10")}
    place = f" --data-dir {tmp_path}"
    assert found.missing == {
        "cifar10": f"rt-scale data prepare cifar10{place}",
        "mine": f"rt-scale data prepare mine --from FOLDER{place}",
    }
    assert found.main(spec(data__name="mine")) is None


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "meta.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        known_data([spec()], tmp_path)


TIMED = ShortRunTimes(fixed=1.0, step=0.5, turn=2.0, probing=4.0, total=0.9)


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> list[RunSpec]:
    """The runs that short ones are timed of, in place of executing any."""
    asked: list[RunSpec] = []

    def time_short_run(run: RunSpec, data_dir: Path, threads: int) -> ShortRunTimes:
        asked.append(run)
        return TIMED

    monkeypatch.setattr(module, "time_short_run", time_short_run)
    monkeypatch.setattr(module, "MOST_COUNTED", 100.0)  # a FLOP a nanosecond is slow
    return asked


def test_a_run_of_seconds_is_known_by_a_short_one_of_its_kind(short_runs: list[RunSpec], tmp_path: Path) -> None:
    """Each kind once, the first one twice: what a process does for the first time takes longer."""
    found = Estimator({}, DIGITS, None, tmp_path)
    for epochs in (10, 20):  # of 6 steps; probed every 5 epochs, and at the start
        run = spec(train__epochs=epochs, probe__every="5ep")
        estimated = found.estimate(node(run))
        assert estimated.seconds == pytest.approx(1.0 + epochs * (5 * 0.5 + 2.0) + epochs / 5 * 4.0)
        assert estimated.how == module.TIMED
    assert len(short_runs) == 2
    assert found.estimate(node(spec(projector__out_dim=64))).how == module.TIMED
    assert len(short_runs) == 3


def test_when_short_runs_took_long_enough_others_are_counted_at_their_rate(
    short_runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SPENT", 0.8)
    found = Estimator({}, DIGITS, None, tmp_path)
    found.estimate(node(spec()))
    other = spec(projector__out_dim=64)
    work = count_run(other, DIGITS.infos["digits"], {})
    short = count_run(spec(), DIGITS.infos["digits"], {}).seconds_of(FIXED, 3 * work.steps_per_epoch, 3)
    estimated = found.estimate(node(other))
    assert estimated.seconds == pytest.approx(work.seconds(FIXED) * TIMED.total / short)
    assert estimated.how.startswith("fixed, times ")
    assert len(short_runs) == 2


@pytest.mark.parametrize(
    "changes", [{"SHORT": 0.0}, {"MOST_COUNTED": 0.0}], ids=["runs of minutes", "short runs that are none"]
)
def test_kinds_that_are_not_short_are_counted(
    short_runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]
) -> None:
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    assert Estimator({}, DIGITS, None, tmp_path).estimate(node(spec())).how == "fixed"
    assert short_runs == []


def test_a_kind_that_cannot_be_executed_here_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time_short_run", lambda *given: None)
    assert Estimator({}, DIGITS, None, tmp_path).estimate(node(spec())).how == "fixed"
