from __future__ import annotations

import os
import pwd
import stat
import tempfile
from pathlib import Path

import pytest

from rt_scale.data.download import fetch
from rt_scale.data.meta import default_data_dir
from rt_scale.ray_backend.local_ray import token_file
from rt_scale.spec.errors import InputError
from rt_scale.store.bundle.format import default_cache
from rt_scale.store.objects.uri import default_place, mirror_folder
from rt_scale.system import paths as user_paths
from rt_scale.system.paths import CACHES, cache_folder, own_temporary, path_from, settle_home, user_path

VARIABLES = ("XDG_CACHE_HOME", "RT_SCALE_DATA", "RT_SCALE_MIRROR", "RT_SCALE_STORE", "RAY_AUTH_TOKEN_PATH", *CACHES)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, and a temporary one, of this test's own."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is as it was afterwards
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    user_paths._say_once.cache_clear()
    return folder


def no_entry(*_: object) -> None:
    raise KeyError("no such user")


@pytest.fixture(params=["no entry", "empty", "a file", "below a file"])
def homeless(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No home directory, in one of several ways, all of which hold for root, too; yields the place instead."""
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    if request.param == "no entry":
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", {"empty": "", "a file": "/dev/null", "below a file": "/dev/null/me"}[request.param])
    return tmp_path / "tmp" / f"rt-scale-{os.geteuid()}"


def test_home_directories_are_expanded_as_shells_do(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert user_path("~/x") == home / "x"
    assert user_path("~") == home
    me = pwd.getpwuid(0)
    assert user_path(f"~{me.pw_name}/x") == Path(me.pw_dir) / "x"
    assert user_path("a/~/b") == Path("a/~/b")
    monkeypatch.chdir(tmp_path)
    assert user_path("./~x") == tmp_path / "~x"
    assert user_path(str(user_path("./~x"))) == tmp_path / "~x"
    (tmp_path / "~draft.yaml").touch()
    assert user_path("~draft.yaml") == tmp_path / "~draft.yaml"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        (" ", "empty"),
        ("~nobody-here/x", "no user 'nobody-here'"),
        ("s3://bucket/data", "address"),
        ("file:///data", "address"),
        ("data\udcff", "UTF-8"),
    ],
)
def test_what_is_no_path_is_refused_in_words(text: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=f"^--out is .*{why}"):
        user_path(text, "--out")
    if text.strip():
        monkeypatch.setenv("RT_SCALE_MIRROR", text)
        with pytest.raises(InputError, match=f"^RT_SCALE_MIRROR is .*{why}"):
            path_from("RT_SCALE_MIRROR")


def test_a_tilde_without_a_home_is_refused(homeless: Path) -> None:
    if not os.environ.get("HOME"):
        with pytest.raises(InputError, match="no home directory"):
            user_path("~/x")
        with pytest.raises(InputError, match=r"Ray's token file.*no home directory"):
            token_file()


def test_every_place_that_can_be_named_knows_the_tilde(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_place("~/s") == default_place(Path("~/s")) == str(home / "s")
    for name in ("RT_SCALE_STORE", "RT_SCALE_DATA", "RT_SCALE_MIRROR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, f"~/{name}")
    assert default_place() == str(home / "RT_SCALE_STORE")
    assert default_data_dir() == home / "RT_SCALE_DATA"
    assert default_data_dir(Path("~/d")) == home / "d"
    assert mirror_folder("s3://b").parent == home / "RT_SCALE_MIRROR"
    assert default_cache() == home / "XDG_CACHE_HOME" / "rt-scale-bundles"
    assert fetch("none", home / "data", "~/origin") is None
    with pytest.raises(InputError, match=r"RT_SCALE_DATA_ORIGIN is '~nobody-here/x'"):
        fetch("none", home / "data", "~nobody-here/x")


def test_empty_variables_name_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RT_SCALE_STORE", "RT_SCALE_DATA", "RT_SCALE_MIRROR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "")
    assert default_place() == "rt-store"
    assert default_data_dir() == home / ".cache" / "rt-scale"
    assert mirror_folder("s3://b").parent == home / ".cache" / "rt-scale-mirrors"
    with pytest.raises(InputError, match="--store is empty"):
        default_place("")


def test_a_home_that_can_be_written_is_taken_and_nothing_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cache_folder("rt-scale", "HOME") == home / ".cache" / "rt-scale"
    before = dict(os.environ)
    settle_home()
    assert dict(os.environ) == before
    assert capsys.readouterr() == ("", "")
    assert not list(home.iterdir())


def test_without_a_home_there_is_another_place_said_once(homeless: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        settle_home()
        assert default_data_dir() == homeless / "rt-scale"
        assert default_cache() == homeless / "rt-scale-bundles"
        assert mirror_folder("s3://b").parent == homeless / "rt-scale-mirrors"
    assert stat.S_IMODE(homeless.stat().st_mode) == 0o700
    out, err = capsys.readouterr()
    assert out == ""
    names = ("rt-scale'", "rt-scale-bundles'", "rt-scale-mirrors'")
    told = {name: line for line in err.splitlines() for name in names if name in line}
    assert len(told) == err.count("\n") == 3
    assert "RT_SCALE_DATA" in told["rt-scale'"]
    assert all("XDG_CACHE_HOME" in line and str(homeless) in line for line in told.values())


def test_libraries_have_places_too(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", "/mine")
    settle_home()
    assert Path.home() == homeless
    assert os.environ["MPLCONFIGDIR"] == "/mine"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(homeless / "torchinductor")


def test_a_cache_that_is_named_is_taken_in_place_of_a_home(
    homeless: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    settle_home()
    assert default_data_dir() == tmp_path / "cache" / "rt-scale"
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache" / "numba")
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def locked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home directory, which is there and cannot be written."""
    access = os.access

    def refused(path: Path, mode: int, **_: bool) -> bool:  # Root may write everywhere; others may not.
        return not (mode & os.W_OK and path.is_relative_to(home)) and access(path, mode)

    monkeypatch.setattr(os, "access", refused)
    return home


def test_a_home_that_cannot_be_written_stays_one(
    locked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Others read their credentials there."""
    place = tmp_path / "tmp" / f"rt-scale-{os.geteuid()}"
    settle_home()
    assert Path.home() == locked
    assert os.environ["RAY_AUTH_TOKEN_PATH"] == str(place / "ray" / "auth_token")
    assert default_data_dir() == place / "rt-scale"
    assert "can be written" in capsys.readouterr().err


def test_data_that_others_put_there_are_read_there(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (locked / ".cache" / "rt-scale").mkdir(parents=True)
    (locked / ".ray").mkdir()
    (locked / ".ray" / "auth_token").write_text("secret")
    settle_home()
    assert default_data_dir() == locked / ".cache" / "rt-scale"
    assert "RAY_AUTH_TOKEN_PATH" not in os.environ
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("made", ["link", "file", "of somebody else"])
def test_a_place_that_somebody_else_made_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str) -> None:
    place = tmp_path / "tmp" / f"rt-scale-{os.geteuid()}"
    if made == "link":
        (tmp_path / "theirs").mkdir()
        place.symlink_to(tmp_path / "theirs")
    elif made == "file":
        place.touch()
    else:
        place.mkdir()
        mine = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: mine + 1)
        place.rename(place.with_name(f"rt-scale-{mine + 1}"))
    with pytest.raises(InputError, match=r"not a folder of this user.*XDG_CACHE_HOME"):
        own_temporary()
    monkeypatch.setenv("HOME", "/dev/null")
    settle_home()  # commands that need no place go on
    assert os.environ["HOME"] == "/dev/null"
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        default_data_dir()


def test_without_a_temporary_directory_a_home_still_serves(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    assert default_data_dir() == home / ".cache" / "rt-scale"
    monkeypatch.setenv("HOME", "/dev/null")
    settle_home()
    with pytest.raises(InputError, match=r"no folder can be made.*XDG_CACHE_HOME"):
        default_data_dir()


def test_a_place_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    place = tmp_path / "tmp" / f"rt-scale-{os.geteuid()}"
    place.mkdir(mode=0o755)
    assert own_temporary() == place
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
