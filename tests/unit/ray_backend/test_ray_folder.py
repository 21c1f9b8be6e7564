"""Folders that Ray cannot use, named with the variable that says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.ray_backend.local_ray import LONGEST, check_ray_folder
from rt_scale.spec.errors import InputError

VARIABLES = ("RAY_TMPDIR", "TMPDIR")


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def refusal() -> str:
    with pytest.raises(InputError) as error:
        check_ray_folder()
    assert "Set RAY_TMPDIR to " in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_folder_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").touch()
    long = f"/tmp/{'x' * 60}"
    for given, said in {
        long: f"bytes, and the system takes {LONGEST}",
        "": "it must be an absolute path",
        "tmp": "it must be an absolute path",
        "/dev/null": "'/dev/null/ray' cannot be written (Not a directory)",
        "/proc": "'/proc/ray' cannot be written (",
    }.items():
        monkeypatch.setenv(variable, given)
        assert refusal().startswith(f"{variable} is '{given}', ")
        assert said in refusal()
    assert not Path(long).exists()


def test_a_folder_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    check_ray_folder()
    monkeypatch.setenv("TMPDIR", "nonsense")
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")  # which Ray asks first
    check_ray_folder()
