"""What can be refused about a spec once the data set is known, before any work starts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec


def check(spec: RunSpec, data_dir: Path) -> Prepared:
    """The prepared data set of ``spec``, which fits it.

    Raises:
        InputError: where the data set is not prepared or damaged, has fewer images or neighbours than
            asked for, or images too small for the encoder.
    """
    data = open_prepared(spec.data.name, data_dir)
    fits(spec, data)
    return data


def fits(spec: RunSpec, data: Prepared) -> None:
    """Refuse a spec that the data set cannot serve; raises InputError."""
    info = data.info
    parse_encoder(spec.encoder.name).check_image(channels=info.channels, size=spec.data.size or info.size)
    samples = spec.data.samples or len(data.train.labels)
    classes = len(info.classes)
    if not classes <= samples <= len(data.train.labels):
        raise InputError(
            f"data.samples is {samples}, but '{info.name}' has {len(data.train.labels):,} training images of "
            f"{classes} classes; give a number from {classes} to {len(data.train.labels)}, or null for all."
        )
    if spec.probe.knn > samples:
        raise InputError(
            f"probe.knn is {spec.probe.knn}, but only {samples} training images are there to be neighbours; "
            f"give at most {samples}."
        )


def check_all(specs: Iterable[RunSpec], data_dir: Path) -> None:
    """Check every spec, and raise one InputError that names all that is wrong with any."""
    problems: dict[str, None] = {}
    opened: dict[str, Prepared] = {}
    for spec in specs:
        try:
            if spec.data.name not in opened:
                opened[spec.data.name] = open_prepared(spec.data.name, data_dir)
            fits(spec, opened[spec.data.name])
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError(" ".join(problems))
