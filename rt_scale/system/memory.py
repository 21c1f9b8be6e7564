"""Memory of the C allocator, kept while a run computes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt(3): the numbers of its parameters, and the values at which glibc's own adjustment of the last two ends.
_MMAP_MAX, _MMAP_MAX_DEFAULT = -4, 65536
_TRIM_THRESHOLD, _TRIM_SETTLED = -1, 64 << 20
_MMAP_THRESHOLD, _MMAP_SETTLED = -3, 32 << 20
_NEVER = -1
_inside = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, the C allocator keeps freed memory; at the end it returns it to the system.

    By default glibc returns every block above 32 MB at once. A step of VGG-11 at m = 65,536 frees and allocates some
    0.7 GB in such blocks, which the kernel maps and clears again: 165,000 page faults and 0.3 CPU seconds a step. A
    forward pass of 256 CIFAR images takes 1.1 to 1.3 times as long then (VGG-11, VGG-13, ResNet-18; 2 cores).
    Without glibc (macOS, musl) nothing is changed. Calls nest: runs of one process share it, and the last one ends it.
    """
    global _inside
    libc = ctypes.CDLL(None) if sys.platform.startswith("linux") else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
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
