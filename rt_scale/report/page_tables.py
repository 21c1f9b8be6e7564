"""A report as tables for other programs: ours beside the paper's, and the verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from rt_scale.report.beside import BesideRow
from rt_scale.report.contents import ROLES, Contents
from rt_scale.report.paper_numbers import data_title
from rt_scale.report.status import STYLES

DEVICES = ("gpu", "cpu")
"""What device seconds are counted of."""


def numbers_table(contents: Contents) -> pa.Table:
    """One row a configuration and probe: ours (accuracies in [0, 1]), the paper's (in percent), and the runs."""
    rows = [_row(row, contents) for table in contents.tables.values() for row in table]
    numbers = {f"{role}_{part}" for role in (*ROLES, "gain") for part in ("mean", "std", "low", "high")}
    numbers |= {"paper_input", "paper_teacher", "paper_student", "difference"}
    numbers |= {f"device_seconds_{kind}" for kind in DEVICES}
    counts = {"n", *STYLES}
    return _table(rows, numbers, counts)


def verdicts_table(contents: Contents) -> pa.Table:
    """One row a claim, group and mean that the verdict rests on; without one where there is none."""
    rows: list[dict[str, Any]] = []
    for judged in contents.verdicts:
        about = {"experiment": contents.experiment, "claim": judged.claim, "where": judged.where}
        about |= {"verdict": judged.verdict.word, "why": judged.verdict.why, "rule": judged.rule}
        about["runs"] = " ".join(judged.runs)
        limits = judged.verdict.numbers.items()
        rows += [{**about, "of": name, "mean": each.mean, "low": each.low, "high": each.high, "n": each.n}
                 for name, each in limits] or [{**about, "of": None}]  # fmt: skip
    return _table(rows, {"mean", "low", "high"}, {"n"})


def _row(row: BesideRow, contents: Contents) -> dict[str, Any]:
    found: dict[str, Any] = {
        "experiment": contents.experiment,
        "sweep": ", ".join(contents.sweeps),
        "data": "; ".join(contents.data),
        "epoch": contents.which,
        "probe": row.probe.partition("@")[0],
        "distilled_on": data_title(row.data[0]),
        "probed_on": data_title(row.data[1]),
        **row.values,
    }
    for role in (*ROLES, "gain"):
        value = row.measured.get(role)
        found |= {f"{role}_{part}": None for part in ("mean", "std", "low", "high")}
        if value is not None:
            found |= {f"{role}_{part}": getattr(value, part) for part in ("mean", "std", "low", "high")}
    found["n"] = row.measured["student"].n if row.measured else 0
    found |= dict.fromkeys(STYLES, 0) | row.counts
    found |= {f"device_seconds_{kind}": row.device_seconds.get(kind) for kind in DEVICES}
    for role in ROLES:
        found[f"paper_{role}"] = None if row.printed is None else getattr(row.printed, role)
    found |= {"difference": row.difference, "paper_source": row.printed and row.printed.source}
    found["runs"] = " ".join(member.status.name for member in row.members)
    return found


def _table(rows: Sequence[Mapping[str, Any]], numbers: set[str], counts: set[str]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    types = {name: pa.float64() if name in numbers else pa.int64() if name in counts else pa.string() for name in names}
    return pa.table({name: pa.array([row.get(name) for row in rows], types[name]) for name in names})
