"""The paper's experiments: their claims, figures and verdicts (Sarnthein et al., ICML 2023)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from rt_scale.report import claims
from rt_scale.report.analyses import claims as of_analyses
from rt_scale.report.analyses.base import Analysed
from rt_scale.report.analyses.connectivity import CONNECTIVITY
from rt_scale.report.analyses.landscapes import LANDSCAPE
from rt_scale.report.analyses.pruning import PRUNING
from rt_scale.report.paper_numbers import data_words, value_text
from rt_scale.report.results import ProbedRun, count_states, probe_title
from rt_scale.report.statistics import Verdict
from rt_scale.spec.differences import telling_keys
from rt_scale.spec.grid import axis_names, grouped


@dataclass(frozen=True)
class Statement:
    """A claim of the paper, and the rule that judges a group of runs under one of ``probes``.

    ``over`` are the keys of ``ProbedRun.at`` that vary within a group; ``elsewhere``: whether the claim is on other
    data sets than the one distilled on; None: on any. With ``analysis``, it is on the runs of that analysis instead.
    """

    text: str
    rule: Callable[[Sequence[Any]], Verdict]
    over: tuple[str, ...] = ()
    probes: tuple[str, ...] = ("linear",)
    elsewhere: bool | None = None
    analysis: str = ""


Judgeable = ProbedRun | Analysed[Any]
"""What claims are judged on: runs under a probe, and runs that an analysis reads."""
R = TypeVar("R", bound=Judgeable)


@dataclass(frozen=True)
class Panel:
    """Panels of a figure, one for each value of ``column``.

    ``x`` (or ``epoch``), ``line`` and ``column`` are keys of ``ProbedRun.at``; ``metric`` is ``accuracy`` or ``gain``
    of the probe, or the name of a metric; scale and label are of the horizontal axis, whose label defaults to ``x``.
    """

    x: str
    line: str
    column: str | None = None
    metric: str = "accuracy"
    scale: Literal["linear", "log2", "log10", "names"] = "linear"
    label: str = ""


@dataclass(frozen=True)
class Experiment:
    """An experiment of the paper as a report shows it; ``figures`` are panels by figure name."""

    title: str
    statements: tuple[Statement, ...]
    figures: Mapping[str, tuple[Panel, ...]] = field(default_factory=dict)


_BOTH = ("linear", "knn")
_GAIN = Statement("The student ends above its random teacher.", claims.student_above_teacher, (), _BOTH, False)
_NOISE = (
    Statement("Students distilled on Gaussian noise fall below their teachers.", claims.noise_below_teacher,
              ("data", "samples", "sigma")),
    Statement("More images make a better student.", claims.more_images_better, ("data", "samples", "sigma")),
)  # fmt: skip
_SAMPLES = {"figure-4": (Panel("samples", "data", "encoder", scale="log10", label="data set size n"),)}
_CURVES = ("start", "round", "prune.rewind")
_LANDSCAPE = (
    Statement("A barrier lies between the teacher and the student.", of_analyses.barrier_to_student, ("view",),
              analysis=LANDSCAPE),
    Statement("The valley around the teacher is asymmetric: steep away from the student.",
              of_analyses.valley_asymmetric, ("view",), analysis=LANDSCAPE),
    Statement("Probing accuracy is high around the student.", of_analyses.probing_high("linear"), ("view",),
              analysis=LANDSCAPE),
    Statement("It is high there with standardised features, too.", of_analyses.probing_high("linear_standardized"),
              ("view",), analysis=LANDSCAPE),
)  # fmt: skip

EXPERIMENTS: Mapping[str, Experiment] = {
    "fig1": Experiment(
        "Student, teacher and input (figure 1, tables 1 and 3)",
        (
            _GAIN,
            Statement("The student ends above the probe of the input pixels.", claims.student_above_input,
                      elsewhere=False),
        ),
        {"figure-1": (Panel("epoch", "encoder", "probed"),)},
    ),
    "fig3": Experiment(
        "Locality of the start, alpha (figures 3 and 17)",
        (
            Statement("Students are alike for alpha up to 0.6.", claims.flat_in_alpha, ("alpha",)),
            Statement("At alpha = 1 the student is worse than at the smallest alpha.", claims.lower_at_alpha_one,
                      ("alpha",)),
            Statement("At alpha = 1 the student still ends above its teacher.", claims.gain_at_alpha_one, ("alpha",)),
        ),
        {
            "figure-3": (Panel("epoch", "alpha", "encoder"), Panel("alpha", "encoder", label="alpha")),
            "figure-17": (
                Panel("epoch", "alpha", "encoder", "train/kl"),
                Panel("epoch", "alpha", "encoder", "distance/from_init"),
            ),
        },
    ),
    "fig4_epochs": Experiment("Sample size and noise inputs, epochs fixed (figure 4)", _NOISE, _SAMPLES),
    "fig4_steps": Experiment("Sample size and noise inputs, steps fixed (figure 4)", _NOISE, _SAMPLES),
    "tab2": Experiment(
        "Transfer to other data sets (tables 2 and 4)",
        (Statement("Distilled on one data set, the student is above its teacher on another.",
                   claims.student_above_teacher, (), _BOTH, True),),
        {"table-2": (Panel("encoder", "encoder", "probed", scale="names", label="encoder"),)},
    ),
    "tab5": Experiment(
        "Architectures (table 5)",
        (Statement("The students of all architectures end above their teachers.", claims.all_gain("encoder"),
                   ("encoder",)),),
        {"table-5": (Panel("encoder", "probe", scale="names", label="encoder"),)},
    ),
    "teachers": Experiment(
        "Random teachers (tables 1, 3 and 5)",
        (Statement("Random teachers are as good as the paper's.", claims.teachers_as_printed, ("encoder",), _BOTH),),
        {"teachers": (Panel("encoder", "probe", scale="names", label="encoder"),)},
    ),
    "fig10": Experiment(
        "Number of outputs m (figure 10)",
        (Statement("Accuracy makes a transition where m passes the width of the bottleneck.",
                   claims.transition_at_bottleneck, ("outputs",)),),
        {"figure-10": (
            Panel("epoch", "outputs", "encoder"),
            Panel("outputs", "encoder", scale="log2", label="output dimension m"),
        )},
    ),
    "fig11": Experiment(
        "Normalisation layers (figure 11)",
        (
            Statement("The student gains under every normalisation.", claims.all_gain("norm"), ("norm",)),
            Statement("Without normalisation the student is not worse than with batch norm.", claims.no_norm_not_worse,
                      ("norm",)),
            Statement("Without normalisation it converges later than with batch norm.", claims.no_norm_later,
                      ("norm",)),
        ),
        {"figure-11": (Panel("epoch", "norm", "encoder"),)},
    ),
    "fig12": Experiment(
        "Parts of the l2-bottleneck (figure 12)",
        (
            Statement("The feature norm matters more than the weight norm.", claims.feature_norm_matters_more,
                      ("parts",)),
            Statement("The whole bottleneck is better than every other combination.", claims.whole_bottleneck_best,
                      ("parts",)),
        ),
        {"figure-12": (Panel("epoch", "parts", "encoder"),)},
    ),
    "fig18": Experiment(
        "Restart: the student as teacher of a second round (figure 18)",
        (
            Statement("The second round does not move.", claims.second_round_stays, ("round",), ("linear",)),
            Statement("The second round does not change the accuracy.", claims.second_round_keeps_accuracy, ("round",)),
        ),
        {"figure-18": (
            Panel("epoch", "encoder", "round", "train/kl"),
            Panel("epoch", "encoder", "round", "distance/from_init"),
            Panel("epoch", "encoder", "round"),
        )},
    ),
    "fig5": Experiment("Loss and probing landscapes (figures 5, 13 and 15)", _LANDSCAPE),
    "fig14": Experiment("Landscapes around the teacher (figures 14 and 16)", _LANDSCAPE),
    "fig8": Experiment(
        "Lottery tickets (figure 8)",
        (
            Statement("The student's ticket is robust to pruning.", of_analyses.student_ticket_robust, _CURVES,
                      analysis=PRUNING),
            Statement("A fresh start's ticket is not, rewound to step 0.", of_analyses.init_ticket_not_robust, _CURVES,
                      analysis=PRUNING),
            Statement("Pruning costs the student less than a fresh start.", of_analyses.student_ticket_more_robust,
                      _CURVES, analysis=PRUNING),
        ),
    ),
    "fig9": Experiment(
        "Linear mode connectivity (figure 9)",
        (
            Statement("Runs from one fresh start are not linearly connected.", of_analyses.init_has_barrier,
                      ("start",), analysis=CONNECTIVITY),
            Statement("Runs from one student are linearly connected.", of_analyses.student_is_connected, ("start",),
                      analysis=CONNECTIVITY),
            Statement("The barrier of errors is lower from the student.", of_analyses.lower_barrier("error"),
                      ("start",), analysis=CONNECTIVITY),
            Statement("The barrier of losses is lower from the student.", of_analyses.lower_barrier("loss"),
                      ("start",), analysis=CONNECTIVITY),
        ),
    ),
    "ema": Experiment(
        "A teacher that averages its student (appendix D.1)",
        (Statement("A teacher that is a moving average of its student does not help.",
                   claims.moving_teacher_does_not_help, ("update", "momentum", "teacher")),),
        {"moving-teacher": (Panel("epoch", "teacher", "encoder"),)},
    ),
}  # fmt: skip
"""The experiments by their names in sweep files."""


@dataclass(frozen=True)
class Judged:
    """A claim, its rule, the group of runs in words, the verdict on it, and the names of its runs."""

    claim: str
    rule: str
    where: str
    verdict: Verdict
    runs: tuple[str, ...]


def judge_all(experiment: Experiment, runs: Sequence[Judgeable]) -> list[Judged]:
    """Judge every claim on every group of runs, and every probe or the analysis, that it applies to."""
    found = []
    for statement in experiment.statements:
        about = [run for run in runs if _is_about(statement, run)]
        parts = groups(about, statement.over)
        keys = [shared for shared, _ in parts]
        for shared, members in parts:
            states = {run.run: run.state for run in members}
            lacking = count_states(state for state in states.values() if state != "done").items()
            rule = " ".join((inspect.getdoc(statement.rule) or "").split())
            verdict = statement.rule(members)
            if listed := ", ".join(f"{count} {state}" for state, count in lacking):
                verdict = replace(verdict, why=f"{verdict.why}; runs without a result: {listed}")
            found.append(Judged(statement.text, rule, _where(shared, keys), verdict, tuple(states)))
    return found


def _is_about(statement: Statement, run: Judgeable) -> bool:
    if isinstance(run, Analysed) or statement.analysis:
        return run.at.get("analysis") == statement.analysis
    elsewhere = run.at["probed"] != run.at["data"]
    return run.at["probe"] in statement.probes and statement.elsewhere in (None, elsewhere)


def _where(shared: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    data = data_words([(shared.get("data", shared["probed"]), shared["probed"])])
    beside = ("data", "probed", "probe", "analysis")
    telling = telling_keys([key for key in shared if key not in beside], others, beside)
    names = axis_names(telling)
    values = [f"{names[key]} {value_text(key, shared[key])}" for key in telling]
    return ", ".join([*values, data, *([probe_title(shared["probe"])] if "probe" in shared else [])])


def groups(runs: Iterable[R], over: Sequence[str]) -> list[tuple[dict[str, Any], list[R]]]:
    """Groups of runs that differ only in ``over`` (keys of ``at``) and in keys that depend on it.

    Each group comes with the values that it shares.
    """
    members = list(runs)
    by_over = grouped(members, lambda run: repr([run.at.get(key) for key in over]))
    keys = [key for key in dict.fromkeys(key for run in members for key in run.at) if key not in over]
    if over and len(by_over) > 1:
        keys = [key for key in keys if not _follows(key, by_over.values())]
    alike = grouped(members, lambda run: repr([run.at.get(key) for key in keys])).values()
    return [({key: runs[0].at.get(key) for key in keys}, runs) for runs in alike]


def _follows(key: str, by_over: Iterable[Sequence[Judgeable]]) -> bool:
    """Whether the value of ``key`` is a function of what varies, and not the same for all."""
    values = [{repr(run.at.get(key)) for run in runs} for runs in by_over]
    return all(len(each) == 1 for each in values) and len(set.union(*values)) > 1
