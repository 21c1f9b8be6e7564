"""What the parts of a spec must be to each other."""

from __future__ import annotations

from typing import Any

import pytest

from rt_scale.spec.document import build_run, set_dotted
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec

SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_2"}}
LABELS: dict[str, Any] = {**SMALL, "kind": "supervise", "projector": {"out_dim": 10}}


def refusal(document: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        build_run(document, "spec.yaml")
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix("spec.yaml is not valid: ")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("objective.name", "kl"), ("objective.name", "mse"), ("student.temperature", 0.1), ("student.center", 0.9),
        ("teacher.update", "ema"), ("teacher.update", "previous_epoch"), ("teacher.mode", "train"),
        ("teacher.statistics", "data"), ("teacher.temperature", 0.04), ("teacher.center", 0.9),
    ],
)  # fmt: skip
def test_supervised_training_has_nothing_of_a_distillation(field: str, value: Any) -> None:
    assert RunSpec.model_validate(set_dotted(SMALL, field, value)).kind == "distill"
    wanted = f"kind supervise learns labels, not a teacher: leave out {field}."
    assert refusal(set_dotted(LABELS, field, value)) == wanted


def test_all_that_supervised_training_does_not_use_is_told_at_once() -> None:
    document = {**LABELS, "teacher": {"update": "ema", "center": 0.9}, "objective": {"name": "mse"}}
    assert "leave out objective.name, teacher.update, teacher.center" in refusal(document)


def test_supervised_training_sees_one_view() -> None:
    for kind in ("none", "crop_flip"):
        assert RunSpec.model_validate({**LABELS, "augment": {"kind": kind}}).augment.kind == kind
    views = {"augment": {"kind": "multicrop", "local_views": 0}}
    assert "kind supervise takes one view of an image: set augment.kind to" in refusal({**LABELS, **views})


def test_supervised_training_may_start_anywhere() -> None:
    for student in ({"alpha": 1}, {"epsilon": 0.1}, {"start_from": {"run": LABELS}}):
        assert RunSpec.model_validate({**LABELS, "student": student}).kind == "supervise"
    assert (
        RunSpec.model_validate({**LABELS, "teacher": {"start_from": {"run": LABELS}}}).starts[0].run.kind == "supervise"
    )


def test_label_noise_is_for_those_who_learn_labels() -> None:
    assert RunSpec.model_validate({**LABELS, "objective": {"label_noise": 0.5}}).objective.label_noise == 0.5
    unprobed = refusal({**LABELS, "probe": {"own": False, "also": ["mnist"]}})
    assert "measures its classifier on its own test images" in unprobed
    message = refusal({**SMALL, "objective": {"label_noise": 0.5}})
    assert "label_noise changes labels, which kind distill never uses: set kind: supervise" in message


@pytest.mark.parametrize(
    ("pairing", "augment", "words"),
    [
        ("opposite", {}, "pairing opposite is between several views of an image, and there is one"),
        ("all", {"kind": "crop_flip"}, "set augment.kind to multicrop, or leave pairing at same"),
        ("same", {"kind": "multicrop"}, "so the 10 local views would not be used"),
        (
            "opposite",
            {"kind": "multicrop", "global_views": 1, "local_views": 0},
            "pairing opposite needs a second view",
        ),
        (
            "all",
            {"kind": "multicrop", "global_views": 1, "local_views": 0},
            "raise augment.global_views or local_views",
        ),
    ],
)
def test_pairings_need_their_views(pairing: str, augment: dict[str, Any], words: str) -> None:
    assert words in refusal({**SMALL, "objective": {"pairing": pairing}, "augment": augment})


@pytest.mark.parametrize(
    ("pairing", "global_views", "local_views"),
    [("same", 1, 0), ("same", 2, 0), ("opposite", 2, 0), ("opposite", 1, 1), ("all", 1, 1), ("all", 2, 10)],
)
def test_pairings_that_have_their_views(pairing: str, global_views: int, local_views: int) -> None:
    augment = {"kind": "multicrop", "global_views": global_views, "local_views": local_views}
    spec = RunSpec.model_validate({**SMALL, "objective": {"pairing": pairing}, "augment": augment})
    assert (spec.augment.global_views, spec.augment.local_views) == (global_views, local_views)


NOISE: dict[str, Any] = {
    **SMALL,
    "data": {"name": "gaussian", "size": 8, "samples": 60},
    "probe": {"also": ["digits"]},
}


def test_noise_is_written_out_in_full() -> None:
    spec = RunSpec.model_validate(NOISE)
    assert (spec.data.sigma, spec.data.channels) == (1.0, 3)
    whole = set_dotted(set_dotted(NOISE, "data.sigma", 1), "data.channels", 3)
    assert RunSpec.model_validate(whole).name == spec.name
    assert not {"sigma", "channels"} & set(RunSpec.model_validate(SMALL).canonical()["data"])
    assert RunSpec.model_validate({**NOISE, "augment": {"kind": "crop_flip"}}).augment.kind == "crop_flip"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "supervise"}, "kind supervise learns labels, and gaussian inputs have none: name another data set"),
        ({"probe": {}}, "gaussian inputs have no labels to probe on: name other data sets in probe.also"),
        ({"probe": {"also": ["digits"], "statistics": True}}, "probe.statistics are of test images"),
        ({"probe": {"also": ["digits"], "own": False}}, "gaussian inputs are never probed themselves"),
        ({"augment": {"kind": "multicrop", "local_views": 0}}, "set augment.kind to none or crop_flip"),
    ],
)
def test_noise_is_no_picture_and_has_no_labels(changes: dict[str, Any], words: str) -> None:
    assert words in refusal({**NOISE, **changes})


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("part", ["network", "encoder"])
@pytest.mark.parametrize("other", [{"name": "convnet_16_2"}, {"name": "convnet_32_2", "norm": "batch"}])
def test_weights_are_taken_over_between_equal_encoders(role: str, part: str, other: dict[str, Any]) -> None:
    start = {"run": {**SMALL, "encoder": other}, "part": part}
    message = refusal({**SMALL, role: {"start_from": start}})
    assert f"{role}.start_from.run has the encoder {{name: {other['name']}" in message
    assert "this run {name: convnet_32_2, norm: none" in message


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_a_whole_network_needs_an_equal_projector_too(role: str) -> None:
    start = {"run": {**SMALL, "projector": {"out_dim": 8}}}
    message = refusal({**SMALL, role: {"start_from": start}})
    assert f"{role}.start_from.run has another projector than this run" in message
    assert "out_dim: 8," in message
    assert "give part: encoder to draw a new projector" in message
    taken = RunSpec.model_validate({**SMALL, role: {"start_from": {**start, "part": "encoder"}}})
    assert taken.starts[0].run.projector.out_dim == 8


def test_a_run_that_another_starts_from_is_checked_as_well() -> None:
    start = {"run": {**SMALL, "objective": {"pairing": "all"}}}
    assert refusal({**SMALL, "teacher": {"start_from": start}}).startswith(
        "teacher.start_from.run: objective.pairing all"
    )
