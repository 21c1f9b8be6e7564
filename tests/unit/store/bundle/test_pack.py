"""Packing: what is in a bundle, and that it is the same bytes whenever and wherever the store is the same."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rt_scale import __version__
from rt_scale.spec.errors import InputError, RunError
from rt_scale.store.bundle.format import MANIFEST, is_bundle
from rt_scale.store.bundle.pack import pack
from rt_scale.store.bundle.unpack import open_bundle
from rt_scale.store.store import Store
from tests.unit.store.bundle.bundles import (
    DONE,
    FAILED,
    FIRST,
    MISSING,
    PART,
    PARTIAL,
    RESTART,
    SPECS,
    fill,
    read,
    sweep_of,
)
from tests.unit.store.objects.fake import Objects


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    fill(store)
    return store


def of_run(members: dict[str, bytes], name: str) -> set[str]:
    return {member.removeprefix(f"runs/{name}/") for member in members if member.startswith(f"runs/{name}/")}


def test_what_is_in_it(store: Store, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    packed = pack(tmp_path / "a.tar.gz", store, [PART], made={"command": "x"}, progress=lambda *at: told.append(at))
    members = read(packed.path)
    whole = {"spec.json", "environment.json", "metrics.parquet", "events.out.tfevents.2-scalars", "lease/1.json"}
    assert of_run(members, DONE.name) == of_run(members, FIRST.name) == {*whole, "result.json"}
    assert of_run(members, FAILED.name) == {*whole, "failure.json", "lease/2.json"}
    assert of_run(members, PARTIAL.name) == whole
    assert of_run(members, MISSING.name) == set()
    assert {name for name in members if name.startswith("sweeps/")} == {
        "sweeps/small/sweep.yaml", "sweeps/small/runs.json", "sweeps/small/sampled.json", "sweeps/small/overrides.json",
        "sweeps/small/report/tables.md", "sweeps/small/report/figures/knn@cifar100, alpha=1.png",
    }  # fmt: skip
    assert all(
        members[name] == (store.root / name).read_bytes()
        for name in members
        if name != MANIFEST and "/lease/" not in name
    )
    assert json.loads(members[MANIFEST]) == packed.manifest.model_dump()
    assert packed.manifest.runs == {
        DONE.name: "done", FIRST.name: "done", RESTART.name: "done", FAILED.name: "failed", PARTIAL.name: "partial",
        MISSING.name: "missing",
    }  # fmt: skip
    assert (packed.manifest.made, packed.manifest.rt_scale, packed.manifest.notes) == (
        {"command": "x"},
        __version__,
        [],
    )
    assert (packed.manifest.sweeps, packed.manifest.weights) == (["small"], "none")
    assert packed.size == packed.path.stat().st_size
    assert told == [(number, len(SPECS) + 1) for number in range(len(SPECS) + 2)]


def test_an_opened_one_is_the_store_that_was_packed(store: Store, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    packed = pack(tmp_path / "a.tar.gz", store, [PART])
    opened = open_bundle(packed.path, tmp_path / "cache", lambda *at: told.append(at))
    assert opened.manifest == packed.manifest
    assert opened.store.root == tmp_path / "cache" / packed.sha256
    assert len(told) == len(packed.manifest.files) + 1
    for each in (*SPECS, FIRST):
        there, here = opened.store.run(each), store.run(each)
        assert there.status() == here.status() == opened.store.status(each.name)
        assert (there.spec(), there.result(), there.failure()) == (here.spec(), here.result(), here.failure())
    assert opened.store.sweep("small").runs() == store.sweep("small").runs()


def test_it_is_unpacked_once_and_for_each_content_apart(store: Store, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = pack(tmp_path / "a.tar.gz", store, [PART]).path
    (cache / f".tmp-{open_bundle(path, cache).store.root.name}-dead").mkdir()
    mine = open_bundle(path, cache).store.root / "mine"
    mine.write_text("a report")
    os.rename(path, tmp_path / "b.tar.gz")
    assert open_bundle(tmp_path / "b.tar.gz", cache).store.root == mine.parent
    assert mine.exists()
    assert [left.name for left in cache.iterdir() if left.name.startswith(".tmp-")] == []
    other = pack(tmp_path / "c.tar.gz", store, [sweep_of("small", PART.text, SPECS[:1])]).path
    assert open_bundle(other, cache).store.root != mine.parent


@pytest.mark.parametrize("weights", ["none", "final", "all"])
def test_weights_are_packed_as_asked_and_nothing_pickled_ever(store: Store, tmp_path: Path, weights: str) -> None:
    path = pack(tmp_path / "a.tar.gz", store, [PART], weights=weights).path  # type: ignore[arg-type]
    members = of_run(read(path), DONE.name)
    packed = {
        "none": [],
        "final": ["0/manifest.json", "0/teacher.safetensors", "4/manifest.json", "4/student.safetensors"],
        "all": ["0/manifest.json", "0/student.safetensors", "0/teacher.safetensors", "4/manifest.json",
                "4/student.safetensors"],
    }  # fmt: skip
    assert sorted(name for name in members if name.startswith("checkpoints")) == [
        f"checkpoints/{name}" for name in packed[weights]
    ]
    if weights != "none":
        run = open_bundle(path, tmp_path / "cache").store.run(DONE)
        found = run.checkpoints.read(4, lambda folder: load_file(folder / "student.safetensors"))
        assert torch.equal(found["w"], torch.full((3,), 4.0))


def test_checkpoints_that_are_not_wanted_are_not_looked_at(store: Store, tmp_path: Path) -> None:
    folder = store.run(DONE).path / "checkpoints"
    shutil.copytree(folder / "4", folder / "2")
    (folder / "2" / "student.safetensors").write_bytes(b"damaged")
    assert pack(tmp_path / "a.tar.gz", store, [PART], weights="none").manifest.notes == []
    assert pack(tmp_path / "a.tar.gz", store, [PART], weights="final").manifest.notes == []
    (note,) = pack(tmp_path / "a.tar.gz", store, [PART], weights="all").manifest.notes
    assert note.startswith(f"Run {DONE.name}, step 2: its checkpoint '")


def test_the_same_store_is_the_same_bytes_wherever_and_whenever(store: Store, tmp_path: Path) -> None:
    first = pack(tmp_path / "a.tar.gz", store, [PART], weights="all")
    shutil.copytree(store.root, tmp_path / "elsewhere")
    for path in (tmp_path / "elsewhere").rglob("*"):
        if path.is_file() and path.parent.name != "lease":
            os.utime(path, (1e9, 1e9))
            path.chmod(0o600)
    again = pack(tmp_path / "b.tar.gz", Store(tmp_path / "elsewhere"), [PART], weights="all")
    assert again.path.read_bytes() == first.path.read_bytes()
    assert again.sha256 == first.sha256
    with tarfile.open(again.path) as archive:
        assert {(info.mtime, info.mode, info.uid, info.uname) for info in archive} == {(0, 0o644, 0, "")}


def test_several_sweeps_share_what_they_share(store: Store, tmp_path: Path) -> None:
    parts = [sweep_of("b", "b\n", SPECS[:2]), sweep_of("a", "a\n", SPECS[1:])]
    packed = pack(tmp_path / "a.tar.gz", store, parts)
    assert packed.manifest.sweeps == ["b", "a"]
    opened = open_bundle(packed.path, tmp_path / "cache").store
    assert [(sweep.name, sweep.file.read_text()) for sweep in opened.sweeps()] == [("a", "a\n"), ("b", "b\n")]
    assert opened.sweep("b").runs() == [each.name for each in SPECS[:2]]
    with pytest.raises(InputError, match="need distinct names"):
        pack(tmp_path / "b.tar.gz", store, [PART, PART])


def test_what_cannot_be_packed_is_noted(store: Store, tmp_path: Path) -> None:
    (store.run(DONE).path / "spec.json").write_text("{}")
    student = store.run(FIRST).path / "checkpoints" / "4" / "student.safetensors"
    student.write_bytes(student.read_bytes()[:-1] + b"?")
    report = store.sweep("small").report
    (report / "été.md").write_text("")
    (report / "secret").symlink_to("/etc/passwd")
    (store.run(FAILED).path / "environment.json").unlink()
    (store.run(FAILED).path / "environment.json").symlink_to("/etc/passwd")
    packed = pack(tmp_path / "a.tar.gz", store, [sweep_of("small", "another\n", SPECS)], weights="final")
    members = read(packed.path)
    assert of_run(members, DONE.name) == {"lease/1.json"}
    assert "environment.json" not in of_run(members, FAILED.name)
    assert not [name for name in members if "secret" in name or name.endswith("té.md")]
    edited, damaged, text, odd = sorted(
        packed.manifest.notes, key=lambda note: (note[:3] != "Run", "step" in note, note)
    )
    assert edited == f"Run {DONE.name} is left out: its spec.json was edited or is damaged."
    assert damaged.startswith(f"Run {FIRST.name}, step 4: its checkpoint '")
    assert text == "Sweep small was last run with another file; it is packed with the one given."
    assert odd == "sweeps/small/report/été.md is left out: it has no name that a bundle takes."
    assert "checkpoints/0/student.safetensors" in of_run(members, FIRST.name)  # the newest that is sound
    open_bundle(packed.path, tmp_path / "cache")


def test_what_goes_away_meanwhile_is_noted(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes, failure = Path.read_bytes, store.run(FAILED).path / "failure.json"

    def late(path: Path) -> bytes:
        if path == failure:
            failure.unlink()
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    packed = pack(tmp_path / "a.tar.gz", store, [PART])
    assert packed.manifest.notes == [
        f"runs/{FAILED.name}/failure.json is left out: it was removed while the bundle was made."
    ]
    open_bundle(packed.path, tmp_path / "cache")


def test_a_run_that_is_done_meanwhile_is_packed_as_it_was_looked_at(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = Store.status

    def late(self: Store, name: str) -> object:
        if name == PARTIAL.name and late.calls:  # type: ignore[attr-defined]
            (store.run(PARTIAL).path / "result.json").write_text("{}")
        late.calls += name == PARTIAL.name  # type: ignore[attr-defined]
        return status(self, name)

    late.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(Store, "status", late)
    sweep = sweep_of("small", PART.text, [PARTIAL])
    packed = pack(tmp_path / "a.tar.gz", store, [sweep])
    assert packed.manifest.runs == {PARTIAL.name: "partial"}
    assert "result.json" not in of_run(read(packed.path), PARTIAL.name)


def test_a_sweep_of_which_nothing_was_begun_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"None of the 1 runs was begun in '{store.place}'.*--store"):
        pack(tmp_path / "a.tar.gz", store, [sweep_of("small", "", [MISSING])])
    assert not (tmp_path / "a.tar.gz").exists()


def test_a_place_that_cannot_be_written_is_bad_input(store: Store) -> None:
    with pytest.raises(InputError, match=r"/proc/self/status/a\.tar\.gz' cannot be written"):
        pack(Path("/proc/self/status/a.tar.gz"), store, [PART])


def test_a_file_that_grows_is_packed_as_long_as_it_was(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The events of a run that is at work."""
    events = store.run(PARTIAL).path / "events.out.tfevents.2-scalars"
    addfile, before = tarfile.TarFile.addfile, events.stat().st_size

    def late(self: tarfile.TarFile, info: tarfile.TarInfo, file: Any) -> None:
        if info.name.endswith(f"{PARTIAL.name}/{events.name}"):
            events.write_bytes(b"1" * 2 * before)
        addfile(self, info, file)

    monkeypatch.setattr("tarfile.TarFile.addfile", late)
    packed = pack(tmp_path / "a.tar.gz", store, [PART])
    opened = open_bundle(packed.path, tmp_path / "cache").store
    assert (opened.run(PARTIAL).path / events.name).stat().st_size == before


def test_a_store_in_an_object_store_is_packed_with_weights(
    machine: Callable[[str], Store], objects: Objects, tmp_path: Path
) -> None:
    fill(machine("a"))
    there = machine("b")
    there.refresh()
    packed = pack(tmp_path / "a.tar.gz", there, [PART], weights="all")
    members = read(packed.path)
    assert {"spec.json", "metrics.parquet", "result.json", "lease/1.json", "checkpoints/4/student.safetensors"} <= (
        of_run(members, DONE.name)
    )
    assert "sweeps/small/sampled.json" in members
    opened = open_bundle(packed.path, tmp_path / "cache").store
    assert [opened.status(each.name) for each in SPECS] == [there.status(each.name) for each in SPECS]


def test_a_failure_on_the_way_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "out"
    fill(store)
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(b"before")
    (folder / ".tmp-a.tar.gz-dead").write_bytes(b"half")
    (folder / ".tmp-other.tar.gz-dead").write_bytes(b"of another")
    unreadable = store.run(DONE).path / "metrics.parquet"
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path == unreadable:
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with open(folder / ".tmp-a.tar.gz-live", "wb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)  # as another process that packs into the same file
        with pytest.raises(RunError, match=rf"'{unreadable}' cannot be read: Permission denied"):
            pack(folder / "a.tar.gz", store, [PART])
    assert sorted(path.name for path in folder.iterdir()) == [
        ".tmp-a.tar.gz-live",
        ".tmp-other.tar.gz-dead",
        "a.tar.gz",
    ]
    assert (folder / "a.tar.gz").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.tar.gz", b"name: small\n", True),
        ("a.yaml", b"\x1f\x8b...", True),
        ("a.yaml", b"name: small\n", False),
    ],
)
def test_a_bundle_is_told_by_its_name_or_its_first_bytes(
    tmp_path: Path, name: str, data: bytes, expected: bool
) -> None:
    (tmp_path / name).write_bytes(data)
    assert is_bundle(tmp_path / name) is expected
    (tmp_path / name).unlink()
    assert is_bundle(tmp_path / name) is (name != "a.yaml")
