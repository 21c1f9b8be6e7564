"""Verdicts on pruning, connectivity and landscapes, on numbers that are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rt_scale.report.analyses import claims
from rt_scale.report.analyses.base import Analysed
from rt_scale.report.analyses.connectivity import Curves
from rt_scale.report.analyses.landscapes import Landscape
from rt_scale.report.analyses.planes import Plane
from rt_scale.report.analyses.pruning import Pruned
from rt_scale.spec.experiments.network import NetworkOf
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from tests.unit.report.analyses.planes import plane_arrays

BASE: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
SPEC = RunSpec.model_validate(BASE)
NOISE = (0.0, 0.002, -0.001)
"""Of three seeds."""


def analysed(seed: int, found: Any, **at: Any) -> Analysed[Any]:
    return Analysed(Point({}, seed, SPEC), at, "done", found)


def pruned(curves: Mapping[str, Sequence[float]], rewind: str = "0ep") -> list[Analysed[Pruned]]:
    """A curve a start, whose dense accuracy comes first, then those of rounds 4, 8 and 25, of three seeds."""
    return [
        analysed(seed, Pruned(0.8**number, value + noise, 1.0), start=start, round=number, **{"prune.rewind": rewind})
        for start, values in curves.items()
        for seed, noise in enumerate(NOISE)
        for number, value in zip((0, 4, 8, 25), values, strict=True)
    ]


@pytest.mark.parametrize(
    ("student", "init", "words"),
    [
        ((0.9, 0.9, 0.905, 0.1), (0.9, 0.86, 0.8, 0.1), ("holds", "holds", "holds")),
        ((0.9, 0.85, 0.85, 0.1), (0.9, 0.9, 0.9, 0.9), ("fails", "fails", "fails")),
    ],
)
def test_tickets_are_judged_by_what_pruning_costs(
    student: Sequence[float], init: Sequence[float], words: Sequence[str]
) -> None:
    runs = pruned({"student": student, "init": init})
    rules = (claims.student_ticket_robust, claims.init_ticket_not_robust, claims.student_ticket_more_robust)
    assert tuple(rule(runs).word for rule in rules) == tuple(words)
    assert [rule(runs[:4]).word for rule in rules] == ["undecided"] * 3


def test_the_change_is_a_mean_over_rounds_between_55_and_1_percent_of_one_seed() -> None:
    runs = pruned({"student": (0.9, 0.89, 0.85, 0.1), "init": (0.8, 0.8, 0.8, 0.8)})
    (found,) = claims.student_ticket_robust(runs).numbers.values()
    assert (found.mean, found.n) == (pytest.approx(-0.03), 3)  # noise is that of the seed, also in its dense network
    (paired,) = claims.student_ticket_more_robust(runs).numbers.values()
    assert paired.mean == pytest.approx(-0.03)
    # Only rewinding to the start counts, and a seed that lacks a round is left out.
    assert not claims.student_ticket_robust(pruned({"student": (0.9,) * 4}, rewind="1ep")).numbers
    lacking = [run for run in runs if (run.seed, run.at["round"]) != (2, 8)]
    assert claims.student_ticket_robust(lacking).word == "undecided"


def connected(barriers: Mapping[str, Mapping[str, float]]) -> list[Analysed[Curves]]:
    """Runs of two pairs a seed; barriers by start and ``split measure``."""

    def curves(start: str, noise: float) -> Curves:
        named = [(name.split(), value) for name, value in barriers[start].items()]
        pairs = [
            {"first": 0, "second": second, "split": split, "measure": measure, "barrier": value + noise + apart}
            for (split, measure), value in named
            for second, apart in ((1, -0.001), (2, 0.001))
        ]
        return Curves([], pairs)

    return [analysed(seed, curves(start, noise), start=start) for start in barriers for seed, noise in enumerate(NOISE)]


def test_connectivity_is_judged_on_both_splits() -> None:
    runs = connected({
        "init": {"test error": 0.12, "train error": 0.4, "test loss": 1.0, "train loss": 1.4},
        "student": {"test error": 0.005, "train error": 0.25, "test loss": 0.9, "train loss": 1.5},
    })  # fmt: skip
    assert claims.init_has_barrier(runs).word == "holds"
    student = claims.student_is_connected(runs)
    assert (student.word, set(student.numbers)) == ("fails", {"test error", "train error"})
    assert student.why.startswith("train error: +25.0")
    errors, losses = (claims.lower_barrier(measure)(runs) for measure in ("error", "loss"))
    assert errors.word == "holds"
    assert errors.numbers["test error, student - init"].mean == pytest.approx(-0.115)
    assert losses.word == "fails"
    assert "nats" in losses.why
    assert claims.lower_barrier("error")(runs[:4]).word == "undecided"


def network(take: str, alpha: float = 1e-10) -> NetworkOf:
    return NetworkOf.model_validate({"run": {**BASE, "student": {"alpha": alpha}}, "take": take})


def landscapes(change: Mapping[str, Any] | None = None, alphas: Sequence[float] = (1e-10, 1.0)) -> list[Analysed[Any]]:
    """The same plane for three seeds, accuracies apart by noise; ``change``: measures to replace."""
    networks = {"origin": network("teacher"), "x": network("student", alphas[0]), "y": network("student", alphas[1])}
    places = ("x", "y", "corners", "gram", "gram_encoder")
    found = []
    for seed, noise in enumerate(NOISE):
        arrays = {**plane_arrays(), **(change or {})}
        values = {name: each * (1 + noise) for name, each in arrays.items() if name not in places}
        plane = Plane(**{name: arrays[name] for name in places}, values=values)
        found.append(analysed(seed, Landscape(plane, networks), view="shared view"))
    return found


def test_landscapes_are_judged_on_ratios_of_one_seed() -> None:
    runs = landscapes()
    barrier = claims.barrier_to_student(runs)
    assert barrier.word == "holds"
    assert set(barrier.numbers) == {"to the student, alpha 0", "to the student, alpha 1"}
    valley = claims.valley_asymmetric(runs)
    assert valley.word == "holds"
    assert set(valley.numbers) == {"to the student, alpha 0"}
    probing = claims.probing_high("linear")(runs)
    assert probing.word == "holds"
    assert set(probing.numbers) == {"around the student, alpha 0 - teacher", "around the student, alpha 0 - plane"}
    assert claims.probing_high("linear_standardized")(runs).word == "holds"


def test_a_crop_is_judged_on_the_students_that_it_reaches() -> None:
    places = {"y": np.linspace(-0.1, 0.1, 21)}
    assert set(claims.barrier_to_student(landscapes(places)).numbers) == {"to the student, alpha 0"}


def test_flat_planes_fail() -> None:
    far = np.hypot(*np.meshgrid(plane_arrays()["x"], plane_arrays()["y"]))
    runs = landscapes({"kl_train": 1e-4 * far, "linear": np.full_like(far, 0.5)})
    assert claims.barrier_to_student(runs).word == "fails"
    assert claims.valley_asymmetric(runs).word == "fails"
    assert claims.probing_high("linear")(runs).word != "holds"


def test_what_is_not_there_is_undecided() -> None:
    runs = landscapes(alphas=(1.0, 0.9))
    assert claims.valley_asymmetric(runs).word == "undecided"
    assert claims.probing_high("knn")(landscapes()).word == "undecided"
    few = landscapes()[:2]
    assert [claims.barrier_to_student(few).word, claims.barrier_to_student([]).word] == ["undecided"] * 2
    none = [analysed(seed, None, view="shared view") for seed in range(3)]
    assert claims.barrier_to_student(none).word == "undecided"
    assert claims.init_has_barrier([]).word == "undecided"
    assert claims.student_ticket_robust([]).word == "undecided"
