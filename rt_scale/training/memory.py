"""Host memory that a training loop frees and asks for again at every step."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt(3): the numbers of its parameters, and where glibc's own adjustment of the last two ends.
_MMAP_MAX, _MMAP_MAX_DEFAULT = -4, 65536
_TRIM_THRESHOLD, _TRIM_SETTLED = -1, 64 << 20
_MMAP_THRESHOLD, _MMAP_SETTLED = -3, 32 << 20
_NEVER = -1
_inside = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, the C allocator keeps what is freed; at the end it gives it back to the system.

    By default glibc returns every block above 32 MB at once. A step of VGG-11 at m = 65,536 frees and
    asks for some 0.7 GB in such blocks, all of which the kernel then maps and clears again: 165,000
    page faults and 0.3 CPU seconds a step. No number that is computed depends on it. Without glibc
    (macOS, musl) nothing is changed. Several students that train together are inside together: it ends with the last.
    """
    global _inside
    libc = _glibc()
    if libc is None:
        yield
        return
    if not _inside:
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, _NEVER)
    _inside += 1
    try:
        yield
    finally:
        _inside -= 1
        if not _inside:
            libc.mallopt(_MMAP_MAX, _MMAP_MAX_DEFAULT)
            libc.mallopt(_TRIM_THRESHOLD, _TRIM_SETTLED)
            libc.mallopt(_MMAP_THRESHOLD, _MMAP_SETTLED)
            libc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
