"""Iterative pruning in a report: accuracy over the share of weights that are left, as in figure 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rt_scale.report.analyses.base import Analysed, Analysis, Asked, Picture, Table, configuration, listed, start_word
from rt_scale.report.paper_numbers import data_title, value_text
from rt_scale.report.results import EPOCH, NOTHING, Which
from rt_scale.report.statistics import estimate
from rt_scale.spec.errors import counted
from rt_scale.spec.experiments.training import training
from rt_scale.spec.grid import axis_names, grouped
from rt_scale.spec.metrics import ACCURACY
from rt_scale.store.results import RunResult

if TYPE_CHECKING:
    from rt_scale.report.figures.panels import Line

PRUNING = "pruning"
TEST, LEFT = "test/accuracy", "sparsity/left"
_FIELD = "prune."
_TITLE = "Iterative pruning"
_CAPTION = (
    "Test accuracy in %, mean over seeds with the 95 % interval of the mean, by the share of prunable weights left; "
    "round 0 is the dense network."
)


@dataclass(frozen=True)
class Pruned:
    """A trained network with ``left`` of its prunable weights; its test accuracies, in [0, 1]."""

    left: float
    last: float
    best: float

    def at(self, which: Which) -> float:
        """Of the last or the best epoch."""
        return self.last if which == "last" else self.best

    @classmethod
    def of(cls, result: RunResult) -> Pruned:
        """From the result of a run; one that is not pruned has all its weights."""
        last = result.last[TEST]
        best = result.best.get(TEST)
        return cls(result.last.get(LEFT, 1.0), last, last if best is None else best.value)


def pruned_runs(asked: Asked) -> list[Analysed[Pruned]]:
    """The runs of every curve; the dense run of a start begins each of its curves. Empty if no run is pruned."""
    pruned, dense = [], []
    for point in asked.points:
        spec, prune = training(point.spec), getattr(point.spec, "prune", None)
        result = asked.results.get(spec.name)
        found = None if result is None or TEST not in result.last else Pruned.of(result)
        at = configuration(PRUNING, point, start=start_word(spec))
        at = {key: value for key, value in at.items() if not key.startswith(_FIELD)}
        run = Analysed(point, at, asked.states[spec.name], found)
        if prune is None:
            dense.append(run)
        else:
            way = {f"{_FIELD}{key}": value for key, value in prune.canonical().items() if key != "round"}
            pruned.append(replace(run, at={**at, **way, "round": prune.round}))
    curves = {repr(_curve(run)): _curve(run) for run in pruned}.values()
    begins = [replace(run, at={**curve, "round": 0}) for curve in curves for run in dense if _is_start(run.at, curve)]
    return [*begins, *pruned]


def _curve(run: Analysed[Pruned]) -> dict[str, Any]:
    """What the rounds of a curve share."""
    return {key: value for key, value in run.at.items() if key != "round"}


def _is_start(at: Mapping[str, Any], curve: Mapping[str, Any]) -> bool:
    return at == {key: value for key, value in curve.items() if not key.startswith(_FIELD)}


def analysis(asked: Asked) -> Analysis | None:
    """What the report shows of pruned networks; None if no run is pruned."""
    from rt_scale.report.figures.drawing import draw, save
    from rt_scale.report.figures.panels import Drawing

    runs = pruned_runs(asked)
    if not runs:
        return None
    curves = labelled_curves([run for run in runs if run.found is not None])
    states = {run.run: run.state for run in runs}
    done = sum(state == "done" for state in states.values())
    said = [f"{done} of {counted(len(states), 'run')} done; {EPOCH[asked.which]}. {_said(runs)}"]
    if not curves:
        return Analysis(_TITLE, said, runs=runs)
    name = "figure-8" if asked.experiment == "fig8" else "pruning"
    title = f"{name.capitalize().replace('-', ' ')}, {listed(data_title(run.at['data']) for run in runs)}"
    lines = [_line(label, members, asked.which) for label, members in curves.items()]
    figure = draw([Drawing("", "weights left (%)", "test accuracy (%)", "log10_down", lines)], title, 1)
    svg, png = (asked.folder / f"{name}.{form}" for form in ("svg", "png"))
    save(figure, svg, png)
    spread = "thin lines single seeds" if any(line.seeds for line in lines) else "bands their 95 % intervals"
    words = f"lines are means over seeds, {spread}"
    return Analysis(
        _TITLE, said, [Picture(name, f"{title}: {words}.", svg, png)], [_table(curves, asked.which)], runs=runs
    )


def _said(runs: Sequence[Analysed[Pruned]]) -> str:
    """How networks were pruned."""
    fraction, scope, parameters = (
        listed(value_text(name, run.at[f"{_FIELD}{name}"]) for run in runs)
        for name in ("fraction", "scope", "parameters")
    )
    return f"A round prunes a share of {fraction} of what is left, least magnitudes first ({scope}; {parameters})."


def labelled_curves(runs: Sequence[Analysed[Pruned]]) -> dict[str, list[Analysed[Pruned]]]:
    """The runs of each curve, by its start and what tells it from others."""
    curves = grouped(runs, lambda run: repr(_curve(run))).values()
    ats = [_curve(members[0]) for members in curves]
    keys = [key for key in dict.fromkeys(key for at in ats for key in at) if len({repr(at.get(key)) for at in ats}) > 1]
    names = axis_names(keys)
    found = {}
    for at, members in zip(ats, curves, strict=True):
        words = [f"{names[key]} {value_text(key, at.get(key))}" for key in keys if key != "start"]
        found[", ".join([str(at["start"]), *words])] = members
    return found


def _rounds(runs: Sequence[Analysed[Pruned]]) -> dict[int, list[Pruned]]:
    """The finished runs of each round, in order."""
    rounds = grouped(runs, lambda run: int(run.at["round"]))
    return {number: [run.found for run in rounds[number] if run.found is not None] for number in sorted(rounds)}


def _line(label: str, runs: Sequence[Analysed[Pruned]], which: Which) -> Line:
    from rt_scale.report.figures.panels import mean_line

    rounds = _rounds(runs).values()
    left = [100 * fmean(each.left for each in members) for members in rounds]
    return mean_line(label, left, [[each.at(which) for each in members] for members in rounds], ACCURACY, 100)


def _table(curves: Mapping[str, Sequence[Analysed[Pruned]]], which: Which) -> Table:
    """A row for each round, a column for each curve."""
    columns = {label: _rounds(runs) for label, runs in curves.items()}
    rows = [["round", "weights left", *columns]]
    for number in sorted({number for rounds in columns.values() for number in rounds}):
        members = [rounds.get(number, []) for rounds in columns.values()]
        left = 100 * fmean(each.left for column in members for each in column)
        cells = [estimate([each.at(which) for each in column], ACCURACY) if column else None for column in members]
        texts = [NOTHING if cell is None else f"{cell.percent_interval}, n = {cell.n}" for cell in cells]
        rows.append([str(number), f"{left:.1f} %", *texts])
    return Table("pruning", _CAPTION, rows)
