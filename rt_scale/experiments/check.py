"""What can be refused about a spec once its data sets are known, before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.spec.encoders import parse_encoder
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec


@dataclass(frozen=True)
class Sets:
    """The prepared data sets of a run.

    Attributes:
        main: what the student is distilled and probed on.
        also: the others that it is probed on, by name.
    """

    main: Prepared
    also: dict[str, Prepared] = field(default_factory=dict)


def check(spec: RunSpec, data_dir: Path) -> Sets:
    """The prepared data sets of ``spec``, which fit it.

    Raises:
        InputError: where a data set is not prepared or damaged, has fewer images or neighbours than asked
            for, images too small for the encoder, or, in ``probe.also``, another number of channels.
    """
    return _open(spec, lambda name: open_prepared(name, data_dir))


def _open(spec: RunSpec, opener: Callable[[str], Prepared]) -> Sets:
    sets = Sets(opener(spec.data.name), {name: opener(name) for name in spec.probe.also})
    fits(spec, sets.main)
    for other in sets.also.values():
        fits_probing(spec, sets.main, other)
    return sets


def fits(spec: RunSpec, data: Prepared) -> None:
    """Refuse a spec that the data set cannot serve; raises InputError."""
    info = data.info
    encoder, size = spec.encoder, spec.data.size or info.size
    parse_encoder(encoder.name).check_image(channels=info.channels, size=size, norm=encoder.norm, width=encoder.width)
    samples = spec.data.samples or len(data.train.labels)
    classes = len(info.classes)
    if not classes <= samples <= len(data.train.labels):
        raise InputError(
            f"data.samples is {samples}, but '{info.name}' has {len(data.train.labels):,} training images of "
            f"{classes} classes; give a number from {classes} to {len(data.train.labels)}, or null for all."
        )
    if spec.projector.batch_norm and samples % spec.train.batch_size == 1:
        raise InputError(
            f"projector.batch_norm needs at least 2 images a step, but the last step of an epoch has 1: {samples} "
            f"images in batches of {spec.train.batch_size}. Choose another train.batch_size or data.samples."
        )
    if spec.probe.knn > samples:
        raise InputError(
            f"probe.knn is {spec.probe.knn}, but only {samples} training images are there to be neighbours; "
            f"give at most {samples}."
        )


def fits_probing(spec: RunSpec, main: Prepared, other: Prepared) -> None:
    """Refuse a data set of ``probe.also`` that an encoder made for ``main`` cannot be probed on (InputError)."""
    name, channels, samples = other.info.name, other.info.channels, len(other.train.labels)
    if channels != main.info.channels:
        raise InputError(
            f"probe.also names '{name}', whose images have {channels} channel{'s' if channels > 1 else ''}; the "
            f"encoder is distilled on '{main.info.name}' and takes {main.info.channels}. Leave '{name}' out, or "
            f"distil on a data set with as many channels."
        )
    if spec.probe.knn > samples:
        raise InputError(
            f"probe.knn is {spec.probe.knn}, but '{name}' in probe.also has only {samples} training images to be "
            f"neighbours; give at most {samples}, or leave '{name}' out."
        )


def check_all(specs: Iterable[RunSpec], data_dir: Path) -> None:
    """Check every spec, and raise one InputError that names all that is wrong with any."""
    problems: dict[str, None] = {}
    opened: dict[str, Prepared] = {}

    def once(name: str) -> Prepared:
        if name not in opened:
            opened[name] = open_prepared(name, data_dir)
        return opened[name]

    for spec in specs:
        try:
            _open(spec, once)
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError(" ".join(problems))
