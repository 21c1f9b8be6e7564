"""How long runs take: by runs of their shape in a store, by their FLOPs, or unknown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import known_data
from rt_scale.plan import estimate as module
from rt_scale.plan.estimate import ALONE, Estimator, measured_runs
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store
from tests.unit.plan.estimating import ASKED, BASE, DIGITS, by_flops, estimator, finish, fixed_rates, job, spec


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setattr(module, "measured_rates", fixed_rates)
    ASKED.clear()
    return ASKED


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
    assert found.seconds == pytest.approx(5 * by_flops(longer) / by_flops(spec()))
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
    assert longer.seconds == pytest.approx(5 * by_flops(spec(train__epochs=30), 2) / by_flops(spec(), 2))


def test_runs_on_other_numbers_of_workers_are_scaled_which_is_said(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 8.0)
    found = estimator(Store(tmp_path), spec())
    for workers in (2, 4):
        told = found.estimate(job(spec(), workers=workers))
        assert told.seconds == pytest.approx(8 * by_flops(spec(), workers) / by_flops(spec()))
        assert told.how == (
            f"measured from 1 run, scaled to {workers} workers: several are assumed to share steps and embeddings at "
            "90% of ideal speed (Goyal et al. 2017) (a chip)"
        )
    finish(Store(tmp_path), spec(seeds__data=1), 8.0, workers=2)
    alone = estimator(Store(tmp_path), spec()).estimate(job(spec(train__epochs=20)))
    assert alone.how == "measured from 1 run of another length, scaled (a chip)"


def test_flops_are_shared_by_workers_which_is_said(tmp_path: Path) -> None:
    found = estimator(Store(tmp_path)).estimate(job(spec(), workers=2))
    assert found.seconds == pytest.approx(by_flops(spec(), 2))
    assert found.how.startswith("fixed, shared by 2 workers: several are assumed")


def test_without_runs_it_is_flops_at_the_rates_of_the_device(tmp_path: Path, asked: list[Any]) -> None:
    found = estimator(Store(tmp_path))
    first, second = (found.estimate(job(spec(seeds__data=seed), cpus=3)) for seed in (0, 1))
    assert first == second
    assert first.seconds == pytest.approx(by_flops(spec()))
    assert asked == [("float32", "cpu", 3)]


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
    partial = spec(seeds__data=1)
    found = estimator(store, spec(), steps={partial.name: 45})
    assert found.estimate(job(partial)).left == pytest.approx(30)
    whole = found.estimate(job(spec()))
    # An epoch takes 12 s, and there are 30 s between two checkpoints.
    assert (whole.left, whole.checkpoint) == (pytest.approx(120), pytest.approx(36))


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
    monkeypatch.setattr(module, "MOST", 0)
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
    found = estimator(Store(tmp_path), spec()).estimate(job(longer), 4)
    assert found.seconds == pytest.approx(3 * by_flops(longer) / by_flops(spec()))
    assert found.how == "measured from 1 run of another length, scaled, 4 to a process (a chip)"


def test_where_no_packed_run_was_measured_they_are_as_runs_alone(tmp_path: Path) -> None:
    found = estimator(Store(tmp_path), spec()).estimate(job(spec()), 4)
    assert found.seconds == pytest.approx(by_flops(spec()))
    assert found.how == f"fixed, {ALONE}"
    finish(Store(tmp_path), spec(), 5.0)
    found = estimator(Store(tmp_path), spec()).estimate(job(spec()), 4)
    assert (found.seconds, found.how) == (5.0, f"measured from 1 run (a chip), {ALONE}")


def test_what_a_packed_run_took_says_nothing_of_one_alone(tmp_path: Path) -> None:
    packed(Store(tmp_path), 1, 12.0, 4)
    assert estimator(Store(tmp_path), spec()).estimate(job(spec())).how == "fixed"


def test_checkpoints_come_at_ends_of_epochs_of_the_process(tmp_path: Path) -> None:
    finish(Store(tmp_path), spec(), 50.0)
    found = estimator(Store(tmp_path), spec())
    # An epoch takes 5 s alone, 20 s among four, and 100 s, the whole run 1000 s, among twenty.
    assert [found.estimate(job(spec()), together).checkpoint for together in (1, 4, 20)] == [30.0, 40.0, 100.0]
    assert found.estimate(job(spec(train__epochs=1))).checkpoint < 30  # the end of the run


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
