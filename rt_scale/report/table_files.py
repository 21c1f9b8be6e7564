"""Tables as CSV or Parquet files, written piece by piece and there in one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from rt_scale.store.atomic import disk_errors
from rt_scale.system.files import remove, sync_folder, temporary_name

Form = Literal["csv", "parquet"]
BATCH = 2**16
"""Rows that are written at a time: one row group of a Parquet file."""


class TableFile:
    """A table under way.

    Attributes:
        rows: how many were added.
    """

    def __init__(self, path: Path, schema: pa.Schema, form: Form) -> None:
        """Begin a file.

        Args:
            path: where.
            schema: of every piece.
            form: of the file.
        """
        self.rows = 0
        self._waiting: list[pa.Table] = []
        if form == "parquet":
            self._writer = pq.ParquetWriter(path, schema)
        else:
            options = pacsv.WriteOptions(quoting_style="needed")
            self._writer = pacsv.CSVWriter(path, schema, write_options=options)

    def add(self, piece: pa.Table) -> None:
        """Append rows; up to :data:`BATCH` wait, so that many small pieces do not make as many row groups."""
        if len(piece):
            self._waiting.append(piece)
        self.rows += len(piece)
        if sum(map(len, self._waiting)) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []

    def close(self) -> None:
        """Write what waits, and the end of the file."""
        self._flush()
        self._writer.close()


@contextmanager
def table_file(path: Path, schema: pa.Schema, form: Form) -> Iterator[TableFile]:
    """A table that becomes the file ``path`` when the body is through, and nothing where it fails.

    Args:
        path: the file; its folder is made if need be, and a file of that name is replaced.
        schema: of every piece.
        form: of the file.

    Raises:
        InputError, RunError: see :func:`disk_errors`.
    """
    temporary = temporary_name(path)
    with disk_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = TableFile(temporary, schema, form)
            yield file
            file.close()
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
        except BaseException:
            remove(temporary)
            raise
