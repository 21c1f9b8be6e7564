from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

import pytest

from rt_scale.data.files import fingerprint, lock, md5_of, reading, write_json, writing
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


def test_json_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1})
    assert (tmp_path / "a.json").read_text() == '{\n "b": 1\n}'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert (tmp_path / "a.json").read_text() == '{\n "b": 1\n}'


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
