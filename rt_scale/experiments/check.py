"""What can be refused about a spec once its data sets are known, before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rt_scale.data.noise_set import NoiseSet, noise_set
from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.experiments.fits import fits, fits_probing, fits_start
from rt_scale.spec.data import GAUSSIAN, DataSpec
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Heed, go_on
from rt_scale.store.store import Store


@dataclass(frozen=True)
class Sets:
    """The prepared data sets of a run.

    Attributes:
        main: what the student is distilled and probed on.
        also: the others that it is probed on, by name.
        starts: those of the runs that it starts from, by the run's name.
    """

    main: Prepared | NoiseSet
    also: dict[str, Prepared] = field(default_factory=dict)
    starts: dict[str, Sets] = field(default_factory=dict)


def check(spec: RunSpec, data_dir: Path, heed: Heed = go_on) -> Sets:
    """The prepared data sets of ``spec``, which fit it, as those of the runs that it starts from fit them.

    Args:
        spec: the run.
        data_dir: where prepared data sets are.
        heed: called again and again while one is fetched or waited for.

    Raises:
        InputError: where a data set is not prepared or damaged, has fewer images or neighbours than asked
            for, images too small for the encoder, no labels where they are needed, or, in ``probe.also``, another
            number of channels.
    """
    return _open(spec, lambda name: open_prepared(name, data_dir, heed))


def _open(spec: RunSpec, opener: Callable[[str], Prepared]) -> Sets:
    sets = Sets(_main(spec.data, opener), {name: opener(name) for name in spec.probe.also})
    fits(spec, sets.main)
    for other in sets.also.values():
        fits_probing(spec, sets.main, other)
    for start in spec.starts:
        sets.starts[start.run.name] = _open(start.run, opener)
        fits_start(spec, sets.main, start.run, sets.starts[start.run.name].main)
    return sets


def _main(data: DataSpec, opener: Callable[[str], Prepared]) -> Prepared | NoiseSet:
    if data.name != GAUSSIAN:
        return opener(data.name)
    return noise_set(data.name, data.samples or 1, data.size or 1, data.channels or 3, data.sigma or 1.0)


def unfinished(spec: RunSpec, store: Store) -> Iterator[RunSpec]:
    """What there is to compute for the result of ``spec``: itself, and the runs that it starts from, and theirs."""
    if store.run(spec).result() is None:
        yield spec
        for start in spec.starts:
            yield from unfinished(start.run, store)


def check_all(specs: Iterable[RunSpec], data_dir: Path, heed: Heed = go_on) -> None:
    """Check every spec, and raise one InputError that names all that is wrong with any; ``heed`` as for ``check``."""
    problems: dict[str, None] = {}
    opened: dict[str, Prepared] = {}

    def once(name: str) -> Prepared:
        if name not in opened:
            opened[name] = open_prepared(name, data_dir, heed)
        return opened[name]

    for spec in specs:
        try:
            _open(spec, once)
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError(" ".join(problems))
