from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from rt_scale.data.prepare import Prepared, prepare
from rt_scale.experiments.base import check, check_all
from rt_scale.experiments.check import fits, fits_probing
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import StopCheck

Tiny = Callable[..., RunSpec]


def test_a_spec_that_fits_gets_its_data(tiny: Tiny, data_dir: Path, digits: Prepared) -> None:
    data = check(tiny(), data_dir)
    assert (data.main.info.name, data.main.sha256) == ("digits", digits.sha256)
    assert data.also == {}


@pytest.mark.parametrize("samples", [10, 1437, None])
def test_the_numbers_of_images_that_are_there_are_allowed(tiny: Tiny, digits: Prepared, samples: int | None) -> None:
    fits(tiny({"data.samples": samples}), digits)


@pytest.mark.parametrize("samples", [1, 9, 1438, 10**9])
def test_too_few_or_too_many_images(tiny: Tiny, digits: Prepared, samples: int) -> None:
    message = f"data.samples is {samples}, but 'digits' has 1,437 training images of 10 classes; give a number from 10"
    with pytest.raises(InputError, match=message):
        fits(tiny({"data.samples": samples}), digits)


def test_more_neighbours_than_images(tiny: Tiny, digits: Prepared) -> None:
    fits(tiny({"probe.knn": 60}), digits)
    with pytest.raises(InputError, match=r"probe.knn is 61, but only 60 training images .* give at most 60"):
        fits(tiny({"probe.knn": 61}), digits)


def test_images_too_small_for_the_encoder_unless_resized(tiny: Tiny, digits: Prepared) -> None:
    with pytest.raises(InputError, match="vgg11") as caught:
        fits(tiny({"encoder.name": "vgg11"}), digits)
    assert "32" in str(caught.value)
    assert "8" in str(caught.value)
    fits(tiny({"encoder.name": "vgg11", "data.size": 32}), digits)


def test_a_normalisation_that_the_images_are_too_small_for(tiny: Tiny, digits: Prepared) -> None:
    instance = {"encoder": {"name": "resnet18", "norm": "instance"}}
    with pytest.raises(InputError, match=r"last feature map of 1 x 1 for images of 8 x 8 .*data.size=9"):
        fits(tiny(instance), digits)
    fits(tiny({**instance, "data.size": 9}), digits)


@pytest.mark.parametrize(
    "lr", ["linear(0, 1e-3, 10ep)", "linear(0, 1e-3, 10ep) + cosine(1e-3, 0)", "linear(0, 1, 115it)"]
)
def test_a_warm_up_longer_than_the_run(tiny: Tiny, digits: Prepared, lr: str) -> None:
    run = {"data.samples": 230, "train.batch_size": 20, "train.optimizer.lr": lr}
    with pytest.raises(
        InputError, match=r"train.optimizer.lr is linear.* (10|9.58333) epochs .*run has 5 epochs \(60 steps\)"
    ):
        fits(tiny({**run, "train.epochs": 5}), digits)
    fits(tiny({**run, "train.epochs": 10}), digits)


def test_every_schedule_must_fit_the_run(tiny: Tiny, digits: Prepared) -> None:
    longer = "constant(0.1, 60%) + constant(0.2, 50%) + constant(0.3)"
    for name in ("train.optimizer.weight_decay", "teacher.temperature", "teacher.center", "student.temperature"):
        with pytest.raises(InputError, match=f"{name} is constant"):
            fits(tiny({name: longer}), digits)
    for whole in ("linear(0.1, 0.2, 100%)", "constant(0.1, 30%) + constant(0.2, 70%) + cosine(0.3, 0)",
                  "cosine(0.1, 0, 1000ep)", "multistep(0.1, 0.1, 80ep, 120ep)"):  # fmt: skip
        fits(tiny({"train.optimizer.lr": whole}), digits)


def test_data_that_are_not_prepared(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'cifar10' is not prepared in .* 'rt-scale data prepare cifar10 --data-dir"):
        check(tiny({"data.name": "cifar10"}), tmp_path)
    with pytest.raises(InputError, match="Did you mean 'digits'"):
        check(tiny({"data.name": "digts"}), tmp_path)


def test_all_problems_of_a_sweep_are_told_at_once_and_each_once(tiny: Tiny, data_dir: Path) -> None:
    bad = [{"encoder.name": "vgg11"}, {"data.samples": 5}, {"data.name": "cifar10"}]
    specs = [tiny(), *(tiny(changes) for changes in bad), *(tiny({**changes, "seeds.probe": 1}) for changes in bad)]
    with pytest.raises(InputError) as caught:
        check_all(specs, data_dir)
    text = str(caught.value)
    assert [text.count(part) for part in ("'vgg11'", "data.samples is 5", "'cifar10' is not prepared")] == [1, 1, 1]
    assert "\n" not in text


def test_a_sweep_of_runs_that_fit_passes_and_reads_each_data_set_once(
    tiny: Tiny, data_dir: Path, monkeypatch: pytest.MonkeyPatch, digits: Prepared
) -> None:
    opened = []

    def count(name: str, folder: Path, check_stop: StopCheck) -> Prepared:
        opened.append((name, folder))
        return digits

    monkeypatch.setattr("rt_scale.experiments.base.open_prepared", count)
    check_all([tiny({"seeds.teacher": seed}) for seed in range(3)], data_dir)
    assert opened == [("digits", data_dir)]


@pytest.fixture(scope="module")
def colour(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Twenty colour images in two classes, prepared beside the digits."""
    folder = tmp_path_factory.mktemp("originals") / "colour"
    for number in range(20):
        path = folder / str(number % 2) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (12 * number, 255 - 9 * number, 7 * number)).save(path)
    return prepare("colour", data_dir, folder)


def test_a_set_to_probe_on_as_well_is_opened(tiny: Tiny, data_dir: Path, digits: Prepared) -> None:
    sets = check(tiny({"probe.also": ["digits"]}), data_dir)
    assert {name: data.sha256 for name, data in sets.also.items()} == {"digits": digits.sha256}


def test_a_set_to_probe_on_as_well_that_is_not_prepared(tiny: Tiny, data_dir: Path) -> None:
    spec = tiny({"probe.also": ["digits", "cifar10"]})
    for refuse in (lambda: check(spec, data_dir), lambda: check_all([spec], data_dir)):
        with pytest.raises(InputError, match=r"'cifar10' is not prepared in .* 'rt-scale data prepare cifar10"):
            refuse()


def test_a_set_to_probe_on_as_well_with_other_channels(tiny: Tiny, data_dir: Path, colour: Prepared) -> None:
    with pytest.raises(InputError, match=r"'colour', whose images have 3 channels; .* on 'digits' and takes 1\."):
        check(tiny({"probe.also": ["colour"]}), data_dir)
    with pytest.raises(InputError, match=r"'digits', whose images have 1 channel; .* on 'colour' and takes 3\."):
        check_all([tiny({"data": {"name": "colour"}, "probe.also": ["digits"]})], data_dir)


def test_a_set_to_probe_on_as_well_with_too_few_neighbours(tiny: Tiny, colour: Prepared, digits: Prepared) -> None:
    samples = len(colour.train.labels)
    fits_probing(tiny({"probe.knn": samples}), colour, colour)
    with pytest.raises(InputError, match=rf"'colour' in probe.also has only {samples} training images .* at most"):
        fits_probing(tiny({"probe.knn": samples + 1}), colour, colour)
    fits_probing(tiny({"probe.knn": 1437}), digits, digits)


def test_batch_norm_in_the_projector_and_a_last_step_of_one_image(tiny: Tiny, digits: Prepared) -> None:
    alone = {"projector.batch_norm": True, "data.samples": 65, "train.batch_size": 32}
    with pytest.raises(InputError, match=r"a step of 1 image .65 training images in batches of 32"):
        fits(tiny(alone), digits)
    fits(tiny({**alone, "data.samples": 66}), digits)
    fits(tiny({**alone, "projector.batch_norm": False}), digits)
