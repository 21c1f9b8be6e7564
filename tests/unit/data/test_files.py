from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from rt_scale.data.files import md5_of, reading, writing
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
