"""Runs on Gaussian inputs: distilled on noise, probed on images (paper, figure 4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import check
from rt_scale.experiments.check import fits
from rt_scale.experiments.options import Options
from rt_scale.experiments.other_data import DataHere
from rt_scale.experiments.runner import run
from rt_scale.report.report import make_report
from rt_scale.scheduler.comparison import board_metrics
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec
from rt_scale.store.metrics import read_metrics
from rt_scale.store.run_dir import RunDir
from rt_scale.store.sweep_runs import SweepRuns

Tiny = Callable[..., RunSpec]
Make = Callable[..., Options]
BreakOff = Callable[..., None]
NOISE: dict[str, Any] = {
    "data": {"name": "gaussian", "size": 8, "samples": 60, "channels": 1},
    "probe.also": ["digits"],
}
PROBES = ("linear", "knn", "linear_standardized", "knn_standardized")
PROBED = {f"probe@digits/{role}/{probe}" for role in ("student", "teacher", "input") for probe in PROBES}


def other(settings: Make, folder: Path, **changes: Any) -> Options:
    """Options with a store of their own."""
    return settings(store=type(settings().store)(folder), **changes)


def outcome(run_dir: RunDir) -> tuple[bytes, Any, Any]:
    """What must not depend on what happened on the way."""
    result = run_dir.result()
    assert result is not None
    weights = run_dir.path / "checkpoints" / str(result.steps) / "student.safetensors"
    metrics = read_metrics(run_dir.metrics_path).drop_columns("time")
    return weights.read_bytes(), metrics, (result.last, result.best)


def test_it_is_probed_on_images_alone_and_nothing_of_it_is_on_disk(
    tiny: Tiny, settings: Make, digits: Prepared
) -> None:
    spec, given = tiny(NOISE), settings()
    result = run(spec, given)
    assert {name for name in result.last if name.startswith("probe")} == PROBED
    assert set(result.best) == {name for name in PROBED if "/student/" in name}
    assert (result.steps, result.epochs) == (4, 2)
    record = result.data
    assert (record.name, record.title) == ("gaussian", "Gaussian noise (sigma 1)")
    assert record.also["digits"].sha256 == digits.sha256
    environment = given.store.run(spec).record()
    assert environment is not None
    assert environment.execution.loader == "drawn"
    assert [path.name for path in given.data_dir.glob("gauss*")] == []


def test_input_and_teacher_are_probed_as_in_a_run_on_those_images(tiny: Tiny, settings: Make) -> None:
    """The teacher is no other on noise, and where probes are fitted nothing of the noise is seen."""
    noise = run(tiny(NOISE), settings()).last
    images = run(tiny({"data.samples": None}), settings()).last
    for role in ("input", "teacher"):
        for probe in PROBES:
            assert noise[f"probe@digits/{role}/{probe}"] == images[f"probe/{role}/{probe}"]
    assert noise["probe@digits/student/linear"] != images["probe/student/linear"]


def test_two_runs_of_one_spec_are_equal_bit_for_bit(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    found = []
    for place, asked in (("one", "auto"), ("two", "map")):
        given = other(settings, tmp_path / place, loader=asked)
        run(tiny(NOISE), given)
        found.append(outcome(given.store.run(tiny(NOISE))))
    assert found[0] == found[1]


@pytest.mark.parametrize("changes", [{}, {"augment": {"kind": "crop_flip", "padding": 1}}], ids=["plain", "crop_flip"])
def test_a_run_that_is_resumed_goes_on_bitwise(
    tiny: Tiny, settings: Make, seen: Any, tmp_path: Path, break_off: BreakOff, changes: dict[str, Any]
) -> None:
    spec = tiny({**NOISE, **changes, "train.epochs": 3})
    alone = other(settings, tmp_path / "undisturbed")
    run(spec, alone)

    break_off(spec, settings(observer=seen), at=5)
    run(spec, settings(observer=seen))
    assert seen.named("started") == [(0, 6), (4, 6)]
    assert outcome(settings().store.run(spec)) == outcome(alone.store.run(spec))


def test_cached_and_computed_targets_lead_to_the_same_student(tiny: Tiny, settings: Make, tmp_path: Path) -> None:
    lasts, stages = [], []
    for cache in (True, False):
        given = other(settings, tmp_path / str(cache), cache_teacher=cache)
        lasts.append(run(tiny(NOISE), given).last)
        record = given.store.run(tiny(NOISE)).record()
        assert record is not None
        stages.append(record.execution.cache_teacher)
    assert stages == [True, False]
    for name, value in lasts[0].items():
        # A test image is 1/360; the sums' last bits may move one across a boundary.
        tolerance = 2.5 / 360 if name.startswith("probe@") else 1e-4 * max(1.0, abs(value))
        assert lasts[1][name] == pytest.approx(value, abs=tolerance), name


def test_channels_and_size_are_those_of_the_encoder(tiny: Tiny, settings: Make, colours: Prepared) -> None:
    """Probed images are brought to the size of the noise; the number of channels must be theirs already."""
    data = {"name": "gaussian", "size": 12, "samples": 60}
    spec = tiny({"data": data, "encoder.name": "convnet_4_2", "probe.also": [colours.info.name], "probe.knn": 3})
    given = settings()
    assert "probe@colours/student/linear" in run(spec, given).last
    weights = load_file(given.store.run(spec).path / "checkpoints" / "0" / "student.safetensors")
    assert weights["encoder.features.0.weight"].shape[1] == 3
    with pytest.raises(InputError, match=r"'colours', whose images have 3 channels; .* on 'gaussian' and takes 1\."):
        check(tiny({**NOISE, "probe.also": ["colours"]}), given.data_dir)


def test_what_is_seen_at_its_own_size_must_fit_the_encoder(tiny: Tiny, settings: Make) -> None:
    data_dir = settings().data_dir
    own = {**NOISE, "data.size": 32, "probe.also_size": "own"}
    check(tiny({**own, "encoder.name": "resnet18", "encoder.width": 0.1}), data_dir)
    with pytest.raises(InputError, match=r"'vgg11' for 32 x 32 .* images of 'digits', which have 8 x 8: .* too small"):
        check(tiny({**own, "encoder.name": "vgg11"}), data_dir)
    with pytest.raises(InputError, match=r"have 8 x 8: it has a weight a pixel\. Set probe.also_size to encoder"):
        check(tiny({**own, "encoder.name": "mlp_512_2"}), data_dir)
    for same in ({"data.size": 8}, {"probe.also_size": "encoder"}):
        check(tiny({**own, "encoder.name": "mlp_512_2", **same}), data_dir)


def test_what_noise_must_fit(tiny: Tiny, settings: Make) -> None:
    data_dir = settings().data_dir
    main = check(tiny({**NOISE, "probe.knn": 100}), data_dir).main  # neighbours are among the images
    with pytest.raises(InputError, match="vgg11"):
        fits(tiny({**NOISE, "encoder.name": "vgg11"}), main)
    with pytest.raises(InputError, match="65 training images in batches of 32"):
        fits(tiny({**NOISE, "projector.batch_norm": True, "data.samples": 65}), main)
    with pytest.raises(InputError, match=r"probe.knn is 1438, but 'digits' in probe.also has only 1437"):
        check(tiny({**NOISE, "probe.knn": 1438}), data_dir)


def test_a_run_on_images_starts_from_one_on_noise_and_the_other_way(tiny: Tiny, settings: Make) -> None:
    given = settings()
    noise = {"data": NOISE["data"], "probe": {"also": ["digits"]}}
    on_images = tiny({"teacher.start_from": {"run": {"same_but": noise}}})
    images = {"data": {"name": "digits", "channels": None}}
    on_noise = tiny({**NOISE, "teacher.start_from": {"run": {"same_but": images}}})
    for spec in (on_images, on_noise):
        run(spec, given)
        first = load_file(given.store.run(spec.starts[0].run).path / "checkpoints" / "4" / "student.safetensors")
        teacher = load_file(given.store.run(spec).path / "checkpoints" / "0" / "teacher.safetensors")
        assert all(torch.equal(first[name], teacher[name]) for name in first)
    assert on_images.starts[0].run.data.name == "gaussian"
    assert on_noise.starts[0].run.data.name == "digits"


def test_tables_curves_and_columns_are_of_the_images(tiny: Tiny, settings: Make) -> None:
    given = settings()
    points = [Point({"data.sigma": sigma}, 0, tiny({**NOISE, "data.sigma": sigma})) for sigma in (0.5, 2.0)]
    finished = [(point, run(point.spec, given)) for point in points]
    sweep = SweepSpec(name="noise", base=points[0].spec.model_dump(mode="json"))
    report = make_report([SweepRuns(sweep, points, given.store)], "best", DataHere(given.data_dir))
    assert set(report.tables) == {f"{probe}@digits" for probe in PROBES}
    for row, (point, result) in zip(report.tables["linear@digits"], finished, strict=True):
        assert row.values == point.values
        assert row.measured["student"].mean == result.best["probe@digits/student/linear"].value
        assert row.measured["teacher"].mean == result.last["probe@digits/teacher/linear"]
    names = {path.name for path in report.files}
    assert {"curves-linear.png", "curves-knn.png"} < names
    text = (given.store.sweep("noise").report / "report.md").read_text()
    assert "2 of 2 runs finished." in text
    assert all(f"Gaussian noise (sigma {sigma}) (gaussian, sha256 " in text for sigma in (0.5, 2))
    tags = board_metrics(points)
    assert {tag for tag in tags if tag.startswith("probe")} == PROBED
    both = board_metrics([*points, Point({}, 0, tiny())])
    assert set(both) == {*tags, *(tag.replace("@digits", "") for tag in tags)}
