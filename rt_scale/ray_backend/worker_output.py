"""Ray's own messages and its workers' output: in a file, never in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray._private.ray_constants import LOG_PREFIX_EVENT_SUMMARY
from ray._private.ray_logging import global_worker_stdstream_dispatcher as workers_output

NAME = "ray.log"
_PRINTER = "ray_print_logs"
"""The handler with which Ray prints what workers write."""


@contextmanager
def to_file(log_dir: Path | None) -> Iterator[None]:
    """Append what Ray says and what its workers print to ``log_dir``/ray.log; None: drop it.

    To be entered once Ray is connected, which sets up handlers of its own.
    """
    workers_output.remove_handler(_PRINTER)
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
    lines = data.get("lines") or []
    if data.get("pid") == "autoscaler":  # says all it knows every few seconds
        lines = [line for line in lines if LOG_PREFIX_EVENT_SUMMARY in line]
    return "".join(f"({data.get('ip')} {data.get('pid')}) {line}\n" for line in lines)
