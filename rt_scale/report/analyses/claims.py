"""The paper's claims on pruning, connectivity and landscapes as rules; reports print the docstring of each.

As in ``report.claims``, numbers are of one seed each, and limits are the one-sided 95 % ones of ``statistics.judge``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from rt_scale.report.analyses.base import Analysed
from rt_scale.report.analyses.connectivity import MEASURES, SPLITS, Curves
from rt_scale.report.analyses.landscapes import Landscape, network_words
from rt_scale.report.analyses.planes import Between
from rt_scale.report.analyses.pruning import Pruned
from rt_scale.report.claims import ANY, FLAT_TO
from rt_scale.report.statistics import Scale, Verdict, judge
from rt_scale.spec.grid import grouped

INIT, STUDENT = "init", "student"
ROBUST = 0.01
"""An accuracy that pruning lowers by less counts as kept: 1 point."""
LEFT = (0.01, 0.55)
"""Shares of weights left between which accuracies of pruned networks are averaged."""
STABLE = 0.02
"""Runs whose error on the line rises by less are connected: 2 points (Frankle et al., 2020)."""
BARRIER = 1.5
"""Smallest factor by which the KL divergence on the way is above that at its end."""
ASYMMETRIC = 2.0
"""Smallest factor between the two sides of an asymmetric valley."""
_TIMES = Scale(1.0, "(log10 of the factor)", bounds=ANY)
_NATS = Scale(1.0, "nats", bounds=ANY)


def _changes(runs: Iterable[Analysed[Pruned]], start: str) -> dict[int, float]:
    """Seed -> mean accuracy of the rounds within :data:`LEFT`, of the earliest rewinding, less that of round 0; for
    seeds that have all of these rounds."""
    about = [run for run in runs if run.at["start"] == start]
    wanted = {run.at["round"] for run in about if run.found is not None and LEFT[0] <= run.found.left <= LEFT[1]}
    found = {}
    for seed, members in grouped(about, lambda run: run.seed).items():
        rounds = {run.at["round"]: run.found.last for run in members if run.found is not None}
        if 0 in rounds and wanted and wanted <= rounds.keys():
            found[seed] = fmean(rounds[number] for number in wanted) - rounds[0]
    return found


def _at_start(runs: Sequence[Analysed[Pruned]]) -> list[Analysed[Pruned]]:
    """The runs that are rewound to the very start."""
    return [run for run in runs if run.at.get("prune.rewind") == "0ep"]


def student_ticket_robust(runs: Sequence[Analysed[Pruned]]) -> Verdict:
    """The accuracy of students pruned to 55 to 1 % of their weights and rewound to step 0, mean over these rounds, less
    that of the dense network of the same seed: holds where its lower limit is above -1 point, fails where the upper is
    below."""
    return judge({"student, pruned - dense": list(_changes(_at_start(runs), STUDENT).values())}, above=-ROBUST)


def init_ticket_not_robust(runs: Sequence[Analysed[Pruned]]) -> Verdict:
    """The same of networks that start fresh: holds where the upper limit is below -1 point, fails where the lower is
    above."""
    return judge({"init, pruned - dense": list(_changes(_at_start(runs), INIT).values())}, below=-ROBUST)


def student_ticket_more_robust(runs: Sequence[Analysed[Pruned]]) -> Verdict:
    """That change of the student less that of the fresh network, of one seed: holds where its lower limit is above 0,
    fails where the upper is below."""
    student, init = (_changes(_at_start(runs), start) for start in (STUDENT, INIT))
    return judge({"student - init": [student[seed] - init[seed] for seed in student if seed in init]}, above=0)


def _barriers(runs: Sequence[Analysed[Curves]], start: str, split: str, measure: str) -> dict[int, float]:
    """Seed -> mean barrier over pairs."""
    found = {run.seed: run.found.barrier(split, measure) for run in runs if run.found and run.at["start"] == start}
    return {seed: value for seed, value in found.items() if value is not None}


def init_has_barrier(runs: Sequence[Analysed[Curves]]) -> Verdict:
    """Runs from one fresh start that differ in their order are not connected: holds where the lower limits of the
    barriers of the test and the training error, means over pairs, are above 2 points (the bound of Frankle et al.);
    fails where the upper limit of one, at confidence 0.975, is below."""
    return judge(_errors(runs, INIT), above=STABLE)


def student_is_connected(runs: Sequence[Analysed[Curves]]) -> Verdict:
    """The same from one student: holds where the upper limits are below 2 points, fails where the lower limit of one,
    at confidence 0.975, is above."""
    return judge(_errors(runs, STUDENT), below=STABLE)


def _errors(runs: Sequence[Analysed[Curves]], start: str) -> dict[str, list[float]]:
    return {f"{split} error": list(found.values()) for split in SPLITS
            if (found := _barriers(runs, start, split, "error"))}  # fmt: skip


def lower_barrier(measure: str) -> Callable[[Sequence[Analysed[Curves]]], Verdict]:
    """The barrier from the student less that from the fresh start, of one seed: holds where the upper limits, test and
    training, are below 0, fails where the lower limit of one, at confidence 0.975, is above."""

    def claim(runs: Sequence[Analysed[Curves]]) -> Verdict:
        numbers = {}
        for split in SPLITS:
            student, init = (_barriers(runs, start, split, measure) for start in (STUDENT, INIT))
            if both := [student[seed] - init[seed] for seed in student if seed in init]:
                numbers[f"{split} {measure}, student - init"] = both
        return judge(numbers, below=0, scale=_NATS if MEASURES[measure][1] == "nats" else Scale())

    claim.__doc__ = lower_barrier.__doc__
    return claim


def _ends(runs: Sequence[Analysed[Landscape]], local: bool) -> dict[str, dict[int, tuple[Landscape, int]]]:
    """Each trained student that planes go to, or only those that started near their teacher (alpha up to 0.6), in words
    -> seed -> the first such plane and the student's corner."""
    found: dict[str, dict[int, tuple[Landscape, int]]] = {}
    for run in runs:
        if run.found is None:
            continue
        for corner, network in run.found.students.items():
            start = network.run.student
            if local and (start.start_from is not None or start.alpha > FLAT_TO):
                continue
            found.setdefault(network_words(network), {}).setdefault(run.seed, (run.found, corner))
    return found


def _between(runs: Sequence[Analysed[Landscape]], of: str, local: bool) -> dict[str, list[float]]:
    """The log10 of ``of``, a ratio of ``Between``, by student, a number for each seed that has it."""
    ends = {f"to the {words}": [getattr(Between.of(found.plane, corner), of) for found, corner in seeds.values()]
            for words, seeds in _ends(runs, local).items()}  # fmt: skip
    logs = {words: [math.log10(value) for value in values if value > 0] for words, values in ends.items()}
    return {words: values for words, values in logs.items() if values}  # a crop does not reach every student


def barrier_to_student(runs: Sequence[Analysed[Landscape]]) -> Verdict:
    """A barrier lies between the teacher and each trained student: log10 of the highest KL divergence on the segment
    between them, divided by that at the student. Holds where the lower limits are above log10 of 1.5, fails where the
    upper limit of one of k students, at confidence 1 - 0.05 / k, is below."""
    return judge(_between(runs, "barrier", local=False), above=math.log10(BARRIER), scale=_TIMES)


def valley_asymmetric(runs: Sequence[Analysed[Landscape]]) -> Verdict:
    """On the line from the teacher to a student that started near it (alpha up to 0.6): log10 of the KL divergence a
    tenth of the way in the other direction, divided by that a tenth of the way to the student. Holds where the lower
    limit is above log10 of 2, fails where the upper is below."""
    return judge(_between(runs, "asymmetry", local=True), above=math.log10(ASYMMETRIC), scale=_TIMES)


def probing_high(measure: str) -> Callable[[Sequence[Analysed[Landscape]]], Verdict]:
    """The mean accuracy over the plane's points near a student that started near its teacher, within a quarter of their
    distance, less that over the points as near to the teacher, and less that over the whole plane. Holds where both
    lower limits are above 0, fails where the upper limit of one, at confidence 0.975, is below."""

    def claim(runs: Sequence[Analysed[Landscape]]) -> Verdict:
        numbers: dict[str, list[float]] = {}
        for words, seeds in _ends(runs, local=True).items():
            for found, corner in seeds.values():
                plane = found.plane
                high, low = (plane.around(measure, place, corner) for place in (corner, 0))
                every = float(plane.values[measure].mean()) if measure in plane.values else math.nan
                for name, other in {"teacher": low, "plane": every}.items():
                    if math.isfinite(high - other):
                        numbers.setdefault(f"around the {words} - {name}", []).append(high - other)
        return judge(numbers, above=0)

    claim.__doc__ = probing_high.__doc__
    return claim
