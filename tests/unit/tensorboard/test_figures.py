from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from rt_scale.tensorboard import figures as module
from rt_scale.tensorboard.figures import write_figures


def figure(path: Path, value: int, size: tuple[int, int] = (6, 4), date: int = 100) -> Path:
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    os.utime(path, (date, date))
    return path


def images(reader: EventAccumulator) -> dict[str, tuple[float, bytes, bytes, bytes]]:
    """Tag -> date, width, height and file of its only image."""
    found = {}
    for tag in reader.Reload().Tags()["tensors"]:
        assert reader.SummaryMetadata(tag).plugin_data.plugin_name == "images"
        (event,) = reader.Tensors(tag)
        found[tag] = (event.wall_time, *tensor_util.make_ndarray(event.tensor_proto).tolist())
    return found


def test_figures_are_images_dated_by_their_files(tmp_path: Path) -> None:
    paths = {"figures/one": figure(tmp_path / "1.png", 9), "figures/two": figure(tmp_path / "2.png", 8, (300, 2), 200)}
    write_figures(tmp_path / "sweep", paths)
    assert images(EventAccumulator(str(tmp_path / "sweep"))) == {
        "figures/one": (100.0, b"6", b"4", paths["figures/one"].read_bytes()),
        "figures/two": (200.0, b"300", b"2", paths["figures/two"].read_bytes()),
    }


def test_a_reader_that_watches_sees_the_new_figure_in_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = figure(tmp_path / "1.png", 9)
    watcher = EventAccumulator(str(tmp_path / "sweep"))
    write_figures(tmp_path / "sweep", {"one": path})
    assert images(watcher)["one"][0] == 100
    figure(path, 7, date=101)
    write_figures(tmp_path / "sweep", {"one": path})
    assert images(watcher) == {"one": (101.0, b"6", b"4", path.read_bytes())}
    # Unchanged, none is read again.
    monkeypatch.setattr(module, "_events", None)
    write_figures(tmp_path / "sweep", {"one": path})


@pytest.mark.parametrize("data", [None, b"", b"\x89PNG\r\n\x1a\n\0\0", b"no picture, but of some length"])
def test_what_is_no_figure_yet_is_left_out(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "2.png").write_bytes(data)
    write_figures(tmp_path / "sweep", {"one": figure(tmp_path / "1.png", 9), "two": tmp_path / "2.png"})
    assert set(images(EventAccumulator(str(tmp_path / "sweep")))) == {"one"}
    (tmp_path / "1.png").unlink()
    write_figures(tmp_path / "sweep", {"one": tmp_path / "1.png", "two": tmp_path / "2.png"})
    assert list((tmp_path / "sweep").iterdir()) == []
