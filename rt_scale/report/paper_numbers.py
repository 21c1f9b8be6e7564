"""What the paper prints, as facts of a data file, and the data sets by their names for readers."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.spec.data import GAUSSIAN


@dataclass(frozen=True)
class Number:
    """What the paper prints of one configuration; accuracies in percent, each the best over its epochs.

    Attributes:
        source: table or figure.
        student: accuracy.
        teacher, input: accuracies, where they are printed.
        other_data: whether ours are on a variant of the paper's data set.
    """

    source: str
    student: float
    teacher: float | None = None
    input: float | None = None
    other_data: bool = False


@functools.cache
def _facts() -> dict[str, Any]:
    text = files("rt_scale.report").joinpath("paper_numbers.json").read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    return facts


def data_title(name: str, title: str = "") -> str:
    """A data set and its variant for readers, e.g. ``CIFAR-10 (re-encoded as JPEG)``.

    Args:
        name: of the data set.
        title: what the set calls itself; empty: as the catalogue does.
    """
    variant = _facts()["variants"].get(name)
    if variant:
        return str(variant["title"])
    known = DATASETS.get(name)
    return title or (known.title if known else "Gaussian noise" if name == GAUSSIAN else name)


def data_words(places: Iterable[tuple[str, str]]) -> str:
    """The data sets that runs have in common: ``CIFAR-10``, or ``distilled on CIFAR-5M, probed on CIFAR-10``.

    Args:
        places: name of the set that a run is distilled on, and of the one that it is probed on.
    """
    distilled, probed = (list(dict.fromkeys(names)) for names in zip(*places, strict=True))
    if distilled == probed and len(probed) == 1:
        return data_title(probed[0])
    shared = {"distilled on": distilled, "probed on": probed}
    return ", ".join(f"{how} {data_title(names[0])}" for how, names in shared.items() if len(names) == 1)


def number_of(experiment: str, at: Mapping[str, Any]) -> Number | None:
    """What the paper prints of a configuration; a variant of its data set counts as that set, and says so.

    Args:
        experiment: name of the experiment.
        at: the configuration, as ``Outcome.at``.
    """
    variants = _facts()["variants"]
    plain = {key: variants.get(at[key], {}).get("of", at[key]) for key in ("data", "probed")}
    seen = {**at, **plain}
    for entry in _facts()["numbers"]:
        if experiment in entry["experiments"] and all(seen.get(key) == value for key, value in entry["at"].items()):
            printed = {key: entry.get(key) for key in ("student", "teacher", "input")}
            return Number(entry["source"], **printed, other_data=any(plain[key] != at[key] for key in plain))
    return None
