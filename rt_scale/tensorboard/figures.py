"""TensorBoard: figures as images, in a run of their own."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.util import tensor_util

from rt_scale.tensorboard.writer import renew_events, stat_file

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def write_figures(folder: Path, figures: Mapping[str, Path]) -> None:
    """Bring the images of a run up to date; where no file has changed, none is read.

    Args:
        folder: the run's folder.
        figures: tag -> PNG file, which dates the image. What is not there, or no PNG yet, is left out.

    Raises:
        InputError, RunError: where the disk refuses or is full.
    """
    state = [(tag, stat.st_size, stat.st_mtime_ns) for tag, path in figures.items() if (stat := stat_file(path))]
    newest = max((mtime for *_, mtime in state), default=0)
    renew_events(folder, "figures", newest, state, lambda: _events({tag: figures[tag] for tag, *_ in state}))


def _events(figures: Mapping[str, Path]) -> list[Any]:
    events = []
    for tag, path in figures.items():
        data = path.read_bytes()
        if not data.startswith(_SIGNATURE) or len(data) < 24:  # It is being written.
            continue
        # The first chunk of a PNG begins with its size: https://www.w3.org/TR/png/#11IHDR
        width, height = struct.unpack(">II", data[16:24])
        summary = summary_pb2.Summary()
        summary.value.add(
            tag=tag,
            metadata=create_summary_metadata(display_name="", description=""),
            tensor=tensor_util.make_tensor_proto([str(width).encode(), str(height).encode(), data]),
        )
        events.append(event_pb2.Event(wall_time=path.stat().st_mtime, step=0, summary=summary))
    return events
