"""What a kind of run is (``Experiment``), and what is checked of runs of every kind before any work starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from rt_scale.data.own import prepare_own
from rt_scale.data.prepare import Prepared, open_prepared
from rt_scale.data.prepared import KnownData, NoiseSet
from rt_scale.spec.errors import InputError
from rt_scale.spec.kinds import experiment
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import StopCheck, no_check
from rt_scale.store.results import Best
from rt_scale.store.store import Store

if TYPE_CHECKING:
    from torch import Tensor

    from rt_scale.experiments.context import Context
    from rt_scale.experiments.flops import RunWork
    from rt_scale.models.networks import Network

S = TypeVar("S", bound=RunSpec)
Opener = Callable[[str], Prepared]
"""From the name of a data set to the open set; InputError if it cannot be opened."""


@dataclass(frozen=True)
class Sets:
    """Prepared data sets: the main one, others by name, and by run name those of the runs that the spec contains."""

    main: Prepared | NoiseSet
    also: dict[str, Prepared] = field(default_factory=dict)
    starts: dict[str, Sets] = field(default_factory=dict)


class Needs(NamedTuple):
    """What a run asks of its device: bytes of training images, of cached features, and whether batches are whole."""

    image_bytes: int = 0
    cache_bytes: int = 0
    whole_batches: bool = False


class Length(NamedTuple):
    """Steps of a run and of one of its epochs, its number of probings, and the steps that were done before it."""

    steps: int = 1
    epoch: int = 1
    evaluations: int = 0
    before: int = 0


class Cost(NamedTuple):
    """What a run costs, for ``plan``.

    Attributes:
        length: of the run; others of its shape are scaled to it.
        work: counts it, slowly; None: it is not known how.
        network: its network on the meta device, and a batch of meta inputs, whose speed is measured; None: it has none.
        unknown: why it has no ``work``.
    """

    length: Length = Length()
    work: Callable[[], RunWork] | None = None
    network: Callable[[], tuple[Network, Tensor]] | None = None
    unknown: str = "its first finished run tells"


class Outcome(NamedTuple):
    """The result of a run: the last value of every metric, steps and epochs done, and the best values to record."""

    last: Mapping[str, float]
    steps: int = 0
    epochs: int = 0
    best: Mapping[str, Best] = {}


class Experiment(Generic[S]):
    """A kind of run; a subclass has its spec and ``run``, and what else it needs.

    The module must import fast: commands that only plan import it, too. Import torch in ``run``.
    """

    spec: type[S]

    def open(self, spec: S, opener: Opener) -> Sets | None:
        """The data sets that the run reads; None without any."""
        sets = {name: opener(name) for name in spec.data_sets}
        main = next(iter(sets), None)
        return None if main is None else Sets(sets.pop(main), sets)

    def validate(self, spec: S, data: Sets | None) -> None:
        """Raise InputError for a spec that its data sets do not fit, before anything is written."""

    def check_workers(self, spec: S, data: Sets | None, workers: int) -> None:
        """Raise InputError if so many processes cannot execute the run together."""
        raise InputError(
            f"{workers} workers were asked for, but runs of kind {spec.kind} take one. Leave workers at 1."
        )

    def needs(self, spec: S, data: Sets | None) -> Needs:
        """What the run asks of its device."""
        return Needs()

    def cost(self, spec: S, known: KnownData) -> Cost:
        """What the run costs; nothing of it is executed. ``known`` knows every data set of the spec."""
        return Cost()

    def load(self) -> None:
        """Import what ``run`` needs, if that is slow: this time is not counted as the run's."""

    def run(self, spec: S, context: Context) -> Outcome:
        """Compute the run, or continue it: everything that it needs to resume is in its directory."""
        raise NotImplementedError


def experiment_of(spec: RunSpec) -> Experiment[Any]:
    """The experiment that computes ``spec``."""
    found: Experiment[Any] = experiment(spec.kind)()
    return found


def check(spec: RunSpec, data_dir: Path, check_stop: StopCheck = no_check) -> Sets | None:
    """The prepared data sets of ``spec`` and of the runs that it contains, after all checks.

    ``check_stop`` is called repeatedly while a data set is fetched or waited for. InputError if a data set is not
    prepared, damaged, or does not fit its spec.
    """
    return _open(spec, data_dir, lambda name: open_prepared(name, data_dir, check_stop), check_stop)


def _open(spec: RunSpec, data_dir: Path, opener: Opener, check_stop: StopCheck) -> Sets | None:
    kind = experiment_of(spec)
    for own in spec.readers:
        prepare_own(own, data_dir, check_stop=check_stop)
    sets = kind.open(spec, opener)
    for inner in spec.contained:
        found = _open(inner, data_dir, opener, check_stop)
        if sets is not None and found is not None:
            sets.starts[inner.name] = found
    kind.validate(spec, sets)
    return sets


def unfinished(spec: RunSpec, store: Store) -> Iterator[RunSpec]:
    """The runs without a result that ``spec`` needs: itself and, recursively, the runs that it depends on."""
    if store.run(spec).result() is None:
        yield spec
        for needed in spec.dependencies:
            yield from unfinished(needed, store)


def check_all(
    specs: Iterable[RunSpec],
    data_dir: Path,
    check_stop: StopCheck = no_check,
    workers: Mapping[str, int] | None = None,
) -> None:
    """Check every spec as :func:`check` does; raises one InputError that names all problems.

    ``workers``: name of a run -> how many processes are to execute it, if several.
    """
    problems: dict[str, None] = {}
    opened: dict[str, Prepared] = {}

    def once(name: str) -> Prepared:
        if name not in opened:
            opened[name] = open_prepared(name, data_dir, check_stop)
        return opened[name]

    for spec in specs:
        try:
            sets = _open(spec, data_dir, once, check_stop)
            if (number := (workers or {}).get(spec.name, 1)) > 1:
                experiment_of(spec).check_workers(spec, sets, number)
        except InputError as error:
            problems[str(error)] = None
    if problems:
        raise InputError(" ".join(problems))
