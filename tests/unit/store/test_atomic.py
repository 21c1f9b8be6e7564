from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError, RunError
from rt_scale.store import atomic
from rt_scale.system.files import temporary_name


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write everywhere; give that up for a moment where the tests run as root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_write_replaces_the_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    atomic.write_bytes(path, b"longer than the next")
    atomic.write_bytes(path, b"short")
    assert path.read_bytes() == b"short"
    assert os.listdir(path.parent) == ["file"]


def test_json_round_trip_keeps_floats_and_text(tmp_path: Path) -> None:
    value = {"alpha": 1e-10, "name": "ä", "n": 65536, "none": None, "list": [1, 2.5]}
    atomic.write_json(tmp_path / "a.json", value)
    assert atomic.read_json(tmp_path / "a.json") == value


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"disk is full.*MB free.*--store"):
        atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR])
def test_refused_is_bad_input(tmp_path: Path, code: int) -> None:
    with (
        pytest.raises(InputError, match=r"cannot be written.*--store") as caught,
        atomic.disk_errors(tmp_path / "x"),
    ):
        raise OSError(code, os.strerror(code))
    assert str(tmp_path / "x") in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_other_disk_trouble_is_a_failed_run(tmp_path: Path, code: int) -> None:
    with pytest.raises(RunError, match="could not be written"), atomic.disk_errors(tmp_path / "gone" / "x"):
        raise OSError(code, os.strerror(code))


def test_no_permission_for_real(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    with as_nobody(), pytest.raises(InputError, match="cannot be written: Permission denied"):
        atomic.write_bytes(folder / "file", b"x")


def test_a_file_in_the_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        atomic.write_bytes(tmp_path / "file" / "inner", b"x")
    with pytest.raises(InputError, match="cannot be written"):
        atomic.create_exclusive(tmp_path / "file" / "inner", b"x")


def test_read_json_names_the_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match=r"a\.json' cannot be read as JSON"):
        atomic.read_json(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        atomic.read_json(tmp_path / "none.json")


def test_create_exclusive_lets_one_of_many_win(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    won: list[int] = []
    barrier = threading.Barrier(8)

    def contend(number: int) -> None:
        barrier.wait()
        if atomic.create_exclusive(path, str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_text()] == [str(number) for number in won]
    assert os.listdir(tmp_path) == ["claim"]


def test_create_exclusive_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    assert atomic.create_exclusive(tmp_path / "claim", b"first")
    assert not atomic.create_exclusive(tmp_path / "claim", b"second")
    assert (tmp_path / "claim").read_bytes() == b"first"


def test_remove_temporaries_leaves_the_rest(tmp_path: Path) -> None:
    temporary_name(tmp_path / "folder").mkdir()
    temporary_name(tmp_path / "file").write_text("")
    (tmp_path / "kept").write_text("")
    atomic.remove_temporaries(tmp_path)
    atomic.remove_temporaries(tmp_path / "absent")
    assert os.listdir(tmp_path) == ["kept"]


def test_write_if_changed_touches_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "file"
    atomic.write_if_changed(path, b"a")
    inode = path.stat().st_ino
    atomic.write_if_changed(path, b"a")
    assert path.stat().st_ino == inode
    atomic.write_if_changed(path, b"b")
    assert path.read_bytes() == b"b"


def test_links_are_relative_and_follow_their_source(tmp_path: Path) -> None:
    source, link = tmp_path / "runs" / "a", tmp_path / "view" / "a"
    source.parent.mkdir()
    link.parent.mkdir()
    atomic.link_relatively(source, link)
    assert not os.path.lexists(link)
    source.write_text("1")
    atomic.link_relatively(source, link)
    atomic.link_relatively(source, link)
    assert os.readlink(link) == "../runs/a"
    other = source.with_name("b")
    other.write_text("2")
    atomic.link_relatively(other, link)
    assert link.read_text() == "2"
    other.unlink()
    atomic.link_relatively(other, link)
    assert not os.path.lexists(link)
