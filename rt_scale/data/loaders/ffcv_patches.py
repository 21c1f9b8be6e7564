"""FFCV 1.0.2 with its faults fixed in subclasses; the only module that imports ffcv.

- ``Reader`` does not read the allocation table (``beton.open_beton`` has checked every pointer), and
  ``OSCacheManager`` builds no dictionaries of pages: those took 2.6 GB and 12 s at 5 million images.
- ``NDArrayDecoder`` fills a new array for every batch (FFCV's buffers are overwritten by later batches), and its
  compiled code is cached on disk.
- ``Images`` replaces ``Loader``, which sets torch's threads for the whole process.
- ``ReadAhead`` replaces ``EpochIterator``, which hangs after an error in its thread, leaks the thread when an epoch
  is abandoned, and creates CUDA streams on the current device. Each of its threads reads a batch; FFCV's batches are
  read by numba's threads, which print to the terminal when a process forks.
"""

from __future__ import annotations

import itertools
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch

from rt_scale.spec.errors import RunError

Function = TypeVar("Function", bound=Callable[..., object])
_AHEAD = 2
"""Batches read ahead, besides the one that each thread is reading."""


def _start_numba() -> None:
    """Start numba's threads, as importing FFCV does, but on TBB if it is installed.

    For other users of numba in this process: its other layers abort when used from two threads (workqueue) or kill
    forked processes (omp).
    """
    config: Any = numba.config
    config.THREADING_LAYER = "tbb"
    try:
        numba.get_num_threads()
    except ValueError:  # there is no TBB
        config.THREADING_LAYER = "default"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations in FFCV's own code
    _start_numba()
    _threads = torch.get_num_threads(), numba.get_num_threads()
    try:
        from ffcv.fields.ndarray import NDArrayDecoder
        from ffcv.memory_managers.os_cache import OSCacheContext, OSCacheManager
        from ffcv.pipeline.compiler import Compiler
        from ffcv.pipeline.graph import Graph
        from ffcv.pipeline.pipeline_spec import PipelineSpec
        from ffcv.pipeline.state import State
        from ffcv.reader import Reader
    finally:  # FFCV's import sets both to 1
        torch.set_num_threads(_threads[0])
        numba.set_num_threads(_threads[1])


def _copy(row: np.ndarray, stored: np.ndarray) -> None:
    # numba turns this loop over two vectors into a memcpy; slices or two indices have 1/3 of the speed.
    for byte in range(len(stored)):
        row[byte] = stored[byte]


def gather(ids: np.ndarray, pointers: np.ndarray, file: np.ndarray, size: int) -> np.ndarray:
    """The images at ``ids``, uint8 [B, size]; ``pointers`` are their offsets in ``file``."""
    rows = np.empty((len(ids), size), np.uint8)
    for row in range(len(ids)):
        start = np.int64(pointers[ids[row]])
        _copy_row(rows[row], file[start : start + size])
    return rows


def compiled(function: Function) -> Function:
    """``function``, compiled at its first call and cached on disk if possible."""
    try:
        result = numba.njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither this folder nor the user's cache is writable
        result = numba.njit(nogil=True)(function)
    return cast(Function, result)


_copy_row = compiled(_copy)
_gather_rows = compiled(gather)


class _Reader(Reader):  # type: ignore[misc]  # ffcv has no types
    def read_allocation_table(self) -> None:
        """Skipped: all images have one size, and the records hold their positions."""


class _Mapped(OSCacheManager):  # type: ignore[misc]
    """The mapped file, without bookkeeping of pages."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.ptrs = self.sizes = None
        self.context = OSCacheContext(self)


class _Gather(NDArrayDecoder):  # type: ignore[misc]
    """Returns the images of a batch in a new array."""

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, None]:
        return super().declare_state_and_memory(previous_state)[0], None

    def generate_code(self) -> Callable[..., np.ndarray]:
        shape = self.field.shape
        size = int(np.prod(shape))

        def decode(ids: np.ndarray, destination: None, metadata: np.ndarray, state: tuple[np.ndarray]) -> np.ndarray:
            return _gather_rows(ids, metadata, state[0], size).reshape(len(ids), *shape)

        return decode


class Images:
    """The images of a checked prepared file, which is mapped once and may be replaced or unlinked afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader = _Reader(str(path))
        context = _Mapped(self.reader).schedule_epoch(())
        with context:
            mapped, *_ = context.state
        pipeline = PipelineSpec("image", decoder=_Gather())
        graph = Graph({"image": pipeline}, self.reader.handlers, {"image": 0}, self.reader.metadata, None)
        Compiler.set_enabled(False)  # only plain code around functions that are already compiled
        try:
            _, code = graph.collect_requirements()
            (((self._stage, (node,)),), _) = graph.codegen_all(code)
        finally:
            Compiler.set_enabled(True)
        self._arguments = {
            "metadata": self.reader.metadata,
            "storage_state": (np.asarray(mapped),),
            f"memory_{node}": None,
            f"shared_memory_{node}": None,
        }

    def read(self, ids: np.ndarray) -> np.ndarray:
        """The images at ``ids``, valid int64 [B], as uint8 [B, H, W, C] in a new array."""
        images: np.ndarray
        (images,) = self._stage(ids, **self._arguments)
        return images


class ReadAhead:
    """Batches of images in order, read ahead in threads; an error in a thread is raised at its batch.

    ``batches`` are positions in the file, int64 [B] each; ``threads`` is at least 1.
    """

    def __init__(self, images: Images, batches: Iterable[np.ndarray], threads: int) -> None:
        self._images, self._process = images, os.getpid()
        self._pool = ThreadPoolExecutor(threads, "ffcv-read-ahead")
        self._more = (self._pool.submit(images.read, ids) for ids in batches)
        self._ready = deque(itertools.islice(self._more, threads + _AHEAD))

    def __iter__(self) -> Iterator[np.ndarray]:
        while self._ready:
            if os.getpid() != self._process:  # forked: the child has the futures, but not the threads
                raise RunError(
                    f"The threads that read '{self._images.path}' belong to another process. Create a new loader here."
                )
            first = self._ready.popleft()
            if (error := first.exception()) is not None:
                reason = f"{type(error).__name__}: {error}"
                raise RunError(f"FFCV failed while reading images from '{self._images.path}' ({reason}).") from error
            self._ready.extend(itertools.islice(self._more, 1))
            yield first.result()

    def close(self) -> None:
        """Cancel the batches not yet begun and wait for the threads to end."""
        if os.getpid() == self._process:
            self._pool.shutdown(cancel_futures=True)
