"""Sweeps on an S3 server that throttles, is slow, and lists late what was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
import yaml

from rt_scale.spec.errors import StoreUnavailable
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.objects.bucket import Bucket
from tests.integration.dying import outcome
from tests.integration.object_server import ObjectServer, Place, alone, serving, whole
from tests.integration.rough_server import rough
from tests.integration.test_s3_store import DOCUMENT

Start = Callable[..., Popen[str]]
SHORT = {**DOCUMENT, "train": {"epochs": 3, "batch_size": 128}}


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with serving() as running:
            yield running


@pytest.fixture
def place(server: ObjectServer, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setenv("RT_SCALE_MIRROR", "")
    return Place(server, tmp_path, data_dir)


def test_two_drivers_share_a_sweep_over_a_server_that_throttles_and_lists_late(
    place: Place, start: Start, cli: Any, tmp_path: Path, data_dir: Path
) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(yaml.safe_dump({"name": "small", "base": SHORT, "axes": {"student.alpha": [0.2, 0.5, 1.0]}}))
    points = load_sweep(file)[1]
    with rough(place.server.port, throttled=0.15, lag=8.0) as between:
        place.address = place.server.address(place.folder.name, between.port)
        command = ["sweep", file, "--store", place.address, "--data-dir", place.data_dir, "--concurrency", 1]
        drivers = []
        for machine in "ab":
            place.on(machine)
            drivers.append(start(*command))
        ended = [driver.communicate(timeout=480) for driver in drivers]
        assert [driver.returncode for driver in drivers] == [0, 0], ended
        # A third comes before everything is listed, from a machine that has seen nothing.
        c = place.on("c")
        again = cli(*command)
        assert (again.code, "3 of 3 runs finished" in again.out) == (0, True), again
        assert between.counts["throttled"] > 10
        assert between.counts["late"] > 10
        between.lag = 0.0
        rows = json.loads(cli("status", file, "--store", place.address, "--json").out)["runs"]
        assert [(row["state"], row["attempts"]) for row in rows] == [("done", 1)] * 3
        for point in points:
            assert whole(c, point.spec) == outcome(alone(tmp_path / "alone", data_dir, point.spec))


def test_a_server_that_takes_a_second_for_everything(place: Place, cli: Any, tmp_path: Path, data_dir: Path) -> None:
    with rough(place.server.port, throttled=0.1, slow=1.0) as between:
        place.address = place.server.address(place.folder.name, between.port)
        place.on("a")
        ended = cli(*place.run(SHORT))
        assert ended.code == 0, ended
        between.slow = 0.0
        spec = RunSpec.model_validate(SHORT)
        assert whole(place.on("b"), spec) == outcome(alone(tmp_path / "alone", data_dir, spec))


def test_a_server_that_throttles_everything_is_named(place: Place) -> None:
    with rough(place.server.port, throttled=1.0) as between:
        bucket = Bucket.open(place.server.address(place.folder.name, between.port)).brief()
        with pytest.raises(StoreUnavailable, match=r"did not list .* within 10 s .*SlowDown: Please reduce.*throttles"):
            bucket.entries("")
