"""Event files as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.util import tensor_util


def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
    """A curve as TensorBoard's own reader sees it, after discarding what a restart supersedes."""
    reader = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    return [(point.step, float(tensor_util.make_ndarray(point.tensor_proto))) for point in reader.Tensors(tag)]


def plugin_data(path: Path) -> dict[str, Any]:
    """tag -> HParams record of every summary in an event file."""
    values = [value for event in EventFileLoader(str(path)).Load() for value in event.summary.value]
    parse = {
        metadata.EXPERIMENT_TAG: metadata.parse_experiment_plugin_data,
        metadata.SESSION_START_INFO_TAG: metadata.parse_session_start_info_plugin_data,
        metadata.SESSION_END_INFO_TAG: metadata.parse_session_end_info_plugin_data,
    }
    return {value.tag: parse[value.tag](value.metadata.plugin_data.content) for value in values if value.tag in parse}
