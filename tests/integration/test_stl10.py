"""STL-10 in its published form, labelled and unlabelled: prepared, listed, shown and distilled on."""

from __future__ import annotations

import dataclasses
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepare import open_prepared
from rt_scale.store.store import Store

STL10_TRAIN, STL10_TEST, STL10_UNLABELLED = 40, 20, 64
UNLABELLED: dict[str, Any] = {
    "data": {"name": "stl10_unlabeled", "size": 16, "samples": 40},
    "encoder": {"name": "convnet_4_2"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 2, "batch_size": 16},
    "probe": {"also": ["stl10"], "knn": 5, "epochs": 2, "standardized": False},
}
"""2 epochs of 3 steps each."""


@pytest.fixture
def stl10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """stl10_binary.tar.gz with fewer images: channel by channel, column by column; labels from 1."""
    for name, train in (("stl10", STL10_TRAIN), ("stl10_unlabeled", STL10_UNLABELLED)):
        info = dataclasses.replace(DATASETS[name], train=train, test=STL10_TEST, checksums={})
        monkeypatch.setitem(DATASETS, name, info)
    archive = tmp_path / "stl10_binary.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for part, count in (("test", STL10_TEST), ("train", STL10_TRAIN), ("unlabeled", STL10_UNLABELLED)):
            files = {f"{part}_X.bin": stl10_images(count).transpose(0, 3, 2, 1).tobytes()}
            if part != "unlabeled":
                files[f"{part}_y.bin"] = bytes(1 + number % 10 for number in range(count))
            for name, content in files.items():
                member = tarfile.TarInfo(f"stl10_binary/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return archive


def stl10_images(count: int) -> np.ndarray:
    """Gradients, uint8 [count, 96, 96, 3]: brighter downwards in red, to the right in green."""
    images = np.zeros((count, 96, 96, 3), np.uint8)
    images[..., 0] = np.arange(0, 192, 2)[:, None]
    images[..., 1] = np.arange(0, 192, 2)
    images[..., 2] = np.arange(count)[:, None, None]
    return images


def listed(cli: Any, data: Path, name: str) -> dict[str, Any]:
    rows = json.loads(cli("data", "list", "--json", "--data-dir", data).out)["data"]
    return next(row for row in rows if row["name"] == name)


def test_stl10_from_its_archive(cli: Any, tmp_path: Path, stl10: Path) -> None:
    data = tmp_path / "data"
    assert cli("data", "prepare", "stl10", "--from", stl10, "--data-dir", data).code == 0
    prepared = open_prepared("stl10", data)
    np.testing.assert_array_equal(prepared.train.read_all(), stl10_images(STL10_TRAIN))
    np.testing.assert_array_equal(prepared.test.read_all(), stl10_images(STL10_TEST))
    np.testing.assert_array_equal(prepared.train.labels, np.arange(STL10_TRAIN) % 10)
    assert listed(cli, data, "stl10")["mean"] == "0.4467 0.4398 0.4066"
    assert sorted(path.name for path in data.iterdir()) == [".stl10.lock", "stl10"]


def test_stl10_at_32_pixels_then_at_its_own_size(cli: Any, tmp_path: Path, stl10: Path) -> None:
    """Where the archive is looked for, too; what is there is made anew where that is asked for."""
    data = tmp_path / "data"
    (data / "originals" / "stl10").mkdir(parents=True)
    stl10.rename(data / "originals" / "stl10" / stl10.name)
    ended = cli("data", "prepare", "stl10", "--size", 32, "--data-dir", data)
    assert "to 32 x 32: scaled (bicubic, antialiased)" in ended.out
    prepared = open_prepared("stl10", data)
    assert prepared.train.image_shape == (32, 32, 3)
    expected = Image.fromarray(stl10_images(STL10_TRAIN)[7]).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(prepared.train.gather(np.array([7]))[0], np.asarray(expected))
    pixels = prepared.train.read_all().reshape(-1, 3) / 255
    np.testing.assert_allclose(prepared.info.mean, pixels.mean(0))
    np.testing.assert_allclose(prepared.info.std, pixels.std(0))
    assert listed(cli, data, "stl10")["stats_source"] == "measured on the training images at 32 x 32"
    assert "mean and std of stl10: measured" in cli("data", "list", "--data-dir", data).out
    assert cli("data", "prepare", "stl10", "--data-dir", data).code == 0
    assert open_prepared("stl10", data).sha256 == prepared.sha256
    message = cli("data", "prepare", "stl10", "--size", 96, "--data-dir", data).refusal()
    assert "its size is 32, not 96" in message
    assert "--replace" in message
    assert cli("data", "prepare", "stl10", "--size", 96, "--replace", "--data-dir", data).code == 0
    assert open_prepared("stl10", data).train.image_shape == (96, 96, 3)


@pytest.fixture
def both(cli: Any, tmp_path: Path, stl10: Path) -> Path:
    """A data folder with stl10 at 16 pixels and stl10_unlabeled at its own size, from one archive in stl10's folder."""
    data = tmp_path / "data"
    (data / "originals" / "stl10").mkdir(parents=True)
    stl10.rename(data / "originals" / "stl10" / stl10.name)
    assert cli("data", "prepare", "stl10", "--size", 16, "--data-dir", data).code == 0
    assert cli("data", "prepare", "stl10_unlabeled", "--data-dir", data).code == 0
    return data


def test_stl10s_unlabelled_images(cli: Any, tmp_path: Path, both: Path) -> None:
    prepared = open_prepared("stl10_unlabeled", both)
    images = stl10_images(STL10_UNLABELLED)
    np.testing.assert_array_equal(prepared.train.read_all(), images)
    np.testing.assert_array_equal(prepared.test.read_all(), stl10_images(STL10_TEST))
    assert not prepared.info.labelled
    assert not prepared.train.labels.any()
    np.testing.assert_array_equal(prepared.test.labels, np.arange(STL10_TEST) % 10)
    np.testing.assert_allclose(prepared.info.mean, images.reshape(-1, 3).mean(0) / 255)
    row = listed(cli, both, "stl10_unlabeled")
    assert (row["prepared"], row["labelled"], row["train"]) == ("yes", False, STL10_UNLABELLED)
    assert row["mean"] == " ".join(f"{value:.4f}" for value in prepared.info.mean)
    text = " ".join(cli("data", "list", "--data-dir", both).out.split())
    assert "the training images of stl10_unlabeled have no labels" in text
    assert "mean and std of stl10_unlabeled: measured on the unlabelled images when it is prepared" in text
    assert cli("data", "verify", "stl10_unlabeled", "--data-dir", both).code == 0


def test_a_sheet_of_unlabelled_images_is_one_row(cli: Any, tmp_path: Path, both: Path) -> None:
    sizes = {}
    for split in ("train", "test"):
        path = tmp_path / f"{split}.png"
        shown = cli("data", "show", "stl10_unlabeled", "--data-dir", both, "--split", split, "--out", path)
        assert shown.code == 0, shown.err
        with Image.open(path) as sheet:
            sizes[split] = sheet.size
    row = 96 + 2  # an image as it is, and a gap
    assert row < sizes["train"][1] < 2 * row < sizes["test"][1]
    assert sizes["train"][0] > 10 * row


def test_a_student_is_distilled_on_unlabelled_images_and_probed_on_labelled_ones(
    cli: Any, tmp_path: Path, both: Path
) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(UNLABELLED))
    store = Store(tmp_path / "store")
    places = ("--store", store.root, "--data-dir", both, "--device", "cpu", "--threads", 1)
    ended = cli("run", spec, *places, "--loader", "map")
    assert ended.code == 0, ended.err
    assert "images: map, as asked for" in ended.out
    assert "linear on stl10 " in ended.out
    (run_dir,) = store
    result = run_dir.result()
    assert result is not None
    assert (result.steps, result.data.name) == (2 * 3, "stl10_unlabeled")
    probed = {f"probe@stl10/{role}/{probe}" for role in ("student", "teacher", "input") for probe in ("linear", "knn")}
    assert {name for name in result.last if name.startswith("probe")} == probed
    refused = cli("run", spec, *places, "--set", "probe.also=[]").refusal()
    assert "The training images of 'stl10_unlabeled' have no labels" in refused
    refused = cli("run", spec, *places, "--set", "probe.also=[stl10_unlabeled]").refusal()
    assert "whose images have no labels to probe with" in refused
