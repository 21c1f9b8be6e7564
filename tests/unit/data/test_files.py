from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from rt_scale.data.files import fingerprint, lock, md5_of, reading, walk, writing
from rt_scale.spec.errors import InputError, RunError


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_failure_while_running(number: int) -> None:
    with pytest.raises(RunError, match=r"Disk full.*/some/file"), writing(Path("/some/file")):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR])
def test_no_permission_is_bad_input(number: int) -> None:
    with (
        pytest.raises(InputError, match=rf"Cannot write '/some/file': {os.strerror(number)}"),
        writing(Path("/some/file")),
    ):
        raise OSError(number, os.strerror(number))


def test_what_fails_while_reading_names_the_file_and_the_advice() -> None:
    with (
        pytest.raises(InputError, match=r"Cannot read 'here': EOFError\. Try again\."),
        reading("here", "Try again."),
    ):
        raise EOFError


def test_errors_for_the_user_pass_unchanged() -> None:
    with pytest.raises(RunError, match=r"^full$"), reading("here", "Try again."):
        raise RunError("full")


def test_md5_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert md5_of(tmp_path / "a") == hashlib.md5(b"abc").hexdigest()


def test_a_fingerprint_changes_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"1")
    seen = {fingerprint(tmp_path), fingerprint(tmp_path)}
    assert len(seen) == 1
    (tmp_path / "sub" / "b").write_bytes(b"")
    seen.add(fingerprint(tmp_path))
    (tmp_path / "sub" / "b").write_bytes(b"22")
    seen.add(fingerprint(tmp_path))
    os.utime(tmp_path / "sub" / "a", (1, 1))
    seen.add(fingerprint(tmp_path))
    assert len(seen) == 4
    single = fingerprint(tmp_path / "sub" / "a")
    os.utime(tmp_path / "sub" / "a", (2, 2))
    assert fingerprint(tmp_path / "sub" / "a") != single


def test_a_fingerprint_is_what_it_was(tmp_path: Path) -> None:
    """Sets that were prepared before stay what they are asked for again."""
    digest = hashlib.sha256()
    for name in ("z.txt", "a/1.png", "a/2.png", "a/deep/.hidden", "b/1.png"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
        status = path.stat()
        digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns}\n".encode())
    assert fingerprint(tmp_path / "set") == digest.hexdigest()


def _odd_folder(root: Path) -> Path:
    """Links of all sorts, a pipe, and a name that is not UTF-8."""
    (root / "cat").mkdir(parents=True)
    (root / "cat" / "1.png").write_bytes(b"1")
    (root / "outside").mkdir()
    (root / "outside" / "2.png").write_bytes(b"2")
    (root / "set").mkdir()
    (root / "set" / "cat").symlink_to(root / "cat")
    (root / "set" / "file.png").symlink_to("../outside/2.png")
    (root / "set" / "gone.png").symlink_to("nowhere.png")
    (root / "set" / "self.png").symlink_to("self.png")
    (root / "set" / "dog").mkdir()
    (root / "set" / "dog" / "up").symlink_to("..")
    (root / "outside" / "back").symlink_to(root / "set")
    (root / "set" / "round").symlink_to(root / "outside")
    os.mkfifo(root / "set" / "pipe.png")
    (root / "set" / os.fsdecode(b"\xff.png")).write_bytes(b"3")
    return root / "set"


def test_links_are_followed_and_end(tmp_path: Path) -> None:
    root = _odd_folder(tmp_path)
    levels = list(walk(root, lambda _: False, _raise))
    files = [os.path.relpath(f"{level.folder}/{name}", root) for level in levels for name in level.files]
    assert files == ["file.png", os.fsdecode(b"\xff.png"), "cat/1.png", "round/2.png"]
    odd = {os.path.relpath(f"{level.folder}/{name}", root): why for level in levels for name, why in level.odd.items()}
    assert odd.keys() == {"dog/up", "gone.png", "pipe.png", "round/back", "self.png"}
    assert "nowhere.png" in odd["gone.png"]
    assert "lies in" in odd["dog/up"]


def _raise(error: OSError) -> None:
    raise error


def test_a_fingerprint_takes_any_folder(tmp_path: Path) -> None:
    root = _odd_folder(tmp_path)
    before = fingerprint(root)
    assert fingerprint(root) == before
    (root / "gone.png").unlink()
    assert fingerprint(root) != before


def test_a_folder_that_cannot_be_listed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "set" / "closed").mkdir(parents=True)

    def scandir(folder: str) -> object:
        if folder.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return real(folder)

    real = os.scandir
    monkeypatch.setattr(os, "scandir", scandir)
    told: list[OSError] = []
    assert [level.folder for level in walk(tmp_path / "set", lambda _: False, told.append)] == [str(tmp_path / "set")]
    assert [error.filename for error in told] == [str(tmp_path / "set" / "closed")]


def test_a_held_lock_is_refused_or_waited_for(tmp_path: Path) -> None:
    entered = threading.Event()

    def wait() -> None:
        with lock("digits", tmp_path, wait=True):
            entered.set()

    with lock("digits", tmp_path, wait=False):
        with (
            pytest.raises(InputError, match=r"'digits' is being prepared .* by another process"),
            lock("digits", tmp_path, wait=False),
        ):
            pass
        with lock("mnist", tmp_path, wait=False):
            pass
        waiter = threading.Thread(target=wait)
        waiter.start()
        assert not entered.wait(0.05)
    waiter.join(10)
    assert entered.is_set()
    with lock("digits", tmp_path, wait=False):
        pass


def test_a_lock_in_an_impossible_place_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write"), lock("digits", tmp_path / "file", wait=False):
        pass
