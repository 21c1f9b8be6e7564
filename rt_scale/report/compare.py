"""The specs of runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rt_scale.spec.differences import differences, equal_networks
from rt_scale.spec.errors import InputError, shortened
from rt_scale.spec.grid import value_label
from rt_scale.spec.run import RunSpec
from rt_scale.store.sweep_runs import SweepRuns

_COLUMNS = 6
"""Most runs that have a column each."""
_SHORT = 6
"""Least digits of a hash in a column's title."""


@dataclass(frozen=True)
class SpecComparison:
    """In what runs differ.

    Attributes:
        specs: of the runs, by name, in order.
        fields: dotted field -> its value in each run; None where a run has no such field.
        notes: what their specs do not show, e.g. that two encoders are one network.
    """

    specs: dict[str, RunSpec]
    fields: dict[str, list[object]]
    notes: list[str]

    def to_json(self) -> dict[str, object]:
        """Plain values."""
        fields = {key: dict(zip(self.specs, values, strict=True)) for key, values in self.fields.items()}
        return {"runs": list(self.specs), "differences": fields, "notes": self.notes}

    def table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Titles and rows: a column a run, or if those are many, the distinct values of each field."""
        texts = {key: [value_label(value) for value in values] for key, values in self.fields.items()}
        if len(self.specs) > _COLUMNS:
            rows = [(key, shortened(list(dict.fromkeys(values)), _COLUMNS)) for key, values in texts.items()]
            return ["field", "values"], list(rows)
        return ["field", *short_names(list(self.specs))], [(key, *values) for key, values in texts.items()]


def compare_specs(sweeps: Sequence[SweepRuns]) -> SpecComparison:
    """Compare all runs of ``sweeps``; InputError if there are fewer than two."""
    specs = {point.spec.name: point.spec for sweep in sweeps for point in sweep.points}
    if len(specs) < 2:
        raise InputError(
            f"What is given is {next(iter(specs), 'no run')} alone. Name two runs or more to compare: equal specs are "
            "one run."
        )
    values = list(specs.values())
    return SpecComparison(specs, differences(values), equal_networks(values))


def short_names(names: Sequence[str]) -> list[str]:
    """The names, each with so few digits of its hash that they differ."""
    for digits in range(_SHORT, 16):
        short = [f"{kind}-{digest[:digits]}" for kind, _, digest in (name.partition("-") for name in names)]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)
