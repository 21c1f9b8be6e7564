"""Options of runs as TensorBoard's HParams view can hold them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import Any

Setting = bool | int | float | str


def flat_settings(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Setting]:
    """Nested settings as dotted name -> bool, number or text; lists become text, and None is left out."""
    flat: dict[str, Setting] = {}
    for key, value in spec.items():
        if isinstance(value, Mapping):
            flat |= flat_settings(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat


def folder_name(label: str) -> str:
    """``label`` as the name of one folder, short enough for every file system."""
    name = label.replace("/", "_").replace(os.sep, "_").lstrip(".") or "run"
    if len(name.encode()) > 200:
        start = name.encode()[:150].decode(errors="ignore")
        name = f"{start}~{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    return name


def typed_columns(rows: Sequence[Mapping[str, Setting]]) -> dict[str, list[Setting | None]]:
    """The settings of all rows by key: each key's values are all booleans, all numbers or all text.

    TensorBoard hides rows whose value is of another type than the column's. None where a row has no such key.
    """
    columns: dict[str, list[Setting | None]] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        kinds = {type(row[key]) for row in rows if key in row}
        plain = kinds == {bool} or kinds <= {int, float}
        columns[key] = [(row[key] if plain else str(row[key])) if key in row else None for row in rows]
    return columns
