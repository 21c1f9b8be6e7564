"""The data sets as a table: known by name, prepared, or both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepare import list_prepared
from rt_scale.spec.errors import InputError


def data_rows(data_dir: Path) -> list[dict[str, Any]]:
    """One row a data set of the catalogue or of ``data_dir``; ``problem`` is what is wrong with a damaged one."""
    prepared = list_prepared(data_dir)
    rows = []
    for name in [*DATASETS, *(name for name in prepared if name not in DATASETS)]:
        found = prepared.get(name)
        info = DATASETS.get(name) if found is None or isinstance(found, InputError) else found.info
        row: dict[str, Any] = {
            "name": name,
            "classes": "",
            "size": "",
            "train": "",
            "test": "",
            "mean": "",
            "std": "",
        }
        if info is not None:
            row |= {
                "title": info.title,
                "classes": len(info.classes),
                "size": f"{info.size}x{info.size}x{info.channels}",
                "train": info.train,
                "test": info.test,
                "labelled": info.labelled,
                "mean": " ".join(f"{value:.4f}" for value in info.mean),
                "std": " ".join(f"{value:.4f}" for value in info.std),
                "stats_source": info.stats_source,
            }
        row["prepared"] = "damaged" if isinstance(found, InputError) else "yes" if found else "no"
        row["folder"] = str(data_dir / name) if found else ""
        row["problem"] = str(found) if isinstance(found, InputError) else ""
        rows.append(row)
    return rows


def data_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the table leaves open: sets without labels, where means and deviations are from, what is damaged."""
    sources: dict[str, list[str]] = {}
    for row in rows:
        if "stats_source" in row:
            sources.setdefault(row["stats_source"], []).append(row["name"])
    notes = [f"mean and std of {', '.join(names)}: {source}" for source, names in sources.items()]
    notes += [f"the training images of {row['name']} have no labels" for row in rows if not row.get("labelled", True)]
    return notes + [row["problem"] for row in rows if row["problem"]]
