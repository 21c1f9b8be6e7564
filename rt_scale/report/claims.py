"""The paper's claims as rules on results; reports print the docstring of each rule.

Differences are between runs of one seed, limits are the one-sided 95 % ones of ``statistics.judge``, and accuracies are
those after the last epoch: the best over epochs, start included, would be above its teacher by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from rt_scale.report.paper_numbers import number_of
from rt_scale.report.results import ProbedRun, Scores
from rt_scale.report.statistics import Scale, Verdict, judge
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.grid import grouped
from rt_scale.spec.metrics import metric_bounds
from rt_scale.spec.networks import PAPER

MARGIN = 0.025
"""Accuracies that differ by less count as equal: 2.5 points, a quarter of the gain of the paper's ResNet-18."""
HELPS = 0.01
"""Smallest rise of an accuracy that counts as help: 1 point."""
FLAT_TO = 0.6
"""Largest alpha up to which the paper's students have equal accuracy."""
MOVES = 0.1
"""A second round that moves less than this share of the first round's distance counts as not moving."""
WITHOUT_FEATURE_NORM, WITHOUT_WEIGHT_NORM = "-/lb/-/wn/l/-", "-/lb/fn/-/l/-"
ANY = (-math.inf, math.inf)
RATE = Scale(bounds=ANY)
"""Points per doubling or tenfold; unlike a difference of accuracies, it has no bounds."""
Claim = Callable[[Sequence[ProbedRun]], Verdict]


def scored(runs: Iterable[ProbedRun]) -> list[Scores]:
    """Scores of the finished runs."""
    return [run.scores for run in runs if run.scores is not None]


def gains(runs: Iterable[ProbedRun]) -> list[float]:
    """Student - own teacher of every finished run."""
    return [scores.student - scores.teacher for scores in scored(runs)]


def by(runs: Iterable[ProbedRun], key: str) -> dict[Any, list[ProbedRun]]:
    """All runs by their value of ``key`` of ``ProbedRun.at``."""
    return grouped(runs, lambda run: run.at[key])


def by_seed(runs: Iterable[ProbedRun], key: str) -> dict[int, dict[Any, float]]:
    """Seed -> value of ``key`` -> accuracy of the student, for finished runs."""
    found: dict[int, dict[Any, float]] = {}
    for run in runs:
        if run.scores is not None:
            found.setdefault(run.seed, {})[run.at[key]] = run.scores.student
    return found


def paired(runs: Iterable[ProbedRun], others: Iterable[ProbedRun]) -> list[float]:
    """Student - student of the other run of its seed, for seeds that have both."""
    theirs = {run.seed: run.scores.student for run in others if run.scores is not None}
    return [run.scores.student - theirs[run.seed] for run in runs if run.scores is not None and run.seed in theirs]


def student_above_teacher(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the lower limit of student - own teacher is above 0, fails where the upper is below."""
    return judge({"student - teacher": gains(runs)}, above=0)


def student_above_input(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the lower limit of student - input pixels is above 0, fails where the upper is below."""
    return judge({"student - input": [scores.student - scores.input for scores in scored(runs)]}, above=0)


def teachers_as_printed(runs: Sequence[ProbedRun]) -> Verdict:
    """Random teachers are as good as the paper's: holds where for every encoder the limits of teacher - the paper's
    teacher lie within +-2.5 points (two one-sided tests), fails where for one of k the difference is beyond 2.5 points
    at confidence 1 - 0.05 / k. The paper's numbers, whose spread is not printed, count as exact."""
    differences = {}
    for encoder, group in by(runs, "encoder").items():
        number = number_of("teachers", group[0].at)
        if number is not None and number.teacher is not None:
            differences[encoder] = [scores.teacher - number.teacher / 100 for scores in scored(group)]
    return judge(differences, above=-MARGIN, below=MARGIN)


def all_gain(over: str) -> Claim:
    """Every value of ``over`` gains: holds where the lower limit of student - own teacher is above 0 for each of them,
    fails where for one of k the upper limit at confidence 1 - 0.05 / k is below 0."""

    def claim(runs: Sequence[ProbedRun]) -> Verdict:
        return judge({_text(over, value): gains(group) for value, group in by(runs, over).items()}, above=0)

    claim.__doc__ = all_gain.__doc__
    return claim


def flat_in_alpha(runs: Sequence[ProbedRun]) -> Verdict:
    """Students of all alpha up to 0.6 are equal: for each of those alphas the limits of student(alpha) -
    student(smallest alpha), of one seed, lie within +-2.5 points (two one-sided tests).

    Fails where for one of k alphas the difference is beyond 2.5 points at confidence 1 - 0.05 / k. The paper's smallest
    alpha is 1e-10; runs at 0 itself, which without batch norm never leave their teacher, are left out.
    """
    alphas = _alphas(runs)
    first = min(alphas, default=None)
    near = {alpha: group for alpha, group in alphas.items() if alpha <= FLAT_TO + 1e-9 and alpha != first}
    if first is None or first > FLAT_TO or not near:
        return Verdict("undecided", "the sweep has fewer than two alphas up to 0.6")
    differences = {_text("alpha", alpha): paired(group, alphas[first]) for alpha, group in sorted(near.items())}
    return judge(differences, above=-MARGIN, below=MARGIN)


def lower_at_alpha_one(runs: Sequence[ProbedRun]) -> Verdict:
    """An independent start is worse: holds where the upper limit of student(alpha = 1) - student(smallest alpha above
    0), of one seed, is below 0, fails where the lower is above."""
    alphas = _alphas(runs)
    if 1.0 not in alphas or len(alphas) < 2:
        return Verdict("undecided", "the sweep does not have alpha = 1 and a smaller one")
    return judge({f"alpha 1 - alpha {min(alphas):g}": paired(alphas[1.0], alphas[min(alphas)])}, below=0)


def gain_at_alpha_one(runs: Sequence[ProbedRun]) -> Verdict:
    """As :func:`student_above_teacher`, of the runs with alpha = 1 alone."""
    return judge({"alpha 1, student - teacher": gains(by(runs, "alpha").get(1.0, ()))}, above=0)


def transition_at_bottleneck(runs: Sequence[ProbedRun]) -> Verdict:
    """Accuracy climbs with the number of outputs m where m passes the bottleneck's width k, not evenly.

    Of every seed: the climb of the student per doubling of m within the window [k / 4, 4 k], and that less the climb
    per doubling outside it (0 where the climb is even). Holds where the lower limits of both are above 0, fails where
    the upper limit of one, at confidence 0.975, is below. The window reaches from its smallest measured m to its
    largest; an m below k and one above must be in it, and the sweep must go beyond it on both sides.
    """
    widths = {run.at["bottleneck"] for run in runs}
    sizes = sorted(by(runs, "outputs"))
    if len(widths) != 1:
        return Verdict("undecided", "the runs have no one width of the bottleneck")
    (k,) = widths
    window = [m for m in sizes if k / 4 <= m <= 4 * k]
    if not window or not window[0] < k < window[-1] or not (sizes[0] < window[0] and window[-1] < sizes[-1]):
        return Verdict("undecided", f"the outputs measured do not reach to both sides of [{k / 4:g}, {4 * k}]")
    ends = (sizes[0], window[0], window[-1], sizes[-1])
    climbs = [_climbs(ends, curve) for curve in by_seed(runs, "outputs").values() if set(ends) <= set(curve)]
    around = f"climb per doubling around m = {k}"
    return judge(
        {around: [i for i, _ in climbs], f"{around} - elsewhere": [i - o for i, o in climbs]}, above=0, scale=RATE
    )


def _climbs(ends: Sequence[int], accuracy: Mapping[int, float]) -> tuple[float, float]:
    """Per doubling, between the inner two ends and outside them."""
    low, left, right, high = ends
    inside, total = accuracy[right] - accuracy[left], accuracy[high] - accuracy[low]
    doublings, all_doublings = math.log2(right / left), math.log2(high / low)
    return inside / doublings, (total - inside) / (all_doublings - doublings)


def feature_norm_matters_more(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the lower limit of student(without weight norm) - student(without feature norm), of one seed, is
    above 0, fails where the upper is below: -/lb/fn/-/l/- against -/lb/-/wn/l/-."""
    parts = by(runs, "parts")
    difference = paired(parts.get(WITHOUT_WEIGHT_NORM, ()), parts.get(WITHOUT_FEATURE_NORM, ()))
    return judge({"without weight norm - without feature norm": difference}, above=0)


def whole_bottleneck_best(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where for every other combination of parts the lower limit of student(-/lb/fn/wn/l/-) - student(parts), of
    one seed, is above 0; fails where for one of k the upper limit at confidence 1 - 0.05 / k is below 0."""
    parts = by(runs, "parts")
    whole = parts.pop(PAPER, [])
    return judge({f"whole - {value}": paired(whole, group) for value, group in parts.items()}, above=0)


def noise_below_teacher(runs: Sequence[ProbedRun]) -> Verdict:
    """Students distilled on Gaussian noise fall below their teachers: holds where for every sample size the upper limit
    of student - teacher is below 0; fails where for one of k the lower limit at confidence 1 - 0.05 / k is above 0."""
    noise = [run for run in runs if run.at["data"] == GAUSSIAN]
    sizes = by(noise, "samples")
    return judge({f"noise, {_text('samples', n)}": gains(group) for n, group in sizes.items()}, below=0)


def more_images_better(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the lower limit of the slope of student accuracy over log10 of the sample size, fitted to the images
    (not the noise) of every seed by least squares, is above 0; fails where the upper is below."""
    curves = by_seed([run for run in runs if run.at["data"] != GAUSSIAN], "samples")
    curves = {seed: {n: value for n, value in curve.items() if n} for seed, curve in curves.items()}
    if max((len(curve) for curve in curves.values()), default=0) < 2:
        return Verdict("undecided", "the sweep has fewer than two sample sizes with results")
    widest = max(curves.values(), key=len)
    slopes = [_slope(curve) for curve in curves.values() if set(curve) == set(widest)]
    return judge({"student per tenfold sample": slopes}, above=0, scale=RATE)


def _slope(curve: Mapping[float, float]) -> float:
    middle = fmean(math.log10(n) for n in curve)
    offsets = {n: math.log10(n) - middle for n in curve}
    return sum(offsets[n] * value for n, value in curve.items()) / sum(offset**2 for offset in offsets.values())


def no_norm_not_worse(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the lower limit of student(no normalisation) - student(batch norm), of one seed, is above -2.5
    points, fails where the upper is below that."""
    norms = by(runs, "norm")
    return judge({"none - batch": paired(norms.get("none", ()), norms.get("batch", ()))}, above=-MARGIN)


def no_norm_later(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the lower limit of epochs(no normalisation) - epochs(batch norm), of one seed, is above 0, fails
    where the upper is below: epochs is the first probed epoch at which the student has 90 % of its gain at the end.
    Seeds of which either does not end above its teacher have no such epoch and are left out."""
    norms = by(runs, "norm")
    late, early = ({run.seed: _ninety(run.scores) for run in norms.get(name, []) if run.scores is not None}
                   for name in ("none", "batch"))  # fmt: skip
    both = [(late[seed], early[seed]) for seed in late if seed in early]
    differences = [one - other for one, other in both if one is not None and other is not None]
    return judge({"none - batch": differences}, above=0, scale=Scale(1.0, "epochs", bounds=ANY))


def _ninety(scores: Scores) -> float | None:
    gain = scores.student - scores.teacher
    reached = [epoch for epoch, value in scores.curve if value >= scores.teacher + 0.9 * gain]
    return min(reached) if gain > 0 and reached else None


def second_round_stays(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the upper limit of the distance that a second round's student goes from its start, as a share of the
    distance that its teacher went in the first round, is below 0.1; fails where the lower is above."""
    moved = {run.run: run.scores.moved for run in runs if run.scores is not None}
    second = [run for run in runs if run.at["round"] == 2]
    shares = []
    for run in second:
        far, before = moved.get(run.run), moved.get(run.start or "")
        if far is not None and before:
            shares.append(far / before)
    name = "distance of the second round / of the first"
    return judge(
        {name: shares} if second else {},
        below=MOVES,
        scale=Scale(100.0, "%", signed=False, bounds=metric_bounds("distance/from_init")),
    )


def second_round_keeps_accuracy(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where the limits of student - teacher in the second round, whose teacher is the first round's student, lie
    within +-2.5 points; fails where they are beyond."""
    second = [run for run in runs if run.at["round"] == 2]
    numbers = {"second round, student - teacher": gains(second)} if second else {}
    return judge(numbers, above=-MARGIN, below=MARGIN)


def moving_teacher_does_not_help(runs: Sequence[ProbedRun]) -> Verdict:
    """Holds where for every teacher that averages its student the upper limit of student - student of the frozen
    teacher, of one seed, is below +1 point; fails where for one of k the lower limit at confidence 1 - 0.05 / k is
    above that."""
    frozen = by(runs, "update").get("none", ())
    moving = by([run for run in runs if run.at["update"] == "ema"], "momentum")
    return judge({f"ema {value} - frozen": paired(group, frozen) for value, group in moving.items()}, below=HELPS)


def _alphas(runs: Iterable[ProbedRun]) -> dict[float, list[ProbedRun]]:
    return {alpha: group for alpha, group in by(runs, "alpha").items() if alpha > 0}


def _text(key: str, value: Any) -> str:
    if key == "samples":
        return "all images" if value is None else f"n = {value:,}"
    return f"{key} {value:g}" if isinstance(value, float) else str(value)
