"""Verdicts on synthetic runs of which the truth is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from rt_scale.report import claims
from rt_scale.report.results import ProbedRun, Scores
from rt_scale.report.statistics import LEVEL, Scale, judge, limits

PAPER = "-/lb/fn/wn/l/-"


def runs(student: float, teacher: float = 0.3, seeds: int = 3, noise: float = 1.0, **at: Any) -> list[ProbedRun]:
    """One run a seed; all runs of a seed share most of its luck."""
    found, own = [], random.Random(repr(at))
    for seed in range(seeds):
        luck = random.Random(seed).gauss(0, 0.02)
        reached = student + luck + own.gauss(0, 0.002 * noise)
        scores = Scores(0.25, teacher + luck, reached, reached + 0.2, ((0, teacher), (10, reached)), 5.0)
        found.append(ProbedRun(f"run-{at}-{seed}", seed, at, None, scores))
    return found


def unfinished(**at: Any) -> list[ProbedRun]:
    return [ProbedRun(f"missing-{at}", 0, at)]


def alphas(near: float = 0.4, at_06: float = 0.4, far: float = 0.36, **options: Any) -> list[ProbedRun]:
    values = {0.0: 0.3, 1e-10: near, 0.3: near, 0.6: at_06, 0.9: 0.2, 1.0: far}
    return [run for alpha, student in values.items() for run in runs(student, alpha=alpha, **options)]


def outputs(accuracy: Callable[[int], float], low: int = 0, high: int = 12, **options: Any) -> list[ProbedRun]:
    return [
        run
        for power in range(low, high + 1)
        for run in runs(accuracy(power), outputs=2**power, bottleneck=64, **options)
    ]


def parts(whole: float, no_feature: float, no_weight: float, **options: Any) -> list[ProbedRun]:
    values = {PAPER: whole, "-/lb/-/wn/l/-": no_feature, "-/lb/fn/-/l/-": no_weight}
    return [run for name, student in values.items() for run in runs(student, parts=name, **options)]


def rounds(share: float, change: float, **options: Any) -> list[ProbedRun]:
    """A first round that goes a distance of 5, and a second that starts from it."""
    first = runs(0.4, round=1, **options)
    second = runs(0.4 + change, 0.4, round=2, **options)
    pairs = zip(first, second, strict=True)
    return first + [
        ProbedRun(b.run, b.seed, b.at, a.run, Scores(0.2, b.scores.teacher, b.scores.student, 0.9, (), 5 * share))
        for a, b in pairs
        if b.scores is not None
    ]


def norms(none: float, batch: float, late: float = 30, early: float = 10, **options: Any) -> list[ProbedRun]:
    """Runs that have their whole gain from a given epoch on."""
    found = []
    for norm, student, epoch in (("none", none, late), ("batch", batch, early), ("layer", 0.4, 20)):
        for run in runs(student, norm=norm, **options):
            scores = run.scores
            assert scores is not None
            curve = tuple((e + run.seed, scores.student if e >= epoch else scores.teacher) for e in range(0, 50, 5))
            found.append(
                ProbedRun(run.run, run.seed, run.at, None, Scores(0.2, scores.teacher, scores.student, 0.9, curve, 1))
            )
    return found


def images(slope: float, of_noise: float = 0.2, **options: Any) -> list[ProbedRun]:
    """Students of 500 to 50,000 images, and of noise."""
    found = [
        run
        for power, n in enumerate((500, 5000, 50000))
        for run in runs(0.4 + slope * power, data="cifar5m", samples=n, **options)
    ]
    return found + [run for n in (500, 5000) for run in runs(of_noise, data="gaussian", samples=n, **options)]


def moving(student: float, frozen: float = 0.4, **options: Any) -> list[ProbedRun]:
    still = runs(frozen, update="none", momentum=0.996, **options)
    return still + [run for m in (0.9, 0.99) for run in runs(student, update="ema", momentum=m, **options)]


def step(at: int, height: float = 0.1) -> Callable[[int], float]:
    return lambda power: 0.3 + height * (power > at)


def encoders(*students: float, **options: Any) -> list[ProbedRun]:
    names = ("vgg11", "resnet18", "vit_tiny")
    return [
        run for name, student in zip(names, students, strict=True) for run in runs(student, encoder=name, **options)
    ]


Case = tuple[claims.Claim, Callable[..., Sequence[ProbedRun]], Callable[..., Sequence[ProbedRun]]]
CASES: dict[str, Case] = {
    "above teacher": (claims.student_above_teacher, lambda **o: runs(0.32, **o), lambda **o: runs(0.28, **o)),
    "above input": (claims.student_above_input, lambda **o: runs(0.35, **o), lambda **o: runs(0.15, **o)),
    "flat": (claims.flat_in_alpha, alphas, lambda **o: alphas(at_06=0.35, **o)),
    "not flat but better": (claims.flat_in_alpha, alphas, lambda **o: alphas(at_06=0.46, **o)),
    "lower at one": (claims.lower_at_alpha_one, alphas, lambda **o: alphas(far=0.45, **o)),
    "gain at one": (claims.gain_at_alpha_one, alphas, lambda **o: alphas(far=0.25, **o)),
    "transition": (
        claims.transition_at_bottleneck,
        lambda **o: outputs(step(6), **o),
        lambda **o: outputs(step(10), **o),
    ),
    "feature norm": (
        claims.feature_norm_matters_more,
        lambda **o: parts(0.4, 0.3, 0.37, **o),
        lambda **o: parts(0.4, 0.37, 0.3, **o),
    ),
    "whole bottleneck": (
        claims.whole_bottleneck_best,
        lambda **o: parts(0.4, 0.3, 0.37, **o),
        lambda **o: parts(0.4, 0.3, 0.43, **o),
    ),
    "noise": (claims.noise_below_teacher, lambda **o: images(0.0, **o), lambda **o: images(0.0, of_noise=0.35, **o)),
    "more images": (claims.more_images_better, lambda **o: images(0.03, **o), lambda **o: images(-0.03, **o)),
    "all norms gain": (claims.all_gain("norm"), lambda **o: norms(0.4, 0.4, **o), lambda **o: norms(0.4, 0.2, **o)),
    "all encoders gain": (
        claims.all_gain("encoder"),
        lambda **o: encoders(0.4, 0.5, 0.33, **o),
        lambda **o: encoders(0.4, 0.5, 0.25, **o),
    ),
    "no norm not worse": (
        claims.no_norm_not_worse,
        lambda **o: norms(0.39, 0.4, **o),
        lambda **o: norms(0.35, 0.4, **o),
    ),
    "no norm later": (
        claims.no_norm_later,
        lambda **o: norms(0.4, 0.4, **o),
        lambda **o: norms(0.4, 0.4, 10, 30, **o),
    ),
    "second round stays": (
        claims.second_round_stays,
        lambda **o: rounds(0.01, 0, **o),
        lambda **o: rounds(0.5, 0, **o),
    ),
    "second round's accuracy": (
        claims.second_round_keeps_accuracy,
        lambda **o: rounds(0.01, 0.005, **o),
        lambda **o: rounds(0.01, 0.06, **o),
    ),
    "ema": (claims.moving_teacher_does_not_help, lambda **o: moving(0.35, **o), lambda **o: moving(0.45, **o)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_verdict_follows_the_truth(case: str) -> None:
    claim, true, false = CASES[case]
    assert claim(true()).word == "holds", claim(true()).why
    assert claim(false()).word == "fails", claim(false()).why
    assert claim(true(seeds=5)).word == "holds"
    assert "wanted: " in claim(true()).why


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_decide_nothing(case: str, seeds: int) -> None:
    claim, true, false = CASES[case]
    for shown in (true, false):
        verdict = claim(shown(seeds=seeds))
        assert (verdict.word, "too few seeds (3 are needed)" in verdict.why) == ("undecided", True)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"no norm later", "second round stays"}))
def test_a_wide_interval_decides_nothing(case: str) -> None:
    claim, true, _ = CASES[case]
    verdict = claim(true(noise=1000.0))
    assert (verdict.word, "reaches too far" in verdict.why) == ("undecided", True), verdict.why


@pytest.mark.parametrize("case", CASES)
def test_runs_without_a_result_decide_nothing(case: str) -> None:
    claim, true, _ = CASES[case]
    absent = [ProbedRun(run.run, run.seed, run.at, run.start) for run in true()]
    assert claim(absent).word == "undecided"
    assert claim([]).word == "undecided"


@pytest.mark.parametrize(
    ("claim", "given", "lacking"),
    [
        (claims.flat_in_alpha, runs(0.4, alpha=1e-10), unfinished(alpha=0.4)),
        (claims.all_gain("encoder"), encoders(0.4, 0.4, 0.4), unfinished(encoder="resnet50")),
        (claims.whole_bottleneck_best, parts(0.4, 0.3, 0.3), unfinished(parts="-/lb/fn/-/-/-")),
        (claims.noise_below_teacher, images(0.0), unfinished(data="gaussian", samples=50000)),
    ],
)
def test_a_claim_about_all_waits_for_all(claim: claims.Claim, given: list[ProbedRun], lacking: list[ProbedRun]) -> None:
    """What is part of the sweep but has no result keeps a claim about all of them open."""
    assert claim(given + lacking).word == "undecided"


def test_an_alpha_of_zero_is_not_what_others_are_measured_by() -> None:
    """Without batch norm a student at 0 is its teacher for ever."""
    verdict = claims.flat_in_alpha(alphas())
    assert list(verdict.numbers) == ["alpha 0.3", "alpha 0.6"]


@pytest.mark.parametrize(
    "accuracy",
    [
        lambda power: 0.3 + 0.01 * power,  # even
        lambda power: 0.3 + 0.02 * min(power, 6),  # even up to the bottleneck
    ],
)
def test_an_even_climb_is_no_transition(accuracy: Callable[[int], float]) -> None:
    assert claims.transition_at_bottleneck(outputs(accuracy)).word != "holds"


def test_a_dip_elsewhere_is_no_climb() -> None:
    """Nothing happens at the bottleneck, and accuracy falls at the end."""
    falls = outputs(lambda power: 0.4 - 0.2 * (power > 10))
    assert claims.transition_at_bottleneck(falls).word != "holds"


@pytest.mark.parametrize(("low", "high"), [(0, 8), (4, 12), (0, 6)])
def test_a_transition_needs_outputs_on_both_sides(low: int, high: int) -> None:
    verdict = claims.transition_at_bottleneck(outputs(step(6), low, high))
    assert (verdict.word, "both sides of [16, 256]" in verdict.why) == ("undecided", True)


def test_the_best_epoch_decides_nothing() -> None:
    """Students here are 20 points better at their best than at their end, and below their teachers at the end."""
    assert claims.student_above_teacher(runs(0.25)).word == "fails"


def test_limits_are_those_of_the_t_distribution() -> None:
    found = limits([0.1, 0.2, 0.3, 0.4])
    half = 2.353363434801823 * 0.12909944487358055 / 2  # t at 0.95 with 3 degrees of freedom, by a table
    assert (found.mean, found.n) == (pytest.approx(0.25), 4)
    assert (found.low, found.high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    assert limits([0.1, 0.2, 0.3, 0.4], 0.99).high > found.high


def test_limits_are_cut_at_what_the_mean_can_be() -> None:
    """Which never changes a verdict: bounds of claims lie within."""
    near = limits([0.9, 0.1, 0.99])
    assert (near.low > -1, near.high) == (True, 1.0)
    shares = Scale(100.0, "%", signed=False, bounds=(0.0, math.inf))
    verdict = judge({"a": [0.0, 0.1, 0.5]}, below=0.1, scale=shares)
    assert (verdict.word, verdict.numbers["a"].low) == ("undecided", 0.0)
    assert LEVEL == 0.95


def test_of_many_parts_one_must_be_far_out_to_fail() -> None:
    """Just below 0 at 95 %: alone it fails, among twenty it may be chance."""
    low = [-0.01, -0.02, -0.035]
    assert judge({"a": low}, above=0).word == "fails"
    many = {str(i): [0.1, 0.11, 0.12] for i in range(19)}
    assert judge({"a": low, **many}, above=0).word == "undecided"


def test_rounding_is_no_difference() -> None:
    """Equal over seeds, a mean has no interval at all; what is left of 0.1 + 0.2 - 0.3 must not count as above 0."""
    assert judge({"a": [0.1 + 0.2 - 0.3] * 3}, above=0).word == "undecided"
    assert judge({"a": [0.3 - 0.2 - 0.1] * 3}, above=0).word == "undecided"


def test_bounds_are_told_and_numbers_are_kept() -> None:
    verdict = judge({"a": [0.01, 0.011, 0.012]}, above=-0.025, below=0.025)
    assert verdict.word == "holds"
    assert verdict.why == "a: +1.1 [+0.9, +1.3] points, n = 3; wanted: between -2.5 and +2.5"
    assert verdict.numbers["a"].n == 3
    assert judge({"a": [0.01, 0.011, 0.012]}, above=0.005, below=math.inf).why.endswith("wanted: above +0.5")
