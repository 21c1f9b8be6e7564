"""Redirects the output of Ray and its workers to ``ray.log`` in a sweep's folder, never to the terminal."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.console import ConsoleDimensions

from rt_scale.spec.errors import InputError
from rt_scale.system.console import READABLE, PlainConsole, lasting_stream

NAME = "ray.log"
STANDARD = (1, 2)
ABOVE = 3
"""Smallest new descriptor, so that none takes the number of a closed standard stream."""


@contextmanager
def output_to(path: Path) -> Iterator[TextIO]:
    """Redirect file descriptors 1 and 2, to which Ray's C++ core writes, to a file, and restore them afterwards.

    This also redirects ``sys.stdout``, ``sys.stderr``, child processes and existing Consoles. To print, use
    ``console_on`` with the yielded stream: the previous standard output (``sys.stdout`` itself if that is not file
    descriptor 1). ``path`` is appended to, and readable only by its owner, as workers may print secrets.

    Raises:
        InputError: if the file cannot be written.
    """
    log = _open_log(path)
    kept = {number: _duplicate(number) if _is_open(number) else None for number in STANDARD}
    _flush()
    out, ours = _original(kept[1])
    try:
        for number in STANDARD:
            os.dup2(log, number)
        yield out
    finally:
        _flush()
        for number, copy in kept.items():
            _put_back(number, copy)
        os.close(log)
        with suppress(OSError, ValueError):  # a pipe without reader, or a stream closed by its user
            out.close() if ours else out.flush()


class _TerminalConsole(PlainConsole):
    """Takes its size from the terminal that it writes to; rich would ask the standard streams."""

    @property
    def size(self) -> ConsoleDimensions:
        given = super().size
        try:
            seen = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):
            return given
        # _width and _height are set by COLUMNS and LINES, or by a program.
        width, height = self._width or seen.columns, self._height or seen.lines
        return ConsoleDimensions(width or given.width, height or given.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def console_on(out: TextIO) -> PlainConsole:
    """A console on ``out``: as wide as that terminal, also after a resize; in a pipe, lines are never cut.

    A pipe is never redrawn, even with FORCE_COLOR.
    """
    return _TerminalConsole(file=out, soft_wrap=not out.isatty(), force_interactive=None if out.isatty() else False)


def _open_log(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise InputError(
            f"The log of Ray cannot be written to '{path}' ({error.strerror}). Make its folder writable, or name "
            "another store with --store."
        ) from error
    try:
        return _duplicate(opened)
    finally:
        os.close(opened)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _duplicate(number: int) -> int:
    """A duplicate descriptor that child programs do not inherit."""
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, ABOVE)


def _original(copy: int | None) -> tuple[TextIO, bool]:
    """The previous standard output, and whether it was opened here."""
    python = sys.stdout
    with suppress(OSError, ValueError, AttributeError):
        if python.fileno() == 1 and copy is not None:
            # Neither an unencodable character nor a closed reader may end a sweep.
            out = lasting_stream(_duplicate(copy), "stdout", encoding=python.encoding, errors=READABLE, owned=True)
            return out, True
        return python, False
    return (open(os.devnull, "w"), True) if python is None else (python, False)


def _put_back(number: int, copy: int | None) -> None:
    if copy is None:
        os.close(number)
    else:
        os.dup2(copy, number)
        os.close(copy)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


@contextmanager
def log_to(log_dir: Path | None) -> Iterator[None]:
    """Append Ray's messages and its workers' output to ``log_dir``/ray.log; None: drop them.

    Enter this after connecting to Ray, which installs its own handlers.
    """
    # Not at the top: a command imports us.
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as workers_output
    from ray._private.worker import print_worker_logs

    workers_output.remove_handler("ray_print_logs")  # it prints the output of workers
    if log_dir is None:
        yield
        return
    log_dir.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("ray")
    before, level, propagate = list(logger.handlers), logger.level, logger.propagate
    with (log_dir / NAME).open("a", encoding="utf-8", errors="backslashreplace", buffering=1) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
        workers_output.add_handler(NAME, lambda data: print_worker_logs(data, file))
        try:
            yield
        finally:
            workers_output.remove_handler(NAME)
            logger.handlers, logger.propagate = before, propagate
            logger.setLevel(level)
