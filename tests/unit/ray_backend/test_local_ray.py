"""The token of a local Ray."""

from __future__ import annotations

import stat
import threading
from pathlib import Path

import pytest

from rt_scale.ray_backend.local_ray import check_ray_folder, keep_to_owner, known_token, own_token, token_file
from rt_scale.spec.errors import InputError


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_token_is_its_owners_alone(home: Path) -> None:
    assert not known_token()
    own_token()
    path = home / ".ray" / "auth_token"
    assert token_file() == path
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    assert len(path.read_text()) == 64
    assert known_token()
    assert [file.name for file in path.parent.iterdir()] == ["auth_token"]


def test_a_token_that_is_there_stays_and_is_kept_to_its_owner(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.write_text("mine")
    for ensure in (own_token, known_token):
        path.chmod(0o644)
        ensure()
        assert mode(path) == 0o600
        assert path.read_text() == "mine"
    path.chmod(0o400)
    own_token()
    assert mode(path) == 0o400


def test_another_file_may_be_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "other" / "token"))
    own_token()
    assert mode(home / "other" / "token") == 0o600
    assert not (home / ".ray").exists()


def test_a_token_in_the_environment_needs_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    own_token()
    assert known_token()
    assert list(home.iterdir()) == []


def test_what_cannot_be_kept_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "token"
    path.write_text("mine")
    path.chmod(0o644)

    def refuse(self: Path, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    with pytest.raises(InputError, match=r"not for its owner alone.*Operation not permitted.*RAY_AUTH_TOKEN_PATH"):
        keep_to_owner(path)


def test_an_empty_token_is_refused(home: Path) -> None:
    path = home / "token"
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        keep_to_owner(path)


def test_what_cannot_be_written_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "file" / "token"))
    with pytest.raises(InputError, match="cannot be written"):
        own_token()


def test_those_who_write_it_together_end_with_one(home: Path) -> None:
    seen: list[str] = []
    start = threading.Barrier(8)

    def write() -> None:
        start.wait()
        own_token()
        seen.append(token_file().read_text())

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_a_relative_folder_is_refused_by_the_variable_that_ray_asks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    check_ray_folder()
    monkeypatch.setenv("TMPDIR", "near")
    with pytest.raises(InputError, match=r"^TMPDIR is 'near', .* absolute path\. .* RAY_TMPDIR"):
        check_ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", "")
    with pytest.raises(InputError, match=r"^RAY_TMPDIR is "):
        check_ray_folder()
