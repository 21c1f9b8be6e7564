"""Verdicts on the claims of an experiment, group by group."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rt_scale.report.beside import count_states
from rt_scale.report.evidence import Verdict
from rt_scale.report.outcomes import Outcome
from rt_scale.report.pairing import groups
from rt_scale.report.paper import Experiment, Statement
from rt_scale.report.paper_numbers import data_words
from rt_scale.report.shown import telling_keys, value_text
from rt_scale.report.status import StatusRow
from rt_scale.report.tables import probe_title
from rt_scale.spec.grid import axis_names


@dataclass(frozen=True)
class Judged:
    """A claim and what the runs of one group say on it.

    Attributes:
        claim: in a sentence.
        rule: by which it is judged, in words.
        where: what the group's runs share, in words.
        verdict: the judgement.
        runs: names of the group's runs.
    """

    claim: str
    rule: str
    where: str
    verdict: Verdict
    runs: tuple[str, ...]


def judge_all(experiment: Experiment, runs: Sequence[Outcome], statuses: Mapping[str, StatusRow]) -> list[Judged]:
    """Every claim of the experiment on every group of runs that it is about.

    Args:
        experiment: with its claims.
        runs: under every probe, finished or not.
        statuses: how every run stands, by name.
    """
    found = []
    for statement in experiment.statements:
        about = [run for run in runs if _is_about(statement, run)]
        parts = groups(about, statement.over)
        keys = [shared for shared, _ in parts]
        for shared, members in parts:
            names = tuple(dict.fromkeys(run.run for run in members))
            lacking = count_states(statuses[name] for name in names if statuses[name].state != "done")
            found.append(
                Judged(
                    statement.text,
                    " ".join((inspect.getdoc(statement.rule) or "").split()),
                    _where(shared, keys),
                    _with_lacking(statement.rule(members), lacking),
                    names,
                )
            )
    return found


def _with_lacking(verdict: Verdict, lacking: Mapping[str, int]) -> Verdict:
    """The verdict, which says what it does not rest on."""
    if not lacking:
        return verdict
    told = ", ".join(f"{count} {state}" for state, count in lacking.items())
    return replace(verdict, why=f"{verdict.why}; runs without a result: {told}")


def _is_about(statement: Statement, run: Outcome) -> bool:
    elsewhere = run.at["probed"] != run.at["data"]
    return run.at["probe"] in statement.probes and statement.elsewhere in (None, elsewhere)


def _where(shared: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """The probe, the data, and what tells the group from the others."""
    data = data_words([(shared.get("data", shared["probed"]), shared["probed"])])
    keys = [key for key in shared if key not in ("data", "probed", "probe")]
    telling = telling_keys(keys, others, beside=("data", "probed", "probe"))
    names = axis_names(telling)
    told = [f"{names[key]} {value_text(key, shared[key])}" for key in telling]
    return ", ".join([*told, data, probe_title(shared["probe"])])
