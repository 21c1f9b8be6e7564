"""What a run does with plugins: checks before it starts, and the sources that its directory keeps."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from rt_scale.plugins import check_arguments, find_source, load
from rt_scale.spec.errors import InputError, some
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.networks import EncoderSpec
from rt_scale.spec.run import RunSpec, stream

if TYPE_CHECKING:
    from rt_scale.training.loop import Measured, Objective


def check_plugins(spec: TrainingSpec, channels: int, size: int, sides: tuple[int, ...]) -> None:
    """Import the plugins of ``spec``, all but that of its images, and try them.

    Args:
        channels, size: of the images that the encoder is built for.
        sides: of the other images that it is given: views, and sets that are probed.

    InputError: one cannot be imported or used as the spec says, or its source is another.
    """
    from rt_scale.losses.own import load_objective

    if spec.encoder.plugin is not None:
        _check_encoder(spec.encoder.canonical_text, channels, size, sides)
    if spec.objective.plugin is not None:
        load_objective(spec.objective)
    for probe in spec.probe.extra:
        function = load(probe.name, probe.source)
        check_arguments(f"The probe '{probe.name}'", function, probe.arguments, ("classes", "seed"), positional=4)


@functools.lru_cache(maxsize=64)
def _check_encoder(text: str, channels: int, size: int, sides: tuple[int, ...]) -> None:
    from rt_scale.models.own import build_own, embedding_width

    spec = EncoderSpec.model_validate_json(text)
    encoder, again = (build_own(spec, channels=channels, size=size, seed=0) for _ in range(2))
    others = dict(again.named_parameters())
    if different := [name for name, value in encoder.named_parameters() if not value.equal(others[name])]:
        raise InputError(
            f"The encoder '{spec.name}' draws {some(different)} anew at every call, so that no run could be repeated: "
            "draw weights by torch's own functions, or by a generator with a seed."
        )
    for side in sides:
        width = embedding_width(spec.name, encoder, channels, side)
        if width != encoder.embed_dim:
            raise InputError(
                f"The encoder '{spec.name}' gives {encoder.embed_dim} numbers for images of {size} x {size} pixels, "
                f"and {width} for {side} x {side}: it takes one size alone."
            )


def sources(spec: RunSpec) -> dict[str, dict[str, str]]:
    """The sources of the plugins of ``spec`` as its directory keeps them: reference -> SHA-256 and text.

    InputError: a source here is another than the spec names.
    """
    found = {}
    for reference, sha256 in spec.plugins.items():
        source = find_source(reference, sha256)
        found[reference] = {"sha256": source.sha256, "text": source.text}
    return found


def reproducible(spec: TrainingSpec, objective: Objective[Any]) -> Objective[Any]:
    """``objective``, before each of whose steps the global generators that a plugin may draw from are seeded.

    So dropout in an encoder of a user's is the same in a resumed run. Without plugins: ``objective`` itself.
    """
    if spec.encoder.plugin is None and spec.objective.plugin is None:
        return objective
    from rt_scale.models.own import seed_all

    def seeded(model: Any, batch: Any, step: int) -> Measured:
        seed_all(stream("plugin", spec.seeds.student, step))
        return objective(model, batch, step)

    return seeded
