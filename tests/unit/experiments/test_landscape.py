"""Planes through networks of runs: the same values however, wherever and in whatever pieces they are computed."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rt_scale.analyses.measures import NAMES
from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import KnownData, Prepared
from rt_scale.experiments import plane
from rt_scale.experiments.base import Cost, check_all
from rt_scale.experiments.landscape import Landscape
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Weights
from rt_scale.spec.document import resolve_same, set_dotted
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.run import RunSpec, all_runs
from rt_scale.spec.stopping import Stopped
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from rt_scale.training.distributed import Group
from tests.distributed import Ranks
from tests.unit.experiments.conftest import TINY, Seen

Make = Callable[..., Options]
PLANE: dict[str, Any] = {
    "kind": "landscape",
    "origin": {"run": TINY, "take": "teacher"},
    "x": {"run": "same"},
    "y": {"run": {"same_but": {"student": {"alpha": 1}}}},
    "points": [7, 5],
    "measures": ["kl_train", "kl_test"],
}
EVERYTHING = {"measures": list(NAMES)}
FOUR = {"window": [[0, 1], [0, 1]], "points": [2, 2]}
"""A grid with the networks at three of its points."""


def landscape(changes: dict[str, Any] | None = None) -> LandscapeSpec:
    document = PLANE
    for key, value in (changes or {}).items():
        document = set_dotted(document, key, value)
    spec = RunSpec.model_validate(resolve_same(document))
    assert isinstance(spec, LandscapeSpec)
    return spec


def arrays(run_dir: RunDir) -> dict[str, np.ndarray]:
    with np.load(run_dir.artifacts / "plane.npz") as found:
        return dict(found)


def equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.fixture
def computed(settings: Make) -> Callable[..., dict[str, np.ndarray]]:
    def compute(spec: LandscapeSpec, **changes: Any) -> dict[str, np.ndarray]:
        options = settings(**changes)
        run(spec, options)
        return arrays(options.store.run(spec))

    return compute


def test_a_plane_is_measured_at_every_point(settings: Make, seen: Seen) -> None:
    spec, options = landscape(), settings(observer=seen)
    result = run(spec, options)
    found = arrays(options.store.run(spec))
    assert (found["x"][0], found["x"][-1], found["y"][0], found["y"][-1]) == (-0.5, 1.5, -0.5, 1.5)
    assert found["kl_train"].shape == found["kl_test"].shape == (5, 7)
    assert (found["kl_train"] >= 0).all()
    assert result.steps == 35
    assert result.last["origin/kl_train"] == result.last["origin/kl_test"] == 0
    assert result.last["y/kl_train"] > 0
    row, column = np.unravel_index(found["kl_test"].argmin(), (5, 7))
    assert result.last["least/kl_test"] == found["kl_test"].min()
    assert (result.last["least/kl_test/x"], result.last["least/kl_test/y"]) == (found["x"][column], found["y"][row])
    assert result.last["plane/points"] == 35


def test_a_window_that_meets_the_networks_has_their_values(computed: Callable[..., Any]) -> None:
    found = computed(landscape(FOUR))
    assert found["kl_test"][0, 0] == 0
    assert found["kl_test"][0, 1] > 0
    assert found["kl_test"][1, 0] > 0
    assert found["kl_test"][0, 1] != found["kl_test"][1, 0]


def stop_after(calls: int) -> Callable[[], bool]:
    """A stop that is asked for from the ``calls``-th look on."""
    looks = iter(range(calls))
    return lambda: next(looks, None) is None


@pytest.fixture
def begun(settings: Make) -> Callable[..., RunDir]:
    """Compute the networks of a plane, and begin it until it has looked so often whether to stop."""

    def begin(spec: LandscapeSpec, looks: int) -> RunDir:
        for network in all_runs([spec])[:-1]:
            run(network, settings())
        with pytest.raises(Stopped):
            run(spec, settings(stop=stop_after(looks)))
        return settings().store.run(spec)

    return begin


@pytest.mark.parametrize("looks", range(5))
def test_stopped_at_any_group_it_ends_the_same(
    settings: Make, begun: Callable[..., RunDir], computed: Callable[..., Any], tmp_path: Path, looks: int
) -> None:
    run_dir = begun(landscape(), looks)
    partial, undisturbed = arrays(run_dir), computed(landscape(), store=Store(tmp_path / "other"))
    known = ~np.isnan(partial["kl_train"])
    assert known.sum() == 8 * looks
    assert (partial["kl_train"][known] == undisturbed["kl_train"][known]).all()
    result = run(landscape(), settings())
    assert result.attempts == 2
    assert equal(arrays(run_dir), undisturbed)


@pytest.mark.parametrize("changes", [{"split": 3}, {"split": 9}])
def test_shares_of_several_runs_make_the_same_plane(computed: Callable[..., Any], changes: dict[str, Any]) -> None:
    alone, spec = computed(landscape(EVERYTHING)), landscape({**EVERYTHING, **changes})
    assert [each.share for each in spec.shares] == list(range(spec.split))
    assert equal(computed(spec), alone)


def counting(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    measure = plane.PlaneRun._measure

    def counted(self: plane.PlaneRun, networks: Sequence[Weights]) -> dict[str, np.ndarray]:
        counts.append(len(networks))
        return measure(self, networks)

    monkeypatch.setattr(plane.PlaneRun, "_measure", counted)
    return counts


@pytest.mark.parametrize("split", [1, 2])
def test_a_finer_plane_measures_new_points_alone(settings: Make, monkeypatch: pytest.MonkeyPatch, split: int) -> None:
    options, counts = settings(), counting(monkeypatch)
    coarse, fine = (landscape({"points": points, "split": split}) for points in ([11, 12], [21, 23]))
    assert fine.coarse == coarse
    assert coarse.coarse is None
    run(coarse, options)
    assert sum(counts) == 11 * 12 + 3 * split
    run(fine, options)
    assert sum(counts) == 21 * 23 + 3 * split
    before, after = (arrays(options.store.run(each)) for each in (coarse, fine))
    for name in ("kl_train", "kl_test"):
        assert after[name][::2, ::2].tobytes() == before[name].tobytes()
        assert not np.isnan(after[name]).any()


def _compute(group: Group, document: dict[str, Any], options: dict[str, Any]) -> None:
    run(RunSpec.model_validate(document), Options(**options, device="cpu", threads=1, group=group))


def test_two_workers_compute_the_same_plane(settings: Make, computed: Callable[..., Any], tmp_path: Path) -> None:
    spec, store = landscape(EVERYTHING), Store(tmp_path / "two")
    alone = computed(spec)
    for network in all_runs([spec])[:-1]:
        run(network, settings(store=store))
    options = {"store": store, "data_dir": settings().data_dir}
    Ranks(tmp_path / "ranks", 2, _compute, spec.canonical(), options).results()
    assert equal(arrays(store.run(spec)), alone)


def test_more_workers_than_groups_of_points(settings: Make) -> None:
    spec = landscape()
    check_all([spec], settings().data_dir, workers={spec.name: 5})
    with pytest.raises(InputError, match="at most 5 workers"):
        check_all([spec], settings().data_dir, workers={spec.name: 6})


def test_networks_that_changed_under_a_plane(settings: Make, begun: Callable[..., RunDir]) -> None:
    spec, options = landscape(), settings()
    begun(spec, 3)
    another = landscape({"x": {"run": {"same_but": {"seeds": {"student": 5}}}}}).x.run
    run(another, options)
    student = options.store.run(spec.x.run).path / "checkpoints"
    shutil.rmtree(student)
    shutil.copytree(options.store.run(another).path / "checkpoints", student)
    with pytest.raises(RunError, match=r"weights of x \(distill-.*begun with.*move"):
        run(spec, options)


def test_a_torn_file_of_points_is_noticed(settings: Make, begun: Callable[..., RunDir], seen: Seen) -> None:
    run_dir = begun(landscape(), 2)
    step = run_dir.checkpoints.steps()[-1]
    assert step == 16
    file = run_dir.path / "checkpoints" / str(step) / "values.npz"
    file.write_bytes(file.read_bytes()[:-100])
    result = run(landscape(), settings(observer=seen))
    assert "values.npz" in seen.named("warned")[0][0]
    assert result.steps == 35


def test_a_student_that_did_not_move(settings: Make) -> None:
    with pytest.raises(InputError, match="origin and x have equal weights"):
        run(landscape({"origin.run.student.alpha": 0.0, "x.take": "init"}), settings())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": 361}, r"images is 361.*10 to 360"),
        ({"probe_images": 9}, r"probe_images is 9.*10 to 360"),
        ({"measures": ["knn"], "origin.run.probe.knn": 0}, "1 to 60"),
        ({"measures": ["knn_standardized"], "probe_images": 20, "origin.run.probe.knn": 21}, "1 to 20"),
    ],
)
def test_numbers_of_images_that_do_not_fit(settings: Make, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        run(landscape(changes), settings())


@pytest.mark.parametrize(
    ("other", "words"),
    [({"name": "colours", "samples": None}, "channels"), ({"name": "digits", "size": 16}, "16 x 16.*one size")],
)
def test_networks_for_other_images(settings: Make, colours: Prepared, other: dict[str, Any], words: str) -> None:
    assert colours.info.channels == 3
    run_of = set_dotted(set_dotted(TINY, "encoder", {"name": "mlp_8_1"}), "train.epochs", 1)
    changes = {"origin.run": run_of, "y.run": {"same_but": {"data": other}}}
    with pytest.raises(InputError, match=rf"y\.run is on .*{words}"):
        check_all([landscape(changes)], settings().data_dir)


def test_losses_and_probes_have_images_of_their_own(computed: Callable[..., Any]) -> None:
    both = {**FOUR, "measures": ["kl_test", "linear", "knn"]}
    everything, few, probed = (
        computed(landscape({**both, **numbers})) for numbers in ({}, {"images": 30}, {"images": 30, "probe_images": 40})
    )
    assert few["kl_test"][1, 1] != everything["kl_test"][1, 1]
    assert probed["kl_test"].tobytes() == few["kl_test"].tobytes()
    assert (probed["knn"] != few["knn"]).any()
    np.testing.assert_allclose(probed["knn"] * 40 % 1, 0, atol=1e-9)
    assert (probed["linear"] != few["linear"]).any()


def test_seeds_choose_images_and_the_linear_probes_start(computed: Callable[..., Any]) -> None:
    base = {**FOUR, "measures": ["kl_test", "linear"], "images": 30}
    plain, data, probe = (
        computed(landscape({**base, **seeds})) for seeds in ({}, {"seeds.data": 1}, {"seeds.probe": 1})
    )
    assert (plain["kl_test"] != data["kl_test"]).any()
    assert (plain["linear"] != probe["linear"]).any()
    assert (plain["kl_test"] == probe["kl_test"]).all()


def test_the_corners_are_their_runs_own_probes(settings: Make) -> None:
    spec = landscape({"measures": list(NAMES), "origin.run.probe.ridge": True})
    result = run(spec, settings())
    for corner, role in (("origin", "teacher"), ("x", "student"), ("y", "student")):
        own = run(getattr(spec, corner).run, settings()).last
        for name in ("linear", "linear_standardized", "knn", "knn_standardized", "ridge"):
            assert result.last[f"{corner}/{name}"] == pytest.approx(own[f"probe/{role}/{name}"]), (corner, name)
    found, own = arrays(settings().store.run(spec)), run(spec.y.run, settings()).last
    assert np.sqrt(found["gram"][2, 2]) == pytest.approx(own["distance/from_teacher"], rel=1e-5)
    at_y = np.array([1, 0, 1])
    assert result.last["y/norm"] == pytest.approx(np.sqrt(at_y @ found["gram"] @ at_y))
    assert all(np.isfinite(found[name]).all() for name in NAMES)
    difference = found["cross_entropy_test"] - found["kl_test"]
    np.testing.assert_allclose(difference, result.last["origin/entropy_test"], rtol=1e-6)


def test_statistics_are_interpolated_and_a_negative_variance_refused(computed: Callable[..., Any]) -> None:
    norms = {"origin.run.encoder.norm": "batch", "points": [3, 3]}
    inside, beyond = ({**norms, "window": window} for window in ([[0, 1], [0, 1]], [[-90, 90], [0, 1]]))
    interpolated = computed(landscape(inside))["kl_train"]
    assert interpolated[0, 0] == 0
    assert np.isfinite(interpolated).all()
    with pytest.raises(InputError, match="variance"):
        computed(landscape(beyond))
    batch = computed(landscape({**inside, "statistics": "batch"}))["kl_train"]
    assert batch[0, 0] > 0
    assert np.isfinite(computed(landscape({**beyond, "statistics": "batch"}))["norm"]).all()


def counted(**changes: Any) -> Cost:
    """The cost of the paper's plane: VGG-11, CIFAR-10, 51 x 51 points."""
    run = {"data": {"name": "cifar10"}, "encoder": {"name": "vgg11"}}
    document = {
        **PLANE,
        "origin": {"run": run, "take": "teacher"},
        "points": [51, 51],
        "measures": list(NAMES),
        **changes,
    }
    spec = RunSpec.model_validate(resolve_same(document))
    assert isinstance(spec, LandscapeSpec)
    return Landscape().cost(spec, KnownData({"cifar10": DATASETS["cifar10"]}))


def test_the_cost_of_the_papers_plane_is_known_before_it_starts() -> None:
    cost = counted()
    assert cost.length.steps == 51 * 51 - 26 * 26
    assert cost.work is not None
    assert cost.network is not None
    point = cost.work().step.shared
    # A point: 60,000 images through encoder (0.31), projector (0.012) and last layer (0.034 GFLOP an image).
    assert point.network / 60_000 == pytest.approx(0.356e9, rel=0.02)
    neighbours = 2 * 2 * 50_000 * 10_000 * 512
    assert point.product > neighbours
    assert cost.work().start.shared.network == 4 * point.network


@pytest.mark.parametrize(
    ("changes", "images"),
    [
        ({"images": 1000, "probe_images": 2000}, 4_000),
        ({"images": 1000, "measures": ["kl_test", "kl_train"]}, 2_000),
        ({"measures": ["kl_test"]}, 10_000),
        ({"images": 1000, "measures": ["kl_train", "knn"]}, 60_000),
    ],
)
def test_the_cost_of_fewer_images_and_measures(changes: dict[str, Any], images: int) -> None:
    every, cost = counted(), counted(**changes)
    assert every.work is not None
    assert cost.work is not None
    point, whole = cost.work().step.shared, every.work().step.shared
    assert point.network == pytest.approx(whole.network * images / 60_000)
    assert point.product < whole.product
    assert point.calls <= whole.calls


def test_a_split_plane_costs_what_its_shares_cost() -> None:
    lengths = [counted(split=3, share=share).length.steps for share in range(3)]
    assert sum(lengths) == counted().length.steps
    assert max(lengths) - min(lengths) <= 8
    assert counted(split=3).length.steps == 1
