"""`rt-scale bundle` of a store on S3, by a machine that computed none of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.objects.store import open_place
from tests.integration.object_server import serving
from tests.integration.test_bundle import SWEEP, Cli
from tests.unit.store.bundle.bundles import read


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with serving() as server:
            yield server.address("bundled")


def test_a_store_on_s3_is_packed_from_another_machine(
    address: str, cli: Cli, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RT_SCALE_MIRROR", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, "axes": {}, "seeds": 1, "name": "one"}, sort_keys=False))
    (point,) = load_sweep(file)[1]
    result = run(point.spec, Options(store=open_place(address), data_dir=data_dir, device="cpu", threads=1))
    monkeypatch.setenv("RT_SCALE_MIRROR", str(tmp_path / "b"))
    ended = cli("bundle", file, "--store", address, "--out", tmp_path / "one.tar.gz", "--weights", "final")
    assert ended.code == 0, ended
    members = read(tmp_path / "one.tar.gz")
    assert json.loads(members[f"runs/{point.spec.name}/result.json"]) == result.to_json()
    assert f"runs/{point.spec.name}/checkpoints/{result.steps}/student.safetensors" in members
    assert "1 run: 1 done" in cli("status", tmp_path / "one.tar.gz").out
