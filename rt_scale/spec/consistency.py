"""What the parts of a spec must be to each other, checked as soon as a spec is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rt_scale.spec.data import GAUSSIAN

if TYPE_CHECKING:
    from rt_scale.spec.part import Part
    from rt_scale.spec.run import RunSpec
    from rt_scale.spec.start import StartFrom


def check_run(spec: RunSpec) -> None:
    """Refuse parts that do not fit together; raises ValueError."""
    if spec.kind == "supervise":
        _supervised(spec)
    elif spec.objective.label_noise:
        raise ValueError("objective.label_noise changes labels, which kind distill never sees: set kind: supervise")
    if spec.data.name == GAUSSIAN:
        _noise(spec)
    if GAUSSIAN in spec.probe.also:
        raise ValueError("probe.also names gaussian, whose inputs have no labels to probe with: leave it out")
    _pairing(spec)
    for role in ("teacher", "student"):
        start = getattr(spec, role).start_from
        if start is not None:
            _same_architecture(spec, f"{role}.start_from", start)


def _supervised(spec: RunSpec) -> None:
    """Nothing that only a distillation uses may tell two equal supervised runs apart."""
    given = {
        "objective.name": spec.objective.name != "cross_entropy",
        "student.temperature": spec.student.temperature != 1,
        "student.center": spec.student.center is not None,
        "teacher.update": spec.teacher.update != "none",
        "teacher.mode": spec.teacher.mode != "eval",
        "teacher.statistics": spec.teacher.statistics != "initial",
        "teacher.temperature": spec.teacher.temperature != 1,
        "teacher.center": spec.teacher.center is not None,
    }
    idle = [name for name, is_given in given.items() if is_given]
    if idle:
        raise ValueError(f"kind supervise learns labels, not a teacher: leave out {', '.join(idle)}")
    if not spec.probe.own:
        raise ValueError("kind supervise measures its classifier on its own test images: leave probe.own at true")
    if spec.augment.kind == "multicrop":
        raise ValueError("kind supervise takes one view of an image: set augment.kind to crop_flip or none")


def _noise(spec: RunSpec) -> None:
    """Noise has no labels to learn or to probe on, and is no picture."""
    if spec.kind == "supervise":
        raise ValueError("kind supervise learns labels, and gaussian inputs have none: name another data set")
    if not spec.probe.also:
        raise ValueError("gaussian inputs have no labels to probe on: name other data sets in probe.also")
    if not spec.probe.own:
        raise ValueError("gaussian inputs are never probed themselves: leave probe.own at true")
    if spec.probe.statistics:
        raise ValueError("probe.statistics are of test images, and gaussian inputs have none: leave it false")
    if spec.augment.kind == "multicrop":
        raise ValueError(
            "multi-crop changes the colours of pictures, and gaussian inputs are none: set augment.kind "
            "to none or crop_flip"
        )


def _pairing(spec: RunSpec) -> None:
    views, pairing = spec.augment, spec.objective.pairing
    if views.kind != "multicrop":
        if pairing != "same":
            raise ValueError(
                f"objective.pairing {pairing} is between several views of an image, and there is one: set "
                "augment.kind to multicrop, or leave pairing at same"
            )
    elif pairing == "same" and views.local_views:
        raise ValueError(
            f"objective.pairing same compares global views alone, so that the {views.local_views} local ones would be "
            "made for nothing: set augment.local_views to 0, or pairing to opposite or all"
        )
    elif pairing != "same" and views.global_views + views.local_views == 1:
        raise ValueError(f"objective.pairing {pairing} needs a second view: raise augment.global_views or local_views")


def _same_architecture(spec: RunSpec, name: str, start: StartFrom) -> None:
    other = start.run
    if other.encoder != spec.encoder:
        raise ValueError(
            f"{name}.run has the encoder {_text(other.encoder)}, this run {_text(spec.encoder)}: weights can only "
            "be taken over between equal encoders"
        )
    if start.part == "network" and other.projector != spec.projector:
        raise ValueError(
            f"{name}.run has another projector than this run, {_text(other.projector)} and not "
            f"{_text(spec.projector)}: give part: encoder to draw the projector anew, or make them equal"
        )


def _text(part: Part) -> str:
    return "{" + ", ".join(f"{name}: {getattr(part, name)}" for name in type(part).model_fields) + "}"
