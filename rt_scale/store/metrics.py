"""The metrics table of a run, one row per value, and confidence intervals of means over seeds.

Every checkpoint holds a copy of the table, so that a resumed run has table and weights of the same step.
"""

from __future__ import annotations

import itertools
import math
import time as clock
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rt_scale.spec.errors import RunError
from rt_scale.spec.metrics import Bounds
from rt_scale.store.atomic import write_bytes
from rt_scale.store.results import Best

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("epoch", pa.float64()),
        ("name", pa.string()),
        ("value", pa.float64()),
        ("time", pa.float64()),
    ]
)
"""step: optimiser steps done; epoch: passes over the training images done; time: seconds since 1970."""


class MetricsTable:
    """The values measured in a run, in order; kept in memory (a few thousand rows) and written as a whole."""

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        """A table that :meth:`flush` writes to ``path``.

        Args:
            path: the run's parquet file; not read.
            data: an earlier table from :meth:`to_bytes` to append to; ValueError if it is not one.
        """
        self._path = path
        self._rows: list[tuple[int, float, str, float, float]] = []
        if data is not None:
            columns = _parse(data).to_pydict()
            self._rows = list(zip(*(columns[name] for name in SCHEMA.names), strict=True))

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Add the ``values`` measured after ``step`` optimiser steps and ``epoch`` epochs."""
        now = clock.time()
        self._rows += [(int(step), float(epoch), name, float(value), now) for name, value in values.items()]

    def points(self) -> Iterator[tuple[int, float, dict[str, float]]]:
        """Step, time and values of every measurement, in order."""
        for (step, time), rows in itertools.groupby(self._rows, lambda row: (row[0], row[4])):
            yield step, time, {name: value for _, _, name, value, _ in rows}

    def last(self) -> dict[str, float]:
        """The newest value of every name."""
        return {name: value for _, _, name, value, _ in self._rows}

    def best(self, prefix: str) -> dict[str, Best]:
        """The largest value of every name that starts with ``prefix``, and the first epoch that had it."""
        found: dict[str, Best] = {}
        for step, epoch, name, value, _ in self._rows:
            if name.startswith(prefix) and (name not in found or value > found[name].value):
                found[name] = Best(value=value, epoch=epoch, step=step)
        return found

    def to_bytes(self) -> bytes:
        """The table as a parquet file."""
        columns = list(zip(*self._rows, strict=True)) or [()] * len(SCHEMA)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
        buffer = BytesIO()
        pq.write_table(pa.table(arrays, SCHEMA), buffer)
        return buffer.getvalue()

    def flush(self) -> None:
        """Write the whole table to its file atomically; raises as ``disk_errors``."""
        write_bytes(self._path, self.to_bytes())


def _parse(data: bytes) -> pa.Table:
    try:
        # read_table would also import pandas; threads take longer than so small a file.
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"not a readable parquet file: {error}") from error
    if table.schema.names != SCHEMA.names:
        raise ValueError(f"columns {table.schema.names} instead of {SCHEMA.names}")
    return table if table.schema.equals(SCHEMA) else table.cast(SCHEMA)


def read_metrics(path: Path) -> pa.Table:
    """The metrics table in the file ``path``, empty if there is none; RunError if it is damaged."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return SCHEMA.empty_table()
    except (OSError, ValueError) as error:
        raise RunError(
            f"The metrics in '{path}' cannot be read ({error}). Each checkpoint beside it holds a copy; "
            "without one, remove the run's folder and run it again."
        ) from error


T = TypeVar("T", float, np.ndarray)
LEAST_SEEDS = 3
"""Fewest seeds for an interval or a conclusion: for two, Student's interval is 12.7 standard errors to either side."""
STATED = (
    f"Intervals are two-sided 95 % ones of the mean by Student's t over at least {LEAST_SEEDS} seeds, cut at what the "
    "mean can be (0 to 100 % of an accuracy)."
)
"""The note beside intervals."""


def interval(mean: T, std: T, n: int, bounds: Bounds, confidence: float = 0.975) -> tuple[T, T]:
    """mean -+ t_{confidence, n-1} std / sqrt(n), cut at ``bounds``: the mean lies within, so cutting loses no coverage.

    Args:
        mean: of ``n`` numbers.
        std: their sample standard deviation.
        n: how many.
        bounds: least and largest possible value, see ``metric_bounds``.
        confidence: one-sided, of each end.

    Returns:
        Lower and upper end, lower <= mean <= upper; NaN for fewer than ``LEAST_SEEDS`` numbers.
    """
    from scipy.special import stdtrit  # takes a moment to import

    half = std * (float(stdtrit(n - 1, confidence)) / math.sqrt(n) if n >= LEAST_SEEDS else math.nan)
    low, high = bounds
    # Rounding may put the mean itself beyond a bound, e.g. a divergence of -1e-9.
    lower = np.minimum(mean, np.maximum(mean - half, low))
    upper = np.maximum(mean, np.minimum(mean + half, high))
    return lower, upper
