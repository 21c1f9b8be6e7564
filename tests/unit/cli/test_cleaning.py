"""`rt-scale gc` as a user sees it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.spec.run import RunSpec
from rt_scale.store import store as store_module
from rt_scale.store.store import Store
from tests.records import run_result

SPECS = [
    RunSpec.model_validate({"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "seeds": {"data": seed}})
    for seed in range(3)
]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Three finished runs, of which a sweep lists the first; the third is ten days old."""
    store = Store(tmp_path / "store")
    for spec in SPECS:
        run = store.run(spec)
        with run.acquire():
            run.write_spec(spec)
            run.complete(run_result())
    store.sweep("one").write("", [SPECS[0].name])
    for path in store.run(SPECS[2]).path.rglob("*"):
        os.utime(path, (time.time() - 10 * 86400,) * 2)
    return store


@pytest.fixture
def gc(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """What the command prints; it must succeed. Owners are watched for no time, which test_garbage is about."""
    monkeypatch.setattr(store_module, "_pause", lambda seconds: None)

    def call(*arguments: object) -> Any:
        ended = CliRunner().invoke(app, ["gc", "--store", str(store.root), *map(str, arguments)])
        assert ended.exit_code == 0, (ended.output, ended.exception)
        return ended

    return call


def begun(store: Store) -> list[str]:
    return [run.name for run in store]


def test_it_lists_and_removes_nothing_unasked(store: Store, gc: Callable[..., Any]) -> None:
    text = gc().stdout
    assert f"runs/{SPECS[1].name}" in text
    assert f"runs/{SPECS[2].name}" in text
    assert SPECS[0].name not in text
    assert "10d 00h ago" in text
    assert text.splitlines()[-1].startswith(f"{store.root}: 2 runs that no sweep refers to (")
    assert text.splitlines()[-1].endswith(" kB), 0 leftovers (0 bytes). Remove them with --delete.")
    assert len(begun(store)) == 3


def test_it_says_what_it_removes(store: Store, gc: Callable[..., Any]) -> None:
    text = gc("--delete").stdout
    assert f"runs/{SPECS[1].name}" in text
    assert text.splitlines()[-2].endswith("0 leftovers (0 bytes).")
    assert text.splitlines()[-1].startswith("Removed 2, ")
    assert begun(store) == [SPECS[0].name]
    assert gc("--delete").stdout == f"{store.root}: nothing to remove.\n"


def test_days_are_days(store: Store, gc: Callable[..., Any]) -> None:
    assert json.loads(gc("--older-than", 11, "--json").stdout)["found"] == []
    (row,) = json.loads(gc("--older-than", 9.5, "--json").stdout)["found"]
    assert (row["path"], row["state"]) == (str(store.run(SPECS[2]).path), "done")
    assert row["size"] == sum(path.stat().st_size for path in Path(row["path"]).rglob("*") if path.is_file())
    assert 10 * 86400 <= row["age"] < 10 * 86400 + 600
    gc("--older-than", 9.5, "--delete")
    assert sorted(begun(store)) == sorted(spec.name for spec in SPECS[:2])


def test_what_stays_is_said_and_json_stays_json(
    store: Store, gc: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rt_scale.store.store._remove_run", lambda path, stale: path.name == SPECS[1].name)
    ended = gc("--delete", "--json")
    assert len(json.loads(ended.stdout)["found"]) == 2
    assert f"{SPECS[2].name} stays: it was begun again meanwhile" in ended.stderr
    assert "Removed 1, " in ended.stderr
