"""Where Ray's messages and its workers' output go: into ``ray.log`` in a sweep's folder, never into the terminal."""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from rich.console import ConsoleDimensions

from rt_scale.spec.errors import InputError
from rt_scale.system.console import READABLE, PlainConsole, lasting_stream

NAME = "ray.log"
STANDARD = (1, 2)
ABOVE = 3
"""New descriptors are this at least, or one of them could take the place of a closed standard stream."""


@contextmanager
def output_to(path: Path) -> Iterator[TextIO]:
    """Lead file descriptors 1 and 2 of this process, to which Ray's C++ core writes, to a file.

    Whatever is printed to ``sys.stdout`` or ``sys.stderr`` meanwhile goes to the file, too, also by processes started
    meanwhile and Consoles made before: print on a ``console_on`` what is yielded. Afterwards all is as it was.

    Args:
        path: is appended to; readable for its owner alone, as others decide what stands in it.

    Yields:
        What standard output was: a terminal where that was one. Where ``sys.stdout`` is something else than file
        descriptor 1, that itself.

    Raises:
        InputError: where the file cannot be written.
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
        with suppress(OSError, ValueError):  # a pipe whose reader is gone; closed by who used it
            out.close() if ours else out.flush()


class _TerminalConsole(PlainConsole):
    """Knows the size of the terminal that it writes to, wherever the standard streams lead."""

    @property
    def size(self) -> ConsoleDimensions:
        given = super().size
        try:
            seen = os.get_terminal_size(self.file.fileno())
        except (OSError, ValueError):
            return given
        # Set where COLUMNS and LINES, or a program, have decided.
        width, height = self._width or seen.columns, self._height or seen.lines
        return ConsoleDimensions(width or given.width, height or given.height)

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size


def console_on(out: TextIO) -> PlainConsole:
    """A console on ``out``: as wide as that terminal is, also after a resize; a pipe gets lines that are never cut.

    Nothing is drawn anew in a pipe, whatever FORCE_COLOR says.
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
    """Another descriptor of the same, which no other program inherits."""
    return fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, ABOVE)


def _original(copy: int | None) -> tuple[TextIO, bool]:
    """What standard output was, and whether it was opened here."""
    python = sys.stdout
    with suppress(OSError, ValueError, AttributeError):
        if python.fileno() == 1 and copy is not None:
            # Neither a character that a terminal does not know nor a reader that left must end a sweep.
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
    """Write out what Python and C have buffered, to where it was meant for."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    ctypes.CDLL(None).fflush(None)


@contextmanager
def log_to(log_dir: Path | None) -> Iterator[None]:
    """Append what Ray says and what its workers print to ``log_dir``/ray.log; None: drop it.

    To be entered once Ray is connected, which sets up handlers of its own.
    """
    from ray._private.ray_logging import global_worker_stdstream_dispatcher as workers_output  # a command imports us

    workers_output.remove_handler("ray_print_logs")  # which prints what workers write
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
        workers_output.add_handler(NAME, lambda data: file.write(_lines(data)) and None)
        try:
            yield
        finally:
            workers_output.remove_handler(NAME)
            logger.handlers, logger.propagate = before, propagate
            logger.setLevel(level)


def _lines(data: Mapping[str, Any]) -> str:
    """What a process of the cluster wrote, each line with its machine and process."""
    from ray._private.ray_constants import LOG_PREFIX_EVENT_SUMMARY

    lines = data.get("lines") or []
    if data.get("pid") == "autoscaler":  # says all it knows every few seconds
        lines = [line for line in lines if LOG_PREFIX_EVENT_SUMMARY in line]
    return "".join(f"({data.get('ip')} {data.get('pid')}) {line}\n" for line in lines)
