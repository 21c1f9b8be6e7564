"""The grid of a sweep: its axes, its size and its points, each with a validated spec."""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from rt_scale.spec.document import Assembler, check_field, problem_lines, resolve_same, set_dotted, spec_model
from rt_scale.spec.errors import InputError, cut
from rt_scale.spec.explore import MOST_RUNS, POW2, Ranges, check_explore, parse_range
from rt_scale.spec.part import json_text
from rt_scale.spec.run import RunSpec, SeedSpec

if TYPE_CHECKING:
    from rt_scale.spec.sweep import SweepSpec

K = TypeVar("K")
T = TypeVar("T")
Axis = list[Any] | dict[str, list[Any]]
"""An axis in a sweep file: a list, or a generator and its arguments."""
Group = dict[str, Axis]
"""Dotted fields that vary together -> their axes."""
AXES: Ranges = {
    "pow2": POW2,
    "linspace": ("[from, to, n], n values, at least 2", lambda start, stop, n: type(n) is int and n >= 2),
    "logspace": (
        "[from exponent, to exponent, n], exponents of 10 from -300 to 300, n values, at least 2",
        lambda start, stop, n: max(abs(start), abs(stop)) <= 300 and type(n) is int and n >= 2,
    ),
}
GRID_LIMIT = 10_000
"""Largest grid that needs no confirmation."""
LONGEST = 40
"""Longest text of a list or mapping in a label, in characters; a digest replaces a longer one."""


def grouped(items: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The items by their key, both in the order of first appearance."""
    found: dict[K, list[T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def axis_names(keys: Iterable[str]) -> dict[str, str]:
    """A short name for each dotted field: its last part, or all of it if that is ambiguous or vague (``name``)."""
    vague = {"name", "size", "epochs", "batch_size", "lr", "every", *SeedSpec.model_fields}
    tails = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(tails.values())
    return {key: key if tail in vague or counts[tail] > 1 else tail for key, tail in tails.items()}


def value_label(value: object) -> str:
    """A short text for a value of an axis, different for different values; labels of runs contain it.

    Lists are ``cifar10+stl10``, mappings ``name:sgd;lr:0.1``. A run to start from is ``student of 3fa2c1``: what is
    taken, and 6 hexadecimal digits of the SHA-256 of its description in the file, which is equal for all seeds.
    """
    if isinstance(value, Mapping) and "run" in value:
        taken = value.get("take", "student") + (" encoder" if value.get("part") == "encoder" else "")
        return f"{taken} of {value['run'] if isinstance(value['run'], str) else _short_digest(value['run'])}"
    if isinstance(value, Mapping):
        return _short(value, ";".join(f"{key}:{value_label(inner)}" for key, inner in value.items()))
    if isinstance(value, list | tuple):
        return _short(value, "+".join(map(value_label, value)))
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return "".join(str(value).split())


def _short(value: object, text: str) -> str:
    return (text or "none") if len(text) <= LONGEST else _short_digest(value)


def _short_digest(value: object) -> str:
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:6]


def axis_length(key: str, axis: Axis) -> int:
    """Number of values of an axis, without making them; raises as ``expand_axis``."""
    if isinstance(axis, list):
        count = len(axis)
    else:
        kind, numbers = parse_range(key, axis, AXES)
        count = numbers[1] - numbers[0] + 1 if kind == "pow2" else numbers[2]
    if not count:
        raise InputError(f"The axis {key} has no values; give at least one.")
    return count


def expand_axis(key: str, axis: Axis) -> list[Any]:
    """The values of an axis; raises InputError for an unknown generator, wrong arguments or no values."""
    axis_length(key, axis)
    if isinstance(axis, list):
        return axis
    kind, numbers = parse_range(key, axis, AXES)
    if kind == "pow2":
        return [2**exponent for exponent in range(numbers[0], numbers[1] + 1)]
    start, stop, count = numbers
    points = [start + (stop - start) * i / (count - 1) for i in range(count)]
    # 12 digits: 0.1 * 3 must equal the 0.3 of a list, for the same hash.
    return [float(f"{math.pow(10, point) if kind == 'logspace' else point:.12g}") for point in points]


@dataclass(frozen=True)
class Point:
    """One run of a sweep; ``values`` are dotted field -> value of the axes only, in the file's order."""

    values: Mapping[str, object]
    seed: int
    spec: RunSpec

    @functools.cached_property
    def configuration(self) -> str:
        """The axes' values as text, e.g. ``alpha=0.5,out_dim=1024``; equal for all seeds of one point only."""
        names = _names(tuple(self.values))
        return ",".join(f"{names[key]}={value_label(value)}" for key, value in self.values.items()) or "base"

    @property
    def label(self) -> str:
        """The configuration and the seed, e.g. ``alpha=0.5,out_dim=1024,seed=3``."""
        return f"{self.configuration},seed={self.seed}"


@functools.cache
def _names(keys: tuple[str, ...]) -> dict[str, str]:
    return axis_names(keys)


def grid_size(sweep: SweepSpec) -> int:
    """Number of runs of the grid, without making them; raises InputError if an axis is not valid."""
    return math.prod(length for _, length in _lengths(sweep))


def refuse_large(sweep: SweepSpec, limit: int, if_meant: str = "say so with --yes") -> None:
    """Raise InputError for a grid of more than ``limit`` (at most ``MOST_RUNS``) runs, without making them.

    ``if_meant`` is the advice for a user who wants all of the runs, if ``MOST_RUNS`` allows them.
    """
    runs = grid_size(sweep)
    if runs <= limit:
        return
    axes = " x ".join(f"{length:,} ({name})" for name, length in _lengths(sweep))
    remedy = f"To run all of them, {if_meant}; else" if runs <= MOST_RUNS else f"At most {MOST_RUNS:,} are allowed:"
    raise InputError(
        f"Sweep '{sweep.name}' is a grid of {runs:,} runs, more than {limit:,}: {axes}. Nothing was started. "
        f"{remedy} shorten an axis in the file, or pin it, as with "
        f"--set {next(iter(sweep.axes), 'student.alpha')}=VALUE."
    )


def refuse_large_runs(specs: Iterable[RunSpec], if_meant: str = "say so with --yes") -> None:
    """Raise InputError, which advises ``if_meant``, if one run alone is as large as a large grid."""
    for spec in specs:
        if spec.large:
            raise InputError(f"One run is {spec.large}. Nothing was started. To compute it, {if_meant}.")


def _lengths(sweep: SweepSpec) -> list[tuple[str, int]]:
    """The name and the number of values of each axis and of the seeds."""
    lengths = [(" with ".join(group), _length(group)) for group in _groups(sweep)]
    return [*lengths, ("seeds", len(sweep.seed_values))]


def expand(sweep: SweepSpec) -> list[Point]:
    """Every run of the sweep, validated; equal specs appear once. Raises InputError that lists every invalid point.

    Seeds vary slowest, so that the first results cover the whole grid. For a search the list is empty, as it has not
    sampled its points yet; its space is validated.
    """
    points = corner_points(sweep)
    return [] if sweep.explore is not None and sweep.explore.search is not None else points


def corner_points(sweep: SweepSpec) -> list[Point]:
    """The runs of the grid, or at the corners of a search's space, validated; raises as ``expand``."""
    explore = sweep.explore
    if explore is None:
        return points_at(sweep, _combinations(sweep))
    for key in explore.space:
        check_field("field in space", key, sweep.models)
    corners = {key: domain.corners for key, domain in explore.domains.items()}
    points = points_at(sweep, _combinations(sweep.model_copy(update={"axes": corners}) if corners else sweep))
    check_explore(explore, [point.spec for point in points])
    return points


def points_at(sweep: SweepSpec, combinations: Iterable[Mapping[str, object]]) -> list[Point]:
    """The runs with each of ``combinations`` (dotted field -> value) and each seed; InputError lists invalid points."""
    points: dict[str, Point] = {}
    problems: dict[str, None] = {}
    assembler = Assembler(sweep.names)
    rows = list(combinations)
    for seed in sweep.seed_values:
        for values in rows:
            document: dict[str, Any] = sweep.base
            for key, value in values.items():
                document = set_dotted(document, key, value)
            try:
                spec = assembler.make(resolve_same(document, seed))
            except ValidationError as error:
                problems |= dict.fromkeys(problem_lines(spec_model(document), error))
                continue
            except InputError as error:
                problems[str(error)] = None
                continue
            points.setdefault(spec.hash, Point(values, seed, spec))
    if problems:
        raise InputError(f"Sweep '{sweep.name}' is not valid, nothing was started: {' '.join(problems)}")
    return list(points.values())


def _combinations(sweep: SweepSpec) -> Iterator[dict[str, Any]]:
    for parts in itertools.product(*map(_rows, _groups(sweep))):
        yield {key: value for part in parts for key, value in part.items()}


def _rows(group: Group) -> list[dict[str, Any]]:
    """The values of a group's fields, row by row; one field may repeat a value, but rows must differ."""
    rows = list(zip(*(expand_axis(key, axis) for key, axis in group.items()), strict=True))
    twice = sorted(cut(text) for text, times in Counter(", ".join(map(repr, row)) for row in rows).items() if times > 1)
    if twice:
        raise InputError(f"The axis {' with '.join(group)} has {'; '.join(twice)} more than once; list each once.")
    return [dict(zip(group, row, strict=True)) for row in rows]


def _groups(sweep: SweepSpec) -> list[Group]:
    """The axes of the grid, each a validated group of one or more fields."""
    groups = [group for group in [*({key: axis} for key, axis in sweep.axes.items()), *sweep.zip] if group]
    taken: set[str] = set()
    for group in groups:
        for key in group:
            check_field("field of an axis", key, sweep.models)
            if key in taken:
                raise InputError(f"The field {key} is on two axes; keep one of them.")
            taken.add(key)
        _length(group)
    return groups


def _length(group: Group) -> int:
    lengths = {key: axis_length(key, axis) for key, axis in group.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"Zipped fields need equally many values; given: {lengths}.")
    return next(iter(lengths.values()))
