"""An object store in memory, as far as ``Bucket`` uses a pyarrow file system, with a clock of its own."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

from pyarrow.fs import FileInfo, FileSelector, FileType

from rt_scale.store.objects.bucket import Bucket


class _Writing(BytesIO):
    def __init__(self, put: Callable[[bytes], None]) -> None:
        super().__init__()
        self._put = put

    def close(self) -> None:
        if not self.closed:
            self._put(self.getvalue())
        super().close()


class Objects:
    """Whole objects by key, below the bucket ``bucket``; a write is dated in whole seconds, as S3 does.

    Attributes:
        contents: key -> (bytes, date).
        clock: the server's, in seconds since 1970.
        before: called with (operation, key) before each; may raise, or change what is there.
        asked: every operation with its key, in order.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.contents: dict[str, tuple[bytes, float]] = {}
        self.clock = clock
        self.before: Callable[[str, str], None] = lambda operation, key: None
        self.asked: list[tuple[str, str]] = []

    def bucket(self, prefix: str = "store", patience: float = 0.0) -> Bucket:
        return Bucket(self, f"bucket/{prefix}", f"s3://bucket/{prefix}", patience=patience)

    def keys(self, below: str = "") -> list[str]:
        """Keys relative to ``bucket/store``, sorted."""
        start = "bucket/store/"
        return sorted(key.removeprefix(start) for key in self.contents if key.startswith(start + below))

    def _ask(self, operation: str, key: str) -> None:
        self.asked.append((operation, key))
        self.before(operation, key)

    def put(self, key: str, data: bytes) -> None:
        self.contents[key] = (data, float(math.floor(self.clock())))

    def open_output_stream(self, key: str) -> Any:
        self._ask("put", key)
        return _Writing(lambda data: self.put(key, data))

    def open_input_stream(self, key: str, compression: None) -> Any:
        self._ask("get", key)
        if key not in self.contents:
            raise FileNotFoundError(key)
        return BytesIO(self.contents[key][0])

    def delete_file(self, key: str) -> None:
        self._ask("delete", key)
        if self.contents.pop(key, None) is None:
            raise FileNotFoundError(key)

    def delete_dir(self, folder: str) -> None:
        self._ask("delete", folder)
        for key in [key for key in self.contents if key.startswith(f"{folder}/")]:
            del self.contents[key]

    def get_file_info(self, what: str | FileSelector) -> Any:
        if isinstance(what, str):
            self._ask("look", what)
            there = what == "bucket"
            return FileInfo(what, FileType.Directory) if there else self._info(what)
        self._ask("list", what.base_dir)
        return [self._info(key) for key in sorted(self.contents) if key.startswith(f"{what.base_dir}/")]

    def _info(self, key: str) -> FileInfo:
        if key not in self.contents:
            return FileInfo(key, FileType.NotFound)
        data, date = self.contents[key]
        return FileInfo(key, FileType.File, mtime_ns=int(date * 1e9), size=len(data))
