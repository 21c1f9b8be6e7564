from __future__ import annotations

import os
from pathlib import Path

import pytest

from rt_scale.system.files import TEMPORARY, replace_file, temporary_name


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_file(tmp_path / "a", b"old")
    replace_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(tmp_path / "a", b"newer")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"new"}


def test_a_temporary_name_is_known_as_one_and_nobody_elses(tmp_path: Path) -> None:
    names = {temporary_name(tmp_path / "a") for _ in range(9)}
    assert len(names) == 9
    assert all(name.parent == tmp_path and name.name.startswith(TEMPORARY) for name in names)
