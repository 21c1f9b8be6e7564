"""The store as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store import run_dir, store
from rt_scale.store.objects.store import ObjectStore, open_place
from rt_scale.store.run_dir import RunStatus
from rt_scale.store.store import Store
from tests.records import run_result


def test_a_place_that_cannot_hold_folders_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"/proc/nowhere/store' cannot be made.*--store"):
        Store(Path("/proc/nowhere/store")).check_writable()


def test_a_bundle_is_no_store_and_how_it_becomes_one_is_told(tmp_path: Path) -> None:
    bundle = tmp_path / "demo.tar.gz"
    bundle.write_bytes(b"")
    with pytest.raises(
        InputError, match=rf"{bundle}' is a file, .*--store or RT_SCALE_STORE.*rt-scale report {bundle}.*tar -xzf"
    ):
        open_place(bundle)
    assert open_place(tmp_path).root == tmp_path


def test_a_run_of_an_object_store_is_named_by_its_address(tmp_path: Path) -> None:
    assert Store(tmp_path).where("distill-1") == str(tmp_path / "runs" / "distill-1")
    for address in ("s3://bucket/place", "s3://bucket/place?region=here"):
        bucket: Any = SimpleNamespace(address=address)
        assert ObjectStore(bucket, tmp_path).where("distill-1") == "s3://bucket/place/runs/distill-1"


def test_a_finished_run_is_told_by_names_of_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Store(tmp_path)
    run = place.run("distill-1")
    for _ in range(3):
        with run.acquire():
            (run.path / "lease" / ".tmp-4.json-abcd").touch()
            run.complete(run_result())
    assert place.status("distill-1") == run.status() == RunStatus("done", 3)

    def refuse(*_: object) -> None:
        raise AssertionError("a file was opened")

    for module in (run_dir, store):
        monkeypatch.setattr(module, "read_json", refuse)
    monkeypatch.setattr(json, "loads", refuse)
    assert place.status("distill-1") == RunStatus("done", 3)
    for path in (run.path / "lease").iterdir():
        path.unlink()
    (run.path / "lease").rmdir()
    assert place.status("distill-1") == RunStatus("done", 0)


def test_other_states_are_those_of_the_run(tmp_path: Path) -> None:
    place = Store(tmp_path)
    assert place.status("distill-1") == RunStatus("missing")
    with place.run("distill-1").acquire():
        assert place.status("distill-1").state == "running"
    assert place.status("distill-1") == place.run("distill-1").status() == RunStatus("partial", 1)


def test_names_and_sweeps_are_folders_in_order(tmp_path: Path) -> None:
    place = Store(tmp_path)
    assert (place.names(), place.sweeps()) == ([], [])
    for name in ("runs/b", "runs/a", "runs/.tmp-c-1234", "sweeps/two", "sweeps/one", "sweeps/.tmp-x-1"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("runs/file", "sweeps/file"):
        (tmp_path / name).touch()
    assert place.names() == ["a", "b"]
    assert [(sweep.name, sweep.path, sweep.export) for sweep in place.sweeps()] == [
        (name, tmp_path / "sweeps" / name, tmp_path / "sweeps" / name / "export") for name in ("one", "two")
    ]
