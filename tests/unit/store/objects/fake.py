"""An object store in memory, as far as ``Bucket`` uses one of obstore's, with a clock of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from obstore.exceptions import AlreadyExistsError, GenericError

from rt_scale.store.objects.bucket import Bucket


class Away(GenericError):
    """The server does not answer."""


class _Found:
    def __init__(self, data: bytes, meta: dict[str, Any]) -> None:
        self._data, self.meta = data, meta

    def bytes(self) -> bytes:
        return self._data

    def stream(self, size: int) -> Iterator[bytes]:
        return (self._data[start : start + size] for start in range(0, len(self._data), size))


class Objects:
    """Whole objects by key, below ``s3://bucket/store``; a write is dated in whole seconds, as S3 does.

    Attributes:
        contents: key -> (bytes, date).
        clock: the server's, in seconds since 1970.
        before: called with (operation, key) before each; may raise, or change what is there.
        asked: every operation with its key, in order.
        unlisted: keys that listings do not have yet.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.contents: dict[str, tuple[bytes, float]] = {}
        self.clock = clock
        self.before: Callable[[str, str], None] = lambda operation, key: None
        self.asked: list[tuple[str, str]] = []
        self.unlisted: set[str] = set()
        self._tags: dict[str, str] = {}
        self._writes = itertools.count()

    def bucket(self, patience: float = 0.0) -> Bucket:
        there: Any = self
        return Bucket(there, "s3://bucket/store", patience)

    def keys(self, below: str = "") -> list[str]:
        """Keys that start so, sorted."""
        return sorted(key for key in self.contents if key.startswith(below))

    def write(self, key: str, data: bytes, date: float | None = None) -> None:
        """As another process does; ``date``: now, by the server's clock."""
        self.contents[key] = (data, float(math.floor(self.clock())) if date is None else date)
        self._tags[key] = str(next(self._writes))

    def put(self, key: str, file: bytes | Path, mode: str = "overwrite") -> dict[str, Any]:
        self._ask("put", key)
        if mode == "create" and key in self.contents:
            raise AlreadyExistsError(key)
        self.write(key, file if isinstance(file, bytes) else file.read_bytes())
        return {"e_tag": self._tags[key], "version": None}

    def get(self, key: str) -> _Found:
        self._ask("get", key)
        return _Found(self._at(key)[0], self._about(key))

    def head(self, key: str) -> dict[str, Any]:
        self._ask("look", key)
        return self._about(key)

    def delete(self, keys: str | Sequence[str]) -> None:
        for key in [keys] if isinstance(keys, str) else keys:
            self._ask("delete", key)
            self.contents.pop(key, None)

    def list(self, prefix: str | None, chunk_size: int, offset: str = "") -> Iterator[Sequence[dict[str, Any]]]:
        self._ask("list", prefix or "")
        found = [self._about(key) for key in self._below(prefix) if key > offset]
        return (found[start : start + chunk_size] for start in range(0, len(found), chunk_size))

    def list_with_delimiter(self, prefix: str) -> dict[str, Any]:
        self._ask("folders", prefix)
        names = {key.removeprefix(f"{prefix}/").partition("/") for key in self._below(prefix)}
        return {"common_prefixes": sorted({f"{prefix}/{name}" for name, cut, _ in names if cut})}

    def _below(self, prefix: str | None) -> list[str]:
        return [key for key in self.keys(f"{prefix}/" if prefix else "") if key not in self.unlisted]

    def _ask(self, operation: str, key: str) -> None:
        self.asked.append((operation, key))
        self.before(operation, key)

    def _at(self, key: str) -> tuple[bytes, float]:
        if key not in self.contents:
            raise FileNotFoundError(key)
        return self.contents[key]

    def _about(self, key: str) -> dict[str, Any]:
        data, date = self._at(key)
        changed = datetime.fromtimestamp(date, UTC)
        return {"path": key, "last_modified": changed, "size": len(data), "e_tag": self._tags.get(key)}
