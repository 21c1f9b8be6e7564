"""A sweep with the runs that a store has of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rt_scale import __version__
from rt_scale.spec import grid
from rt_scale.spec.differences import points_of
from rt_scale.spec.errors import InputError, guess, shown, unknown_name
from rt_scale.spec.explore import ExploreSpec
from rt_scale.spec.grid import Point, points_at
from rt_scale.spec.kinds import KINDS, import_kinds
from rt_scale.spec.part import LONGEST_NAME, Document, json_text
from rt_scale.spec.run import RunSpec, read_recorded
from rt_scale.spec.sweep import SweepSpec, parse_either, parse_sweep
from rt_scale.spec.yaml_files import read_text
from rt_scale.store.atomic import read_json
from rt_scale.store.run_dir import RUNS, RunDir
from rt_scale.store.store import FILE, Preemptions, Store, SweepDir
from rt_scale.system.paths import bundled_sweep, bundled_sweeps

SAMPLED, STOPPED, POINTS = "sampled.json", "stopped.json", "points.json"
"""Files in a sweep's folder: the points that its search sampled, the runs that its rule stopped early, and its runs."""

_MANY = 1000
"""In a store of as many runs no name of a run is suggested for an unknown one."""


@dataclass(frozen=True)
class SweepRuns:
    """A sweep file with its runs.

    Attributes:
        spec: the parsed file.
        grid: the runs of its grid; empty for a search, unless it was read from a record.
        text: the file's text.
        overrides: its ``--set`` assignments, and what names of plugins stand for.
        home: of single runs, which are in no sweep, the folder in the store for what is made of them; else None.
    """

    spec: SweepSpec
    grid: Sequence[Point]
    store: Store
    text: str = ""
    overrides: Sequence[str] = ()
    home: str | None = None

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return self.spec.name

    @property
    def words(self) -> str:
        """These runs in a sentence: ``sweep 'demo'``, ``run distill-0123456789abcdef`` or ``2 single runs``."""
        if self.home is None:
            return f"sweep '{self.name}'"
        return f"run {self.name}" if len(self.grid) == 1 else f"{len(self.grid)} single runs"

    @property
    def folder(self) -> SweepDir:
        """The sweep's folder in the store."""
        if self.home is not None:
            return SweepDir(self.store.root / self.home, self.store)
        return self.store.sweep(self.spec.name)

    @property
    def points(self) -> Sequence[Point]:
        """The distinct runs: of the grid, or sampled by the search so far."""
        if self.grid or self.spec.explore is None or self.spec.explore.search is None:
            return self.grid
        sampled = (run_at(self.spec, values) for values in read_sampled(self.folder))
        return list({point.spec.name: point for point in sampled if point is not None}.values())

    @property
    def to_sample(self) -> int:
        """How many points the search has still to sample; 0 for a grid."""
        if self.spec.explore is None or self.spec.explore.search is None:
            return 0
        return max(0, most_points(self.spec.explore) - len(read_sampled(self.folder)))

    @property
    def preempted(self) -> dict[str, Preemptions]:
        """The runs that lost their nodes, by name."""
        return self.folder.preemptions()

    @property
    def early_stopped(self) -> dict[str, EarlyStop]:
        """The runs that the present rule stopped early, by name."""
        if self.spec.explore is None or self.spec.explore.stop is None:
            return {}
        return EarlyStops(self.spec.explore, self.folder).runs()


def single_runs(specs: Sequence[RunSpec], store: Store, *, seeds_apart: bool = False) -> SweepRuns:
    """Runs that were started one by one, under one name; their axes are the fields in which they differ.

    ``seeds_apart``: see ``points_of``.
    """
    points = points_of(list({spec.name: spec for spec in specs}.values()), seeds_apart=seeds_apart)
    names = [point.spec.name for point in points]
    name, home = names[0], f"{RUNS}/{names[0]}"
    if len(names) > 1:
        name = f"compared-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:8]}"
        home = f"{home}/{name}"
    return SweepRuns(SweepSpec(name=name, base={}), points, store, home=home)


def store_runs(store: Store) -> SweepRuns:
    """All runs that were begun in the store, as single ones; InputError if there are none."""
    specs = stored_specs(store.names(), store)
    if not specs:
        raise InputError(f"There are no runs in '{store.place}'. Run a sweep first, or name the store with --store.")
    return replace(single_runs(list(specs.values()), store), home=".")


def stored_specs(names: Iterable[str], store: Store) -> dict[str, RunSpec]:
    """The specs of these runs by name, without those that are missing, or of another version of rt-scale."""
    found = {}
    for name in names:
        with suppress(InputError):
            found[name] = recorded_spec(store.run(name))
    return found


def recorded_spec(run_dir: RunDir) -> RunSpec:
    """The spec of a run that was begun.

    InputError: it was never begun, or its spec is of another version of rt-scale.
    """
    if (recorded := run_dir.spec()) is None:
        raise InputError(
            f"The run '{run_dir.name}' was never begun: there is no spec in '{run_dir.path}'. Run it first."
        )
    try:
        return read_recorded(recorded)
    except ValidationError as error:
        raise InputError(
            f"The spec of run '{run_dir.path}' is of another version of rt-scale, or damaged. Use that version."
        ) from error


def read_runs(given: Sequence[Path], overrides: Sequence[str], store: Store) -> list[SweepRuns]:
    """Sweep files, and then all single runs together: spec files, names of runs, and beginnings of names.

    InputError: a file, an assignment or a run is not valid, or a name is unknown or the beginning of several runs.
    """
    sweeps: list[SweepRuns] = []
    specs: list[RunSpec] = []
    for each in given:
        name = each.as_posix()
        if os.path.lexists(name) or each.suffix or len(name) > LONGEST_NAME or name in bundled_sweeps():
            found = read_sweep(each, overrides, store, single=True)
            sweeps += [found] if found.home is None else []
            specs += [point.spec for point in found.grid if found.home is not None]
        else:
            specs.append(_stored(name, overrides, store))
    return [*sweeps, *([single_runs(specs, store)] if specs else [])]


def _stored(name: str, overrides: Sequence[str], store: Store) -> RunSpec:
    """The spec of the stored run with that name, or beginning with it."""
    store.refresh(curves=False)
    if (found := store.find(name)) is None:
        known = [*bundled_sweeps(), *store.names()]
        close = guess(name, known if len(known) < _MANY else bundled_sweeps()).replace(" did", " Did")
        raise InputError(
            f"There is no file, no run in '{store.place}' and no sweep of the package that is called {shown(name)}."
            f"{close} 'rt-scale status' lists runs, 'rt-scale sweeps' the sweeps of the package."
        )
    if overrides:
        raise InputError(f"Run '{found}' is what its spec says: --set and --import are for files. Leave them out.")
    return recorded_spec(store.run(found))


def read_sweep(
    file: Path,
    overrides: Sequence[str],
    store: Store,
    most: int | None = None,
    *,
    single: bool = False,
    execute: bool = False,
) -> SweepRuns:
    """The sweep in a file, with its runs; a file in a store also gets the assignments recorded there.

    Args:
        file: read once: it may be a pipe. Without such a file, the name of a sweep of the package, e.g. ``paper/fig3``.
        overrides: more ``--set`` assignments.
        store: where the runs are kept.
        most: largest grid; None: the limit without --yes, or as many runs as were started in ``store``.
        single: whether it may be a spec file, of a single run.
        execute: whether its runs are to be executed, so that a user's kinds of runs are imported; otherwise their runs
            are those that ``store`` has recorded.

    InputError: the file, an assignment or a run is not valid, or the grid is too large.
    """
    file = _named(file)
    assigned = [*(SweepDir(file.parent).overrides() if file.name == FILE else []), *overrides]
    text = read_text(file)
    spec = (parse_either if single else parse_sweep)(text, str(file), assigned)
    if isinstance(spec, RunSpec):
        return single_runs([spec], store)
    if execute:
        import_kinds([spec.base, *({"kind": kind} for kind in spec.kinds)], spec.names)
    elif own := [kind for kind in spec.kinds if kind not in KINDS]:
        points, stood_for = _recorded(store, spec.name, own), store.sweep(spec.name).overrides()
        assigned = list(dict.fromkeys([*assigned, *(each for each in stood_for if each.startswith(_PLUGINS))]))
        return SweepRuns(spec, points, store, text, assigned)
    if most is not None:
        grid.refuse_large(spec, most)
    elif grid.grid_size(spec) > grid.GRID_LIMIT:
        store.refresh_sweeps()
        started = len(store.sweep(spec.name).runs())
        grid.refuse_large(spec, max(grid.GRID_LIMIT, started), "start them with 'rt-scale sweep --yes' in this store")
    points = grid.expand(spec)
    if found := spec.names.found:
        assigned = [each for each in assigned if not each.startswith(_PLUGINS)] + [_PLUGINS + json_text(found)]
    return SweepRuns(spec, points, store, text, assigned)


def record_points(sweep: SweepRuns) -> None:
    """Record the runs of a sweep in its folder, if some are of a user's kind, which readers do not import."""
    if any(point.spec.kind not in KINDS for point in sweep.points):
        points = [{**vars(point), "spec": point.spec.canonical()} for point in sweep.points]
        sweep.folder.record(POINTS, [{key: each[key] for key in ("values", "seed", "spec")} for each in points])


def _recorded(store: Store, name: str, own: Sequence[str]) -> list[Point]:
    try:
        points: list[Document] = read_json(store.sweep(name).path / POINTS)
        return [Point(each["values"], each["seed"], read_recorded(each["spec"])) for each in points]
    except FileNotFoundError:
        raise InputError(
            f"The runs of sweep '{name}' are of kind {', '.join(own)}, a plugin: only 'rt-scale run', 'sweep' and "
            f"'plan' import one, and '{store.place}' has no record of these runs. Run the sweep first, or name its "
            "store with --store."
        ) from None


_PLUGINS = "plugins="
"""The assignment that records what names of plugins stood for."""


def changed_plugins(sweep: SweepRuns) -> str:
    """Which plugins have another source than when the runs were computed, in words; empty if none."""
    if sweep.home is not None:
        return "; ".join(filter(None, (_other_source(point.spec, sweep.store) for point in sweep.points)))
    recorded = next((each for each in sweep.folder.overrides() if each.startswith(_PLUGINS)), None)
    before = json.loads(recorded.removeprefix(_PLUGINS)) if recorded else {}
    now = sweep.spec.names.found
    names = [name for name, plugin in now.items() if name in before and list(plugin) != before[name]]
    if not names:
        return ""
    return (
        f"the source of {', '.join(names)} has changed since sweep '{sweep.name}' was run: its runs of before are of "
        "another source, and those of this file are new"
    )


def _other_source(spec: RunSpec, store: Store) -> str:
    """Which run in the store equals a missing one but for the source of its plugins, in words; empty if none does."""
    if not spec.plugins or store.status(spec.name).state != "missing":
        return ""
    wanted = _without_sources(spec.canonical())
    same = [run.name for run in store if (found := run.spec()) is not None and _without_sources(found) == wanted]
    if not same:
        return ""
    return f"{', '.join(same)} is this run with another source of {' or '.join(spec.plugins)}, so {spec.name} is new"


def _without_sources(value: object) -> object:
    """A spec without the sources of plugins, and without what is named by them."""
    if isinstance(value, dict):
        left_out = {"source"} | ({"name"} if "reader" in value else set())
        return {key: _without_sources(inner) for key, inner in value.items() if key not in left_out}
    return [_without_sources(inner) for inner in value] if isinstance(value, list) else value


def _named(file: Path) -> Path:
    """The file, or the package's sweep of that name if there is no such file; InputError for an unknown name."""
    name = file.as_posix()
    if os.path.isfile(name) or file.suffix or len(name) > LONGEST_NAME or name.startswith("/"):
        return file
    known = bundled_sweeps()
    if name in known:
        return bundled_sweep(name)
    raise unknown_name("sweep", name, known, "A sweep of your own is given by its file, e.g. mine.yaml.")


def refuse_equal_names(sweeps: Sequence[SweepRuns], what: str) -> None:
    """InputError if sweeps share a name; the message says that they are ``what``, e.g. ``run together``."""
    if len({sweep.name for sweep in sweeps}) < len(sweeps):
        names = ", ".join(sweep.name for sweep in sweeps)
        raise InputError(f"Sweeps that are {what} need distinct names; given: {names}.")


def read_sampled(sweep: SweepDir) -> list[dict[str, object]]:
    """The points sampled so far, in order: dotted field -> value."""
    try:
        points: list[dict[str, object]] = read_json(sweep.path / SAMPLED)["points"]
    except FileNotFoundError:
        return []
    return points


def most_points(explore: ExploreSpec) -> int:
    """The number of points that a search samples at most."""
    assert explore.search is not None
    return int(min(explore.search.optuna.runs, math.prod(domain.size for domain in explore.domains.values())))


def run_at(sweep: SweepSpec, values: Mapping[str, object]) -> Point | None:
    """The run at a sampled point; None if it is not valid, which may happen although the space's corners are."""
    try:
        (point,) = points_at(sweep, [values])
    except InputError:
        return None
    return point


@dataclass(frozen=True)
class EarlyStop:
    """Why a rule stopped a run early.

    Attributes:
        rule: ``asha`` or ``median``.
        step: optimiser steps done.
        time: the same in ``unit``.
        unit: ``ep`` (epochs) or ``it`` (optimiser steps).
        value: of ``metric``, by which the rule compared runs.
    """

    rule: str
    step: int
    time: float
    unit: str
    metric: str
    value: float

    def __str__(self) -> str:
        unit = "epochs" if self.unit == "ep" else "steps"
        return f"{self.rule} after {self.time:g} {unit}: {self.metric} was {self.value:.6g}"


class EarlyStops:
    """The runs of a sweep that its present rule stopped early, in a file of the sweep's folder; one driver writes it.

    Their directories stay partial, so a sweep without the rule resumes them; so does one with another metric, mode or
    rule.
    """

    def __init__(self, explore: ExploreSpec, sweep: SweepDir) -> None:
        self._sweep = sweep
        self._rule = explore.model_dump(mode="json", include={"metric", "mode", "stop"})

    def runs(self) -> dict[str, EarlyStop]:
        """Name of a run -> why it was stopped, read from the file; InputError if an earlier version wrote it."""
        path = self._sweep.path / STOPPED
        try:
            found = read_json(path)
            runs, rule = TypeAdapter(dict[str, EarlyStop]).validate_python(found["runs"]), found["rule"]
        except FileNotFoundError:
            return {}
        except (ValidationError, KeyError, TypeError) as error:
            raise InputError(
                f"'{path}' is not a list of runs stopped early that this version ({__version__}) can read: an earlier "
                "version wrote it, or it was edited. Remove it: the sweep then resumes these runs, and its rule judges "
                "them again."
            ) from error
        return runs if rule == self._rule else {}

    def record(self, name: str, stop: EarlyStop) -> None:
        """Add the run ``name``; drop runs of another rule."""
        runs = {**self.runs(), name: stop}
        record = {"rule": self._rule, "runs": {key: asdict(each) for key, each in runs.items()}}
        self._sweep.record(STOPPED, record)
