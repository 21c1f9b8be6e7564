"""Which sweeps may be reported as one, and what tells their runs apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rt_scale.report.shown import flat_fields
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.store.results import RunResult


def check_same_data(sweeps: Mapping[str, tuple[Sequence[Point], Sequence[RunResult]]]) -> None:
    """Refuse to report runs together that were not on the same data.

    Several sweeps must ask for the same images: names, sizes and samples of all that they distil on and probe on. Of
    one sweep and of several alike, a data set must have had one content.

    Args:
        sweeps: name -> its runs, and the ``result.json`` of those that are finished.

    Raises:
        InputError: naming the sweeps and their data.
    """
    asked = {name: sorted({_data(point) for point in points}) for name, (points, _) in sweeps.items()}
    (first, wanted), *others = asked.items()
    for name, given in others:
        if given != wanted:
            raise InputError(
                f"Sweeps '{first}' and '{name}' are the same experiment on different data, and are not merged: "
                f"'{first}' has {_listed(wanted)}, '{name}' has {_listed(given)}. Report them one by one: "
                "rt-scale report FILE."
            )
    contents: dict[str, dict[str, str]] = {}
    for name, (_, results) in sweeps.items():
        for result in results:
            for data, each in result.data.sets():
                contents.setdefault(data, {}).setdefault(each.sha256, f"{result.name} of '{name}'")
    for data, found in contents.items():
        if len(found) > 1:
            told = ", ".join(f"sha256 {sha[:12]}... in {run}" for sha, run in found.items())
            raise InputError(
                f"The data set '{data}' had different contents in runs that would be reported together: {told}. Their "
                "numbers are not averaged. Report sweeps one by one, or run those of one content again: remove their "
                "directories, then rt-scale sweep."
            )


def merged_points(sweeps: Sequence[Sequence[Point]]) -> list[Point]:
    """The distinct runs of several sweeps; what one varies, or has otherwise than another, is a value of all of them.

    Args:
        sweeps: the runs of each.
    """
    points = list({point.spec.name: point for members in sweeps for point in members}.values())
    if len(sweeps) == 1:
        return points
    fields = [flat_fields(point.spec.model_dump(mode="json", exclude={"seeds"})) for point in points]
    axes = dict.fromkeys(key for point in points for key in point.values)
    starts = {key for key in axes if "start_from" in key}
    seen = {
        key: {repr(each.get(key)) for each in fields} for key in dict.fromkeys(key for each in fields for key in each)
    }
    other = [key for key, values in seen.items() if len(values) > 1 and key not in axes and "start_from" not in key]
    return [
        Point(
            {key: point.values.get(key, each.get(key)) for key in [*axes, *other] if key not in starts}
            | {key: point.values[key] for key in starts if key in point.values},
            point.seed,
            point.spec,
        )
        for point, each in zip(points, fields, strict=True)
    ]


def _data(point: Point) -> str:
    data = point.spec.data
    told = {"size": data.size, "samples": data.samples, "sigma": data.sigma}
    parts = [data.name, *(f"{key} {value}" for key, value in told.items() if value is not None)]
    probe = point.spec.probe
    also = [f"probed on {', '.join(probe.also)}"] if probe.also else []
    return " ".join([*parts, *also, *(["at their own size"] if probe.also_size == "own" else [])])


def _listed(data: Sequence[str]) -> str:
    return "; ".join(data[:6]) + (f" and {len(data) - 6} more" if len(data) > 6 else "")
