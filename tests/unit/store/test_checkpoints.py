from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import SafetensorError

from rt_scale.spec.errors import InputError, RunError
from rt_scale.store.checkpoints import MANIFEST, Checkpoints


def write(text: str) -> Callable[[Path], None]:
    def writer(folder: Path) -> None:
        (folder / "weights").write_text(text)
        (folder / "rest").mkdir()
        (folder / "rest" / "state").write_text(text * 2)

    return writer


def read(folder: Path) -> str:
    return (folder / "weights").read_text()


def nothing() -> None:
    """A check that finds nothing."""


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    made = Checkpoints(tmp_path / "checkpoints")
    for step in (5, 100, 20):
        made.save(step, write(f"step {step}"), nothing)
    return made


def no_warning(text: str) -> None:
    raise AssertionError(text)


def test_newest_by_number(checkpoints: Checkpoints) -> None:
    assert checkpoints.steps() == [5, 20, 100]
    assert checkpoints.latest(read, no_warning) == (100, "step 100")
    manifest = json.loads((checkpoints.folder / "100" / MANIFEST).read_text())
    assert manifest["step"] == 100
    assert sorted(manifest["files"]) == ["rest/state", "weights"]
    assert manifest["files"]["weights"]["size"] == 8


def test_none_yet(tmp_path: Path) -> None:
    empty = Checkpoints(tmp_path / "none")
    assert empty.steps() == []
    assert empty.latest(read, no_warning) is None
    empty.prune([])


def test_saving_a_step_again_replaces_it(checkpoints: Checkpoints) -> None:
    checkpoints.save(100, write("again"), nothing)
    assert checkpoints.latest(read, no_warning) == (100, "again")
    assert sorted(os.listdir(checkpoints.folder)) == ["100", "20", "5"]


def test_prune_keeps_what_it_is_told(checkpoints: Checkpoints) -> None:
    checkpoints.prune({20, 7})
    assert os.listdir(checkpoints.folder) == ["20"]


def same_size(folder: Path) -> None:
    (folder / "weights").write_text("stEp 100")


def shorter(folder: Path) -> None:
    (folder / "weights").write_text("st")


def lost(folder: Path) -> None:
    (folder / "rest" / "state").unlink()


def no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def bad_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def other_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": ["weights"]}')


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (same_size, "weights is missing, or not as it was written"),
        (shorter, "weights is missing, or not as it was written"),
        (lost, "rest/state is missing"),
        (no_manifest, "manifest.json is missing"),
        (bad_manifest, "manifest.json or a file in it cannot be read"),
        (other_manifest, "manifest.json or a file in it cannot be read"),
    ],
)
def test_damage_falls_back_and_is_named(checkpoints: Checkpoints, damage: Callable[[Path], None], problem: str) -> None:
    damage(checkpoints.folder / "100")
    warnings: list[str] = []
    assert checkpoints.latest(read, warnings.append) == (20, "step 20")
    (warning,) = warnings
    assert str(checkpoints.folder / "100") in warning
    assert problem in warning
    assert "moved to 'damaged-100'" in warning
    assert "step 20" in warning
    assert checkpoints.steps() == [5, 20]
    assert (checkpoints.folder / "damaged-100").is_dir()


@pytest.mark.parametrize("step", [5, 20, 100])
def test_one_step_is_read_whatever_the_newest_is(checkpoints: Checkpoints, step: int) -> None:
    assert checkpoints.read(step, read) == f"step {step}"


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (shutil.rmtree, "manifest.json is missing"),
        (same_size, "weights is missing, or not as it was written"),
        (shorter, "weights is missing, or not as it was written"),
        (lost, "rest/state is missing"),
        (no_manifest, "manifest.json is missing"),
        (bad_manifest, "manifest.json or a file in it cannot be read"),
    ],
)
def test_a_step_that_cannot_be_read_stays_and_is_named(
    checkpoints: Checkpoints, damage: Callable[[Path], None], problem: str
) -> None:
    damage(checkpoints.folder / "100")
    left = sorted(os.listdir(checkpoints.folder))
    with pytest.raises(RunError) as caught:
        checkpoints.read(100, read)
    assert str(caught.value).startswith(f"its checkpoint '{checkpoints.folder / '100'}' cannot be used: {problem}")
    assert sorted(os.listdir(checkpoints.folder)) == left
    assert checkpoints.read(20, read) == "step 20"


@pytest.mark.parametrize("error", [ValueError, OSError, EOFError, SafetensorError])
def test_a_step_that_the_loader_cannot_read(checkpoints: Checkpoints, error: type[Exception]) -> None:
    def loader(folder: Path) -> str:
        raise error("no good")

    with pytest.raises(RunError, match=f"it cannot be read: {error.__name__}: no good"):
        checkpoints.read(20, loader)
    assert checkpoints.steps() == [5, 20, 100]


@pytest.mark.parametrize("error", [ValueError, OSError, EOFError, SafetensorError])
def test_unreadable_falls_back_to_the_last(checkpoints: Checkpoints, error: type[Exception]) -> None:
    def loader(folder: Path) -> str:
        if folder.name != "5":
            raise error("no good")
        return read(folder)

    warnings: list[str] = []
    assert checkpoints.latest(loader, warnings.append) == (5, "step 5")
    assert len(warnings) == 2
    assert all("no good" in warning for warning in warnings)


def test_all_damaged_starts_anew(checkpoints: Checkpoints) -> None:
    for step in checkpoints.steps():
        same_size(checkpoints.folder / str(step))
    warnings: list[str] = []
    assert checkpoints.latest(read, warnings.append) is None
    assert warnings[-1].endswith("starting anew.")
    checkpoints.save(100, write("step 100"), nothing)
    same_size(checkpoints.folder / "100")
    assert checkpoints.latest(read, warnings.append) is None
    assert (checkpoints.folder / "damaged-100-2").is_dir()


def test_a_loader_out_of_memory_is_no_damage(checkpoints: Checkpoints) -> None:
    def loader(folder: Path) -> str:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        checkpoints.latest(loader, no_warning)
    assert checkpoints.steps() == [5, 20, 100]


def test_nothing_takes_a_name_without_leave(checkpoints: Checkpoints) -> None:
    def refuse() -> None:
        raise RunError("taken over")

    with pytest.raises(RunError, match="taken over"):
        checkpoints.save(200, write("late"), refuse)
    assert sorted(os.listdir(checkpoints.folder)) == ["100", "20", "5"]


def test_a_full_disk_keeps_what_is_there(checkpoints: Checkpoints) -> None:
    def writer(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunError, match="disk is full"):
        checkpoints.save(200, writer, nothing)
    assert sorted(os.listdir(checkpoints.folder)) == ["100", "20", "5"]


@pytest.mark.parametrize(
    ("error", "free", "expected"),
    [
        (RuntimeError("file write failed"), 10, RunError),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 10**9, RunError),
        (RuntimeError("something else"), 10**9, RuntimeError),
    ],
)
def test_a_full_disk_as_libraries_tell_it(
    checkpoints: Checkpoints,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    free: int,
    expected: type[Exception],
) -> None:
    usage = shutil.disk_usage(checkpoints.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=free))

    def writer(folder: Path) -> None:
        raise error

    with pytest.raises(expected) as caught:
        checkpoints.save(200, writer, nothing)
    assert type(caught.value) is expected


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        Checkpoints(tmp_path / "file" / "checkpoints").save(1, write("x"), nothing)
