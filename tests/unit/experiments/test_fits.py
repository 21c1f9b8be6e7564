"""Whether views, classes and other runs fit the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rt_scale.data.prepare import Prepared
from rt_scale.experiments.base import check, check_all
from rt_scale.experiments.check import fits, fits_probing
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import StopCheck

Tiny = Callable[..., RunSpec]
VIEWS: dict[str, Any] = {"kind": "multicrop", "local_views": 2, "global_size": 8, "local_size": 4}
OPPOSITE = {"objective.pairing": "opposite"}
RESNET = {"encoder": {"name": "resnet18", "width": 0.125}}
VIT = {"encoder": {"name": "vit_tiny", "width": 0.25}}


def test_views_that_the_encoder_takes(tiny: Tiny, digits: Prepared) -> None:
    fits(tiny({"augment": VIEWS, **OPPOSITE}), digits)
    fits(tiny({"augment": {**VIEWS, "local_size": 8}, **OPPOSITE, **RESNET}), digits)
    fits(tiny({"augment": {**VIEWS, "local_size": 8}, **OPPOSITE, **VIT}), digits)


@pytest.mark.parametrize(
    ("changes", "sizes", "words"),
    [
        (RESNET, {}, ["augment.local_size is 4: Images of 4 x 4 pixels are too small for encoder 'resnet18'"]),
        (RESNET, {"global_size": 7, "local_size": 8}, ["augment.global_size is 7: Images of 7 x 7"]),
        (VIT, {}, ["is 4, but encoder 'vit_tiny' is built for images of 8 x 8", "Set augment.local_size to 8"]),
        ({**VIT, "data.size": 16}, {"local_size": 8}, ["augment.global_size is 8, but", "16 x 16", "a position"]),
        ({"encoder": {"name": "mlp_8_1"}}, {}, ["augment.local_size is 4, but encoder 'mlp_8_1'", "a weight a pixel"]),
        ({"encoder": {"name": "flatten"}}, {}, ["a number a pixel"]),
        (
            {"encoder": {"name": "resnet20", "norm": "instance", "width": 0.5}},
            {},
            ["augment.local_size is 4: ", "normalisation 'instance' would be over single values"],
        ),
    ],
)  # fmt: skip
def test_views_that_it_does_not_take(
    tiny: Tiny, digits: Prepared, changes: dict[str, Any], sizes: dict[str, int], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        fits(tiny({**changes, "augment": {**VIEWS, **sizes}, **OPPOSITE}), digits)
    for part in words:
        assert part in str(caught.value)


def test_the_size_of_local_views_that_are_not_made_is_no_matter(tiny: Tiny, digits: Prepared) -> None:
    fits(tiny({"augment": {**VIEWS, "local_views": 0}, **OPPOSITE, **VIT}), digits)
    fits(tiny({"augment": {"kind": "crop_flip"}, **VIT}), digits)


def test_one_output_a_class(tiny: Tiny, digits: Prepared, colours: Prepared) -> None:
    labels = {"kind": "supervise", "projector.out_dim": 10}
    fits(tiny(labels), digits)
    fits(tiny({**labels, "projector.out_dim": 2, "data": {"name": "colours"}}), colours)
    for outputs in (9, 1024):
        message = rf"projector.out_dim is {outputs:,}, but 'digits' has 10 classes; set projector.out_dim to 10\."
        with pytest.raises(InputError, match=message):
            fits(tiny({**labels, "projector.out_dim": outputs}), digits)
        fits(tiny({"projector.out_dim": outputs}), digits)


@pytest.fixture
def unlabelled(digits: Prepared) -> Prepared:
    """The digits, had nobody labelled them."""
    return dataclasses.replace(digits, info=dataclasses.replace(digits.info, labelled=False))


def test_images_without_labels_are_distilled_on_and_probed_on_others(
    tiny: Tiny, digits: Prepared, unlabelled: Prepared
) -> None:
    for samples in (1, 5, 1437, None):  # fewer than classes, since none is to be balanced
        fits(tiny({"probe.also": ["mnist"], "data.samples": samples, "probe.knn": 100}), unlabelled)
    fits_probing(tiny({"probe.also": ["digits"]}), unlabelled, digits)
    with pytest.raises(InputError, match="1,437 training images without labels; give a number from 1 to 1437"):
        fits(tiny({"probe.also": ["mnist"], "data.samples": 1438}), unlabelled)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"probe": {"also": ["mnist"], "statistics": True}},
        {"probe.also": ["mnist"], "kind": "supervise", "projector.out_dim": 10},
    ],
)
def test_what_needs_labels_is_refused_without(
    tiny: Tiny, digits: Prepared, unlabelled: Prepared, changes: dict[str, Any]
) -> None:
    fits(tiny(changes), digits)
    words = "'digits' have no labels: .* Name those in probe.also, leave kind at distill, and leave out probe.s"
    with pytest.raises(InputError, match=words):
        fits(tiny(changes), unlabelled)
    with pytest.raises(InputError, match=r"probe.also names 'digits', whose images have no labels to probe with"):
        fits_probing(tiny(), digits, unlabelled)


def start(**changes: Any) -> dict[str, Any]:
    return {"teacher.start_from": {"run": {"same_but": changes}}}


def test_a_run_on_other_images_may_be_started_from(tiny: Tiny, data_dir: Path, colours: Prepared) -> None:
    check(tiny(start(data={"size": 12})), data_dir)
    check(tiny({**start(data={"size": 8}), **VIT}), data_dir)
    check(tiny({**start(data={"samples": 20}), "data": {"name": "colours"}}), data_dir)


@pytest.mark.parametrize("encoder", [{"name": "mlp_8_1"}, {"name": "flatten"}, {"name": "vit_tiny", "width": 0.25}])
def test_one_of_another_size_only_where_the_encoder_takes_it(
    tiny: Tiny, data_dir: Path, encoder: dict[str, Any]
) -> None:
    spec = tiny({**start(data={"size": 16}), "encoder": encoder})
    message = (
        r"start_from.run is on images of 16 x 16 pixels, this run on 8 x 8, .* one size alone: .* data.size to 16\."
    )
    with pytest.raises(InputError, match=message):
        check(spec, data_dir)


def test_one_of_other_channels_never(tiny: Tiny, data_dir: Path, colours: Prepared) -> None:
    spec = tiny(start(data={"name": "colours"}))
    for refuse in (lambda: check(spec, data_dir), lambda: check_all([spec, spec], data_dir)):
        with pytest.raises(InputError) as caught:
            refuse()
        text = "start_from.run is on 'colours', whose images have another number of channels (3) than those of 'digits'"
        assert str(caught.value).count(text) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": {"name": "cifar10"}}, "'cifar10' is not prepared"),
        ({"data": {"samples": 5}}, "data.samples is 5, but 'digits'"),
        ({"probe": {"knn": 61}}, "probe.knn is 61"),
        ({"teacher": {"start_from": {"run": {"same_but": {"data": {"samples": 6}}}}}}, "data.samples is 6"),
    ],
)
def test_the_runs_that_come_first_must_fit_their_data(
    tiny: Tiny, data_dir: Path, changes: dict[str, Any], words: str
) -> None:
    for role in ("teacher", "student"):
        with pytest.raises(InputError, match=words):
            check(tiny({"student": {}, f"{role}.start_from": {"run": {"same_but": changes}}}), data_dir)


def test_a_data_set_is_opened_once_for_runs_and_those_before_them(
    tiny: Tiny, data_dir: Path, digits: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def count(name: str, folder: Path, check_stop: StopCheck) -> Prepared:
        opened.append(name)
        return digits

    monkeypatch.setattr("rt_scale.experiments.base.open_prepared", count)
    check_all([tiny({**start(train={"epochs": epochs}), "probe.also": ["digits"]}) for epochs in (1, 3)], data_dir)
    assert opened == ["digits"]
