"""The fields of runs as what tables of runs take, TensorBoard's and others: bool, number or text, of one type a column.

Apart from what writes event files, which takes long to import.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rt_scale.spec.document import flat_fields

Setting = bool | int | float | str


def flat_settings(spec: Mapping[str, object]) -> dict[str, Setting]:
    """Nested values as dotted name -> bool, number or text; lists become text, None is omitted."""
    given = {key: value for key, value in flat_fields(spec).items() if value is not None}
    return {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in given.items()}


def typed_columns(rows: Sequence[Mapping[str, Setting]]) -> dict[str, list[Setting | None]]:
    """The values of all rows by key, None if a row lacks it; of one type per key, as TensorBoard hides other rows."""
    columns: dict[str, list[Setting | None]] = {}
    for key in dict.fromkeys(key for row in rows for key in row):
        kinds = {type(row[key]) for row in rows if key in row}
        plain = kinds == {bool} or kinds <= {int, float}
        columns[key] = [(row[key] if plain else str(row[key])) if key in row else None for row in rows]
    return columns
