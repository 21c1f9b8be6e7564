"""Memory that a piece of work takes beyond the page cache: anonymous pages and shared memory, children included."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType

_EVERY = 0.02
"""Seconds between two looks, at least; as a look takes longer the more is mapped, it is 20 times what that took."""


class Footprint:
    """A context manager that looks at this process and its children while it is open.

    Attributes:
        before: bytes at the start.
        peak: the most bytes seen.
    """

    def __enter__(self) -> Footprint:
        self.before = self.peak = _taken()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()

    def __str__(self) -> str:
        return f"at most {self.peak / 1e9:.2f} GB beyond the page cache ({self.before / 1e9:.2f} GB before)"

    def _watch(self) -> None:
        pause = _EVERY
        while not self._done.wait(pause):
            start = time.perf_counter()
            self.peak = max(self.peak, _taken())
            pause = max(_EVERY, 20 * (time.perf_counter() - start))


def _taken() -> int:
    """Bytes in anonymous and shared memory of this process and its children; a shared page counts once."""
    total = 0
    for process in ("self", *_children(os.getpid())):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))
    return 1024 * total


def _children(pid: int) -> list[str]:
    found: list[str] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += path.read_text().split()
    return found
