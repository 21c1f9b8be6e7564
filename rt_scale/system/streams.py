"""Standard streams that never end the work: a pipe whose reader left, a full disk, a terminal or stream that is closed.

What cannot be written is dropped. A reader that left is nobody's fault; any other reason is kept for the end.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEFT = (errno.EPIPE, errno.ECONNRESET)
"""How the system says that a reader went away."""
NAMES = {"stdout": 1, "stderr": 2}
_lost: dict[str, OSError] = {}


class LastingFile(io.FileIO):
    """A descriptor whose writes never fail, never write a part alone, and wait where it does not block.

    Args:
        number: the descriptor.
        name: which standard stream it is, as ``lost`` names it.
        owned: whether closing this closes the descriptor.
    """

    def __init__(self, number: int, name: str, *, owned: bool = False) -> None:
        super().__init__(number, "wb", closefd=owned)
        self._stream = name

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of it, or drop what cannot be written."""
        left = memoryview(data).cast("B")
        size = len(left)
        try:
            while left:
                written = super().write(left)
                if written is None:
                    select.select([], [self.fileno()], [])
                else:
                    left = left[written:]
        except OSError as error:
            if error.errno not in LEFT:
                _lost.setdefault(self._stream, error)
        return size


def lasting_stream(
    number: int,
    name: str,
    *,
    encoding: str = "utf-8",
    errors: str = "replace",
    owned: bool = False,
    buffered: bool = True,
) -> TextIO:
    """A text stream on a descriptor, as Python makes its standard streams, that cannot fail.

    Args:
        number, name, owned: as for :class:`LastingFile`.
        encoding, errors: as for ``open``.
        buffered: False as under PYTHONUNBUFFERED.
    """
    raw = LastingFile(number, name, owned=owned)
    if not buffered:
        return io.TextIOWrapper(raw, encoding, errors, write_through=True)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=name == "stderr" or raw.isatty())


def make_streams_last() -> None:
    """Put streams that cannot fail in place of this process's own; those that a program put there stay."""
    for name, number in NAMES.items():
        stream = getattr(sys, name)
        if stream is None:  # was closed when this process began
            setattr(sys, name, lasting_stream(_nowhere(), name))
        elif isinstance(stream, io.TextIOWrapper) and stream is getattr(sys, f"__{name}__"):
            with suppress(OSError):
                stream.flush()
            lasting = lasting_stream(
                number, name, encoding=stream.encoding, errors=stream.errors or "strict",
                buffered=not stream.write_through,
            )  # fmt: skip
            setattr(sys, name, lasting)


def _nowhere() -> int:
    """A descriptor that leads nowhere: the lowest free one, so that no file of ours becomes a standard stream."""
    number = os.open(os.devnull, os.O_WRONLY)
    os.set_inheritable(number, True)
    return number


def lost() -> dict[str, str]:
    """Why text was dropped, by stream (``stdout``, ``stderr``), where it was not because its reader left."""
    for name in NAMES:
        with suppress(ValueError, AttributeError):  # closed by who used it
            getattr(sys, name).flush()
    return {name: error.strerror or str(error) for name, error in _lost.items()}
