"""The numbers that the paper prints, from a data file, and the words for what is varied."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.differences import telling_keys
from rt_scale.spec.document import flat_fields
from rt_scale.spec.experiments.training import training
from rt_scale.spec.grid import Point, axis_names, value_label
from rt_scale.spec.networks import PAPER, part_flags
from rt_scale.spec.part import json_text
from rt_scale.spec.run import RunSpec

START = "teacher.start_from"
EPOCHS = (100, 150)
"""Lengths of the paper's runs, by figure."""
_UNSHOWN = ("seeds", "probe", "data.name", "encoder.name", "encoder.norm", "data.sigma", "data.channels", START)
_OF_STUDENTS = ("student", "train", "projector", "objective")


@dataclass(frozen=True)
class Number:
    """What the paper prints for one configuration: accuracies in percent, the best over epochs.

    ``source`` is the table or figure; ``student``: None where teachers alone are compared;
    ``other_data``: our runs use a variant of the paper's data set.
    """

    source: str
    student: float | None
    teacher: float | None = None
    input: float | None = None
    other_data: bool = False


@functools.cache
def _facts() -> dict[str, Any]:
    text = files("rt_scale.report").joinpath("paper_numbers.json").read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def number_of(experiment: str | None, at: Mapping[str, object]) -> Number | None:
    """The paper's number for a configuration, as in ``ProbedRun.at``, if any; a variant of a set counts as that set."""
    variants = _facts()["variants"]
    plain = {key: variants.get(at[key], {}).get("of", at[key]) for key in ("data", "probed")}
    seen = {**at, **plain}
    for entry in _facts()["numbers"]:
        if experiment in entry["experiments"] and all(seen.get(key) == value for key, value in entry["at"].items()):
            printed = {key: entry.get(key) for key in ("student", "teacher", "input")}
            return Number(entry["source"], **printed, other_data=any(plain[key] != at[key] for key in plain))
    return None


def data_title(name: str, title: str = "") -> str:
    """A data set and its variant for readers, e.g. ``CIFAR-10 (re-encoded as JPEG)``; ``title`` is the set's own."""
    variant = _facts()["variants"].get(name)
    if variant:
        return str(variant["title"])
    known = DATASETS.get(name)
    return title or (known.title if known else "Gaussian noise" if name == GAUSSIAN else name)


def data_words(places: Iterable[tuple[str, str]]) -> str:
    """The data sets that runs share: ``CIFAR-10``, or ``distilled on CIFAR-5M, probed on CIFAR-10``.

    Each place is the names of the sets that a run is distilled on and probed on.
    """
    distilled, probed = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
    if distilled == probed and len(probed) == 1:
        return data_title(probed[0])
    shared = {"distilled on": distilled, "probed on": probed}
    return ", ".join(f"{how} {data_title(names[0])}" for how, names in shared.items() if len(names) == 1)


def value_text(key: str, value: object) -> str:
    """A value of the field ``key`` for readers."""
    if value is None:
        return "all" if key.endswith("samples") else "-"
    if isinstance(value, float):
        return f"{value:g}"
    if key.endswith("data.name") or key in ("data", "probed"):
        return data_title(str(value))
    if isinstance(value, list | tuple | Mapping):
        return value_label(value)
    if key in ("parts", "projector.parts"):
        return parts_words(str(value))
    return f"{value:,}" if key.endswith("samples") else str(value)


_NAMES = {
    "weight_norm_1": "first weight norm", "linear_1": "first layer", "feature_norm_1": "feature norm",
    "weight_norm_2": "weight norm", "linear_2": "last layer", "feature_norm_2": "norm of outputs",
}  # fmt: skip


def parts_words(text: str) -> str:
    """The parts of a bottleneck beside the paper's, e.g. ``without weight norm``."""
    flags, papers = part_flags(text), part_flags(PAPER)
    if flags == papers:
        return "whole bottleneck"
    lacking = [_NAMES[name] for name, has in flags.items() if papers[name] and not has]
    more = [_NAMES[name] for name, has in flags.items() if has and not papers[name]]
    return ", ".join([f"{how} {' and '.join(names)}" for how, names in (("without", lacking), ("with", more)) if names])


def shown_values(points: Sequence[Point]) -> dict[str, dict[str, str]]:
    """Run -> shown name of an axis -> value as text; with second rounds, also the number of the round."""
    keys = [key for key in dict.fromkeys(key for point in points for key in point.values) if not key.startswith(START)]
    rows = [dict(point.values) for point in points]
    plain = [key for key in keys if not key.startswith("probe.")]
    keys = plain + telling_keys([key for key in keys if key not in plain], rows, beside=plain)
    names = axis_names(keys)
    rounds = any(training(point.spec).teacher.start_from is not None for point in points)
    found = {}
    for point in points:
        fields = {} if all(key in point.values for key in keys) else flat_fields(point.spec.fields)
        values = {
            names[key]: value_text(key, point.values[key] if key in point.values else fields.get(key)) for key in keys
        }
        if rounds:
            values["round"] = "1" if training(point.spec).teacher.start_from is None else "2"
        found[point.spec.name] = values
    return found


def departures(points: Sequence[Point]) -> list[str]:
    """Fields that differ from the paper in any run, e.g. ``width = 0.25``, except those that the sweep varies.

    The defaults of all fields are the paper's (appendix E), for any data set, encoder and norm. A run that only probes
    its teacher has no field of a student.
    """
    varied = {key for point in points for key in point.values}
    # Seeds are not departures: one run of each configuration tells.
    specs = list({point.spec.configuration_hash: training(point.spec) for point in points}.values())
    ours = [flat_fields(spec.fields) for spec in specs]
    found: dict[str, dict[str, None]] = {}
    papers: dict[str, dict[str, Any]] = {}
    for spec, fields in zip(specs, ours, strict=True):
        own, epochs = spec.encoder, spec.train.epochs
        document = {
            "data": {"name": "cifar10"},
            "encoder": {"name": own.name, "norm": own.norm, "args": own.args, "source": own.source},
            "train": {"epochs": epochs if epochs in EPOCHS else max(EPOCHS)},
        }
        if (asked := json_text(document)) not in papers:
            papers[asked] = flat_fields(RunSpec.model_validate(document).model_dump(mode="json"))
        plain = papers[asked]
        unshown = _UNSHOWN + _OF_STUDENTS * spec.probes_its_teacher_alone
        for key, value in fields.items():
            if value != plain.get(key) and key not in varied and not key.startswith(unshown):
                found.setdefault(key, {})
    for key, values in found.items():
        values |= {value_text(key, fields[key]): None for fields in ours if key in fields}
    names = axis_names(found)
    return [f"{names[key]} = {' or '.join(values)}" for key, values in found.items()]
