"""How long runs take: by runs of their shape in a store, by their FLOPs, or unknown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import known_data
from rt_scale.experiments.context import CHECKPOINT_RATE, Context
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run as run_spec
from rt_scale.plan import estimate as module
from rt_scale.plan import history as measured_module
from rt_scale.plan.estimate import ALONE, Estimator, between_checkpoints
from rt_scale.plan.flops import checkpoint_bytes, count_run
from rt_scale.plan.history import measured_runs
from rt_scale.plan.measure import ShortRunTimes
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.unit.plan.estimating import BASE, DIGITS, FIXED, Fixed, estimator, finish, job, spec


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
    assert spec(**{field: value}).shape == spec().shape


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
    assert spec(**{field: value}).shape != spec().shape


def test_measured_runs_are_the_middle_of_those_alike(tmp_path: Path, asked: list[Any]) -> None:
    store = Store(tmp_path)
    for seed, seconds in enumerate((1.0, 9.0, 2.0)):
        finish(store, spec(seeds__data=seed), seconds)
    found = estimator(store, spec()).estimate(job(spec(seeds__data=7)))
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
    assert estimator(Store(tmp_path), spec()).estimate(job(spec(), **wanted)).how == "fixed"


def test_on_a_gpu_threads_do_not_matter_and_its_name_is_told(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 5.0, device="cuda:1", threads=8, name="a big one")
    found = estimator(Store(tmp_path), spec()).estimate(job(spec(), gpus=0.5))
    assert (found.seconds, found.how) == (5.0, "measured from 1 run (a big one)")


def test_runs_of_another_length_are_scaled_by_steps_and_probings(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 5.0)
    longer = spec(train__epochs=30, probe__every="10ep")
    found = estimator(Store(tmp_path), spec()).estimate(job(longer))
    works = [count_run(run, DATASETS["digits"], {}).seconds(FIXED) for run in (longer, spec())]
    assert found.seconds == pytest.approx(5 * works[0] / works[1])
    assert found.how == "measured from 1 run of another length, scaled (a chip)"


def test_runs_on_as_many_workers_come_first(tmp_path: Path, asked: list[Any]) -> None:
    store = Store(tmp_path)
    for seed, (seconds, workers) in enumerate(((8.0, None), (8.0, 1), (5.0, 2), (3.0, 4))):
        finish(store, spec(seeds__data=seed), seconds, workers=workers)
    found = estimator(store, spec())
    told = [(each.seconds, each.how) for each in (found.estimate(job(spec(), workers=k)) for k in (1, 2, 4))]
    assert told == [
        (8.0, "measured from 2 runs (a chip)"),
        (5.0, "measured from 1 run on 2 workers (a chip)"),
        (3.0, "measured from 1 run on 4 workers (a chip)"),
    ]
    assert asked == []
    longer = found.estimate(job(spec(train__epochs=30), workers=2))
    assert longer.how == "measured from 1 run of another length, scaled on 2 workers (a chip)"
    work = [count_run(spec(train__epochs=epochs), DATASETS["digits"], {}) for epochs in (30, 10)]
    assert longer.seconds == pytest.approx(5 * work[0].seconds(FIXED, 2) / work[1].seconds(FIXED, 2))


def test_runs_on_other_numbers_of_workers_are_scaled_which_is_said(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 8.0)
    found = estimator(Store(tmp_path), spec())
    work = count_run(spec(), DATASETS["digits"], {})
    for workers in (2, 4):
        told = found.estimate(job(spec(), workers=workers))
        assert told.seconds == pytest.approx(8 * work.seconds(FIXED, workers) / work.seconds(FIXED))
        assert told.how == (
            f"measured from 1 run, scaled to {workers} workers: several are assumed to share steps and embeddings at "
            "90% of ideal speed (Goyal et al. 2017) (a chip)"
        )
    finish(Store(tmp_path), spec(seeds__data=1), 8.0, workers=2)
    alone = estimator(Store(tmp_path), spec()).estimate(job(spec(train__epochs=20)))
    assert alone.how == "measured from 1 run of another length, scaled (a chip)"


def test_flops_are_shared_by_workers_which_is_said(tmp_path: Path) -> None:
    found = estimator(Store(tmp_path)).estimate(job(spec(), workers=2))
    assert found.seconds == pytest.approx(count_run(spec(), DATASETS["digits"], {}).seconds(FIXED, 2))
    assert found.how.startswith("fixed, shared by 2 workers: several are assumed")


def test_without_runs_it_is_flops_at_the_rates_of_the_device(tmp_path: Path, asked: list[Any]) -> None:
    found = estimator(Store(tmp_path))
    first, second = (found.estimate(job(spec(seeds__data=seed), cpus=3)) for seed in (0, 1))
    assert first == second
    assert first.seconds == pytest.approx(count_run(spec(), DATASETS["digits"], {}).seconds(FIXED))
    assert asked == [("cpu", 3), ("float32",)]


def test_an_assumed_device_takes_no_measured_run(tmp_path: Path, asked: list[Any]) -> None:
    finish(Store(tmp_path), spec(), 5.0, device="cuda:1")
    found = estimator(Store(tmp_path), spec(), teraflops=10).estimate(job(spec(), gpus=1))
    assert "an assumed 10 TFLOP/s" in found.how
    slower = estimator(Store(tmp_path), spec(), teraflops=1e-6).estimate(job(spec(), gpus=1))
    assert found.seconds is not None
    assert slower.seconds is not None
    assert found.seconds < slower.seconds
    assert asked == []


def test_a_gpu_that_is_not_here_leaves_it_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)
    found = estimator(Store(tmp_path)).estimate(job(spec(), gpus=1))
    assert found.seconds is None
    assert "give --tflops" in found.how
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: True)
    assert estimator(Store(tmp_path)).estimate(job(spec(), gpus=1)).how == "fixed"


def test_a_data_set_of_which_nothing_is_known_leaves_it_unknown(tmp_path: Path) -> None:
    for run in (spec(data__name="mine"), spec(probe__also=["mine"])):
        found = estimator(Store(tmp_path)).estimate(job(run))
        assert (found.seconds, found.how) == (None, "unknown: nothing is known of the data set mine yet")


def test_noise_needs_no_data_set_but_those_probed_on() -> None:
    noise = {"name": "gaussian", "size": 8, "samples": 64, "channels": 1}
    run = spec(data=noise, probe__also=["digits"])
    assert Estimator({}, DIGITS, None).estimate(job(run)).how == "fixed"


def test_a_checkpoint_leaves_less_to_do_and_comes_at_the_end_of_epochs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, spec(), 120.0)
    found = estimator(store, spec())
    assert found.estimate(job(spec(seeds__data=1)), step=45).left == pytest.approx(30)
    # An epoch takes 12 s, least between checkpoints are 30 s; a probing writes one, too.
    assert found.estimate(job(spec())).checkpoint == pytest.approx(36)
    finish(store, spec(probe__every="2ep"), 120.0)
    assert estimator(store, spec()).estimate(job(spec(probe__every="2ep"))).checkpoint == pytest.approx(24)


def test_what_cannot_be_read_or_is_not_finished_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    runs = [spec(seeds__data=seed) for seed in range(4)]
    for run in runs:
        finish(store, run, 1.0)
    (store.run(runs[0]).path / "result.json").unlink()
    (store.run(runs[1]).path / "environment.json").write_text('{"execution": {}}')
    (store.run(runs[2]).path / "spec.json").write_text('{"kind": "older"}')
    (found,) = measured_runs(store, {spec().shape}).values()
    assert [run.spec for run in found] == [runs[3]]
    assert measured_runs(store, {"another"}) == {}
    monkeypatch.setattr(measured_module, "MOST", 0)
    assert measured_runs(store, {spec().shape}) == {}


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


TIMED = ShortRunTimes(fixed=1.0, epoch=4.5, probing=4.0, total=0.9)


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
        estimated = found.estimate(job(run))
        assert estimated.seconds == pytest.approx(1.0 + epochs * 4.5 + epochs / 5 * 4.0)
        assert estimated.how == module.TIMED
    assert len(short_runs) == 2
    assert found.estimate(job(spec(projector__out_dim=64))).how == module.TIMED
    assert len(short_runs) == 3


def test_when_short_runs_took_long_enough_others_are_counted_at_their_rate(
    short_runs: list[RunSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_SPENT", 0.8)
    found = Estimator({}, DIGITS, None, tmp_path)
    found.estimate(job(spec()))
    other = spec(projector__out_dim=64)
    work = count_run(other, DIGITS.infos["digits"], {})
    one = count_run(spec(), DIGITS.infos["digits"], {})
    short = replace(one, steps=3 * work.steps_per_epoch, evaluations=3).seconds(FIXED)
    estimated = found.estimate(job(other))
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
    assert Estimator({}, DIGITS, None, tmp_path).estimate(job(spec())).how == "fixed"
    assert short_runs == []


def test_a_kind_that_cannot_be_executed_here_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time_short_run", lambda *given: None)
    assert Estimator({}, DIGITS, None, tmp_path).estimate(job(spec())).how == "fixed"


def packed(store: Store, seed: int, seconds: float, pack: int, measured: bool = False, **changes: Any) -> None:
    """A run that was finished as one of ``pack`` in a process, as many as ``auto`` measured or as were asked for."""
    finish(store, spec(seeds__data=seed, **changes), seconds, pack=pack, measured=measured)


def test_packed_runs_are_measured_by_packed_ones(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, spec(), 5.0)
    for seed, (seconds, pack) in enumerate(((12.0, 4), (14.0, 4), (16.0, 4), (10.0, 2)), 1):
        packed(store, seed, seconds, pack)
    found = estimator(store, spec())
    told = [(each.seconds, each.how) for each in (found.estimate(job(spec()), together) for together in (1, 2, 4))]
    assert told == [
        (5.0, "measured from 1 run (a chip)"),
        (5.0, "measured from 1 run, 2 to a process (a chip)"),
        (3.5, "measured from 3 runs, 4 to a process (a chip)"),
    ]
    # Three were never together: all that were packed are asked.
    other = found.estimate(job(spec()), 3)
    assert (other.seconds, other.how) == ((3.5 + 4) / 2, "measured from 4 runs, 2 or 4 to a process (a chip)")


def test_packed_runs_of_another_length_are_scaled(tmp_path: Path) -> None:
    packed(Store(tmp_path), 1, 12.0, 4)
    longer = spec(train__epochs=30)
    works = [count_run(run, DATASETS["digits"], {}).seconds(FIXED) for run in (longer, spec())]
    found = estimator(Store(tmp_path), spec()).estimate(job(longer), 4)
    assert found.seconds == pytest.approx(3 * works[0] / works[1])
    assert found.how == "measured from 1 run of another length, scaled, 4 to a process (a chip)"


def test_where_no_packed_run_was_measured_they_are_as_runs_alone(tmp_path: Path) -> None:
    found = estimator(Store(tmp_path), spec()).estimate(job(spec()), 4)
    assert found.seconds == pytest.approx(count_run(spec(), DATASETS["digits"], {}).seconds(FIXED))
    assert found.how == f"fixed, {ALONE}"
    finish(Store(tmp_path), spec(), 5.0)
    found = estimator(Store(tmp_path), spec()).estimate(job(spec()), 4)
    assert (found.seconds, found.how) == (5.0, f"measured from 1 run (a chip), {ALONE}")


def test_what_a_packed_run_took_says_nothing_of_one_alone(tmp_path: Path) -> None:
    packed(Store(tmp_path), 1, 12.0, 4)
    assert estimator(Store(tmp_path), spec()).estimate(job(spec())).how == "fixed"


def test_checkpoints_come_at_ends_of_epochs_of_the_process(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(probe__every="2ep"), 50.0)
    found = estimator(Store(tmp_path), spec(probe__every="2ep"))
    run = job(spec(probe__every="2ep"))
    # An epoch takes 5 s alone, and 20 s among four: after the second one it is probed.
    assert [found.estimate(run, together).checkpoint for together in (1, 4)] == [10.0, 40.0]


def test_the_best_number_is_what_auto_measured(tmp_path: Path) -> None:
    store = Store(tmp_path)
    packed(store, 1, 12.0, 4)
    assert estimator(store, spec()).best_size(job(spec())) is None
    packed(store, 2, 5.0, 1, measured=True)
    assert estimator(store, spec()).best_size(job(spec())) == 1
    packed(store, 3, 9.0, 8, measured=True)
    packed(store, 4, 9.0, 3, measured=True)  # as no more were waiting
    assert estimator(store, spec()).best_size(job(spec())) == 8
    assert estimator(store, spec()).best_size(job(spec(), cpus=2)) is None
    assert estimator(store, spec()).best_size(job(spec(projector__out_dim=64))) is None


SMALL: dict[str, Any] = {
    "data": {"name": "digits", "samples": 64},
    "encoder": {"name": "convnet_8_1", "norm": "batch"},
    "projector": {"hidden": [64], "bottleneck": 32, "out_dim": 512},
    "train": {"epochs": 1, "batch_size": 32},
    "probe": {"every": None, "linear": False, "knn": 5},
}


def small(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({**SMALL, **sections})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"teacher": {"update": "ema"}},
        {"train": {**SMALL["train"], "optimizer": {"name": "sgd", "lr": 0.1}}},
        {"train": {**SMALL["train"], "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}}},
        {"precision": "float64"},
    ],
)
def test_the_size_is_that_of_the_files(tmp_path: Path, changes: dict[str, Any]) -> None:
    store = Store(tmp_path / "store")
    wanted = small(**changes)
    run_spec(wanted, Options(store=store, data_dir=tmp_path / "data", threads=1, device="cpu"))
    files = store.run(wanted).checkpoints.read(2, lambda folder: sum(each.stat().st_size for each in folder.iterdir()))
    counted = checkpoint_bytes(wanted, DATASETS["digits"])
    # Beside weights and moments there are states of random generators, metrics and the files' own headers.
    assert 0 < files - counted < 40_000
    assert counted > 80_000


@pytest.mark.parametrize(
    ("every", "epoch", "size", "expected"),
    [
        (None, 12.0, 0, 36.0),  # 30 s between two, at ends of epochs
        (None, 40.0, 0, 40.0),
        (None, 0.01, 0, 1.0),  # the end of the run is one
        (None, 0.01, 10.0, 1.0),
        ("2ep", 12.0, 0, 24.0),  # whenever it is probed
        ("5ep", 12.0, 0, 36.0),
        ("2ep", 1.0, 10.0, 10.0),  # 10 s of writing at that rate
        ("2ep", 1.0, 9.0, 10.0),  # at the first probing after them
        ("2ep", 1.0, 100.0, 30.0),  # but after 30 s at any end of an epoch
        ("15it", 2.0, 0, 6.0),  # every third of its probings is at the end of an epoch of 10 steps
        ("5it", 2.0, 0, 2.0),
    ],
)
def test_they_come_as_the_rule_says(every: str | None, epoch: float, size: float, expected: float) -> None:
    wanted = small(probe={"every": every}, train={"epochs": 100})
    found = between_checkpoints(wanted, epoch=epoch, epoch_steps=10, size=size * CHECKPOINT_RATE)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(("every", "epoch"), [(1, 0.7), (2, 3.0), (3, 11.0), (7, 2.0), (4, 31.0)])
@pytest.mark.parametrize("size", [0.0, 5.0, 25.0, 60.0])
def test_a_run_that_asks_after_every_epoch_gets_them_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, epoch: float, size: float
) -> None:
    now = 0.0
    monkeypatch.setattr("rt_scale.experiments.context.time.monotonic", lambda: now)
    context = Context.__new__(Context)
    context.checkpoint_seconds, context._last_checkpoint = Options.checkpoint_seconds, 0.0
    context._checkpoint_bytes = int(size * CHECKPOINT_RATE)
    for number in range(1, 200):
        now = number * epoch
        if context.checkpoint_due(evaluated=number % every == 0):
            break
    wanted = small(probe={"every": f"{every}ep"}, train={"epochs": 200})
    assert now == between_checkpoints(wanted, epoch=epoch, epoch_steps=10, size=size * CHECKPOINT_RATE)
