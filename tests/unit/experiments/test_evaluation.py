"""Probing on other data sets and statistics of features, through whole runs."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared, open_prepared, prepare
from rt_scale.experiments.evaluation import Evaluation
from rt_scale.experiments.networks import set_record
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.models.networks import Network, build_pair
from rt_scale.probes.evaluator import Embedded, Prober
from rt_scale.probes.features import Features, embed
from rt_scale.probes.knn import knn_accuracy
from rt_scale.probes.statistics import agreement, feature_statistics
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.results import DataRecord
from rt_scale.store.run_dir import RunDir

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BreakOff = Callable[..., None]
PROBES = ("linear", "knn", "linear_standardized", "knn_standardized")
OF_FEATURES = {"effective_rank", "participation_ratio", "dead_units", "std"}


def images(folder: Path, *, classes: int, side: int, seed: int) -> Path:
    """Grey images whose brightness tells their class, 30 a class."""
    generator = np.random.default_rng(seed)
    for number in range(30 * classes):
        path = folder / str(number % classes) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 40, (side, side)) + 200 * (number % classes) // classes
        Image.fromarray(noise.astype(np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def shades(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A set beside the digits: 12 x 12 pixels, 4 classes."""
    return prepare("shades", data_dir, images(tmp_path_factory.mktemp("o") / "shades", classes=4, side=12, seed=0))


def by_role(last: dict[str, float], prefix: str) -> dict[str, float]:
    return {name.removeprefix(prefix): value for name, value in last.items() if name.startswith(prefix)}


def network(spec: RunSpec, run_dir: RunDir, step: int, name: str) -> Network:
    """A saved network of a run on the digits."""
    model = getattr(build_pair(spec, 1, 8), name)
    model.load_state_dict(load_file(run_dir.path / "checkpoints" / str(step) / f"{name}.safetensors"))
    return model


def split(data: Prepared, side: int, which: str) -> tuple[ResidentLoader, Any]:
    loader = ResidentLoader(getattr(data, which), batch_size=32, seed=0, device="cpu")
    info = data.info
    return loader, lambda given: to_inputs(given, info.mean, info.std, side, torch.float32)


@pytest.mark.parametrize(("also_size", "side", "precision"), [("encoder", 8, "float32"), ("own", 12, "bf16")])
def test_every_set_is_probed_with_its_own_normalisation_at_the_encoders_size_or_its_own(
    tiny: Tiny, settings: Make, shades: Prepared, also_size: str, side: int, precision: str
) -> None:
    spec = tiny({"probe.also": ["shades"], "probe.also_size": also_size, "precision": precision})
    given = settings()
    result = run(spec, given)
    last, run_dir = result.last, given.store.run(spec)
    probed = {f"{role}/{probe}" for role in ("student", "teacher", "input") for probe in PROBES}
    assert set(by_role(last, "probe@shades/")) == set(by_role(last, "probe/")) == probed

    def knn(of: Callable[..., Features]) -> float:
        fit, held = (of(*split(shades, side, which)) for which in ("train", "test"))
        return knn_accuracy(*fit, *held, k=5, classes=4)

    student, teacher = (network(spec, run_dir, step, name) for step, name in ((4, "student"), (0, "teacher")))
    assert last["probe@shades/input/knn"] == knn(functools.partial(embed, torch.nn.Flatten()))
    assert last["probe@shades/student/knn"] == knn(lambda *given: embed(student.encoder, *given, precision=precision))
    assert last["probe@shades/teacher/knn"] == knn(lambda *given: embed(teacher.encoder, *given, precision=precision))
    assert set(result.best) == {f"{group}/student/{probe}" for group in ("probe", "probe@shades") for probe in PROBES}


@pytest.mark.parametrize("own", [{}, {"probe.also": ["shades"]}])
def test_a_student_that_is_its_teacher_is_not_probed_again(
    tiny: Tiny, settings: Make, shades: Prepared, monkeypatch: pytest.MonkeyPatch, own: dict[str, Any]
) -> None:
    embedded = []
    embed_network = Prober.embed_network
    monkeypatch.setattr(Prober, "embed_network", lambda self, *of: embedded.append(1) or embed_network(self, *of))
    spec = tiny({"student.alpha": 0, "train.stop": "0ep", **own})
    last, once = run(spec, settings()).last, len(embedded)
    monkeypatch.setattr(Evaluation, "_is_teacher", lambda self, encoder: False)
    other = settings()
    shutil.rmtree(other.store.run(spec).path)
    assert run(spec, other).last == last
    assert len(embedded) - once == 2 * once == 2 * len(own) + 2
    assert last["probe/student/linear"] == last["probe/teacher/linear"]


def test_without_steps_no_targets_are_computed(tiny: Tiny, settings: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    computed = []
    features = Network.features
    monkeypatch.setattr(Network, "features", lambda self, inputs: computed.append(1) or features(self, inputs))
    run(tiny({"train.stop": "0ep"}), settings())
    assert not computed
    run(tiny({"train.stop": "1it"}), settings())
    assert computed


def test_other_sets_change_nothing_about_the_run(tiny: Tiny, settings: Make, shades: Prepared) -> None:
    given = settings()
    plain = run(tiny(), given).last
    more = run(tiny({"probe.also": ["shades", "digits"], "probe.statistics": True}), given).last
    assert {name: more[name] for name in plain} == plain
    # All of the digits, where the run itself is on 60 of them.
    assert more["probe@digits/input/knn"] > more["probe/input/knn"]


def test_the_record_names_contents_of_every_set_and_others_are_refused(
    tiny: Tiny, settings: Make, shades: Prepared, digits: Prepared, tmp_path: Path
) -> None:
    spec, given = tiny({"probe.also": ["shades"]}), settings()
    result = run(spec, given)
    also = {"shades": set_record(shades)}
    assert result.data == DataRecord(
        name="digits", title="Digits", sha256=digits.sha256, images=set_record(digits).images, also=also
    )
    environment = given.store.run(spec).record()
    assert environment is not None
    assert environment.data == result.data
    elsewhere = tmp_path / "elsewhere"
    open_prepared("digits", elsewhere)
    prepare("shades", elsewhere, images(tmp_path / "o" / "shades", classes=4, side=12, seed=1))
    with pytest.raises(InputError, match=rf"'shades' with other contents \(sha256 {shades.sha256[:12]}"):
        run(spec, settings(data_dir=elsewhere))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_statistics_are_those_of_the_test_embeddings(
    tiny: Tiny, settings: Make, digits: Prepared, precision: str
) -> None:
    spec, given = tiny({"probe.statistics": True, "precision": precision}), settings()
    # Another student of the same teacher leaves its probes, but not its embeddings.
    before = tiny({"probe.statistics": True, "precision": precision, "seeds.student": 1})
    run(before, given)
    last = run(spec, given).last
    run_dir = given.store.run(spec)
    student, teacher = (network(spec, run_dir, step, name) for step, name in ((4, "student"), (0, "teacher")))
    x, y = (embed(each.encoder, *split(digits, 8, "test"), precision=precision).x for each in (student, teacher))
    exact = embed(student.encoder, *split(digits, 8, "test")).x
    assert (feature_statistics(x)["std"] == feature_statistics(exact)["std"]) == (precision == "float32")
    alike = {f"{name}_teacher": value for name, value in agreement(x, y).items()}
    assert by_role(last, "features/student/") == pytest.approx(feature_statistics(x) | alike, rel=1e-6)
    assert by_role(last, "features/teacher/") == pytest.approx(feature_statistics(y), rel=1e-6)
    assert set(by_role(last, "features/teacher/")) == OF_FEATURES
    assert set(alike) == {"cka_teacher", "cosine_teacher"}


def test_parts_add_up_to_the_whole_distance(tiny: Tiny, settings: Make) -> None:
    last = run(tiny({"probe.statistics": True}), settings()).last
    for place in ("from_init", "from_teacher"):
        parts = [last[f"distance/{part}/{place}"] for part in ("encoder", "projector")]
        assert min(parts) > 0
        assert sum(part**2 for part in parts) == pytest.approx(last[f"distance/{place}"] ** 2)
        assert all(0 < last[f"angle/{part}/{place}"] < 120 for part in ("encoder", "projector"))


def test_at_alpha_0_everything_agrees_at_the_start(tiny: Tiny, settings: Make) -> None:
    spec, given = tiny({"student.alpha": 0.0, "probe.statistics": True}), settings()
    run(spec, given)
    table = read_metrics(given.store.run(spec).metrics_path).to_pydict()
    start = {
        name: value for step, name, value in zip(table["step"], table["name"], table["value"], strict=True) if step == 0
    }
    assert (start["features/student/cka_teacher"], start["features/student/cosine_teacher"]) == pytest.approx((1, 1))
    assert all(start[f"features/student/{name}"] == start[f"features/teacher/{name}"] for name in OF_FEATURES)
    assert [value for name, value in start.items() if name.startswith(("distance/", "angle/"))] == [0.0] * 8


def test_an_encoder_without_parameters_is_nowhere(tiny: Tiny, settings: Make) -> None:
    last = run(tiny({"encoder": {"name": "flatten"}, "probe.statistics": True}), settings()).last
    assert not by_role(last, "distance/encoder/")
    assert last["distance/projector/from_init"] == pytest.approx(last["distance/from_init"])


def test_a_resumed_run_repeats_what_is_constant(
    tiny: Tiny,
    settings: Make,
    seen: Any,
    shades: Prepared,
    break_off: BreakOff,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    spec = tiny({"probe.also": ["shades"], "probe.statistics": True})
    store = type(settings().store)(tmp_path / "undisturbed")
    undisturbed = run(spec, settings(store=store)).last

    break_off(spec, settings(observer=seen), at=3)
    probed = []
    original = Prober.embed_network

    def watch(self: Prober, encoder: torch.nn.Module, *rest: Any) -> Embedded:
        probed.append(id(encoder))
        return original(self, encoder, *rest)

    monkeypatch.setattr(Prober, "embed_network", watch)
    assert run(spec, settings(observer=seen)).last == undisturbed
    assert len(probed) == 2  # the student, on both sets
    assert len(set(probed)) == 1
