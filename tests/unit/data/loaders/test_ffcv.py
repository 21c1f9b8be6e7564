"""What the FFCV loader refuses before FFCV is touched; reading itself is in tests/integration/test_ffcv_loader.py."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rt_scale.data.loaders
from rt_scale.data.beton import Beton, identity_of, open_beton, write
from rt_scale.data.loaders import ffcv
from rt_scale.data.loaders.ffcv import FFCVLoader, require_ffcv
from rt_scale.spec.errors import InputError, RunError

MakeBeton = Callable[..., tuple[Beton, np.ndarray]]


def _unreachable(*_: object) -> None:
    raise AssertionError("FFCV was given the file")


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands in for FFCV and fails where it would be given a file."""
    fake = SimpleNamespace(Images=_unreachable, ReadAhead=_unreachable)
    monkeypatch.setattr(ffcv, "require_ffcv", lambda: fake)


def test_importing_our_module_imports_neither_ffcv_nor_numba() -> None:
    code = "import sys, rt_scale.data.loaders.ffcv; sys.exit(any(name in sys.modules for name in ('ffcv', 'numba')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_without_ffcv_one_is_told_how_to_get_it_and_what_works(
    make_beton: MakeBeton, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(InputError, match=r"not installed\. .*: bash cluster/bootstrap\.sh\. .*resident.*without it"):
        FFCVLoader(make_beton(3)[0], batch_size=1, seed=0, device="cpu")


@pytest.mark.parametrize("other", ["0.0.3rc1", "1.0.3"])
def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: other)
    with pytest.raises(InputError, match=rf"FFCV {other} is installed.*only 1\.0\.2"):
        require_ffcv()


def test_a_missing_system_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: ffcv.VERSION)
    monkeypatch.delattr(rt_scale.data.loaders, "ffcv_patches", raising=False)

    class Broken:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "rt_scale.data.loaders.ffcv_patches":
                raise ImportError("libturbojpeg.so.0: cannot open shared object file")

    monkeypatch.delitem(sys.modules, "rt_scale.data.loaders.ffcv_patches", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(InputError, match=r"cannot be loaded: libturbojpeg\.so\.0.*bootstrap\.sh"):
        require_ffcv()


@pytest.mark.parametrize(("asked", "cores", "given"), [(None, 4, 4), (3, 4, 3), (64, 4, 4), (4, 1, 1)])
def test_threads_are_at_most_the_cores_we_may_use(
    make_beton: MakeBeton, monkeypatch: pytest.MonkeyPatch, asked: int | None, cores: int, given: int
) -> None:
    monkeypatch.setattr(ffcv, "require_ffcv", lambda: SimpleNamespace(Images=str, ReadAhead=_unreachable))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    assert FFCVLoader(make_beton(3)[0], batch_size=1, seed=0, device="cpu", threads=asked).threads == given


@pytest.mark.usefixtures("no_reading")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"subset": np.array([0, 6])}, "positions 0 to 6"),
        ({"subset": np.array([-1])}, "positions -1"),
        ({"world": 3}, "2 samples cannot be shared by 3 ranks"),
    ],
)
def test_impossible_requests_are_refused(make_beton: MakeBeton, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FFCVLoader(make_beton(6)[0], **{"batch_size": 2, "seed": 0, "device": "cpu", **arguments})


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 24)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _half_written(path: Path) -> None:
    """As a killed writer leaves it: everything but the header."""
    with open(path, "r+b") as file:
        file.write(bytes(24))


def _foreign(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04" + bytes(path.stat().st_size - 4))


@pytest.mark.usefixtures("no_reading")
@pytest.mark.parametrize("damage", [_cut, _empty, _half_written, _foreign, os.unlink])
def test_ffcv_is_not_given_a_damaged_file(make_beton: MakeBeton, damage: Callable[[Path], None]) -> None:
    beton, _ = make_beton(6)
    damage(beton.path)
    with pytest.raises(InputError, match=r"6\.beton' cannot be used"):
        FFCVLoader(beton, batch_size=2, seed=0, device="cpu")


@pytest.mark.usefixtures("no_reading")
@pytest.mark.parametrize(("shape", "label"), [((4, 4, 3), 1), ((6, 4, 2), 0)])
def test_ffcv_is_not_given_another_file(make_beton: MakeBeton, shape: tuple[int, int, int], label: int) -> None:
    beton, _ = make_beton(6)
    write(beton.path, [np.zeros((6, *shape), np.uint8)], np.arange(6) % 7 * label + label, image_shape=shape)
    assert open_beton(beton.path).samples == 6
    with pytest.raises(InputError, match="is not the one that was opened"):
        FFCVLoader(beton, batch_size=2, seed=0, device="cpu")


def test_a_file_that_is_written_to_while_it_is_mapped_ends_the_reading(tmp_path: Path) -> None:
    path = tmp_path / "set.beton"
    path.write_bytes(bytes(100))
    written = identity_of(path)
    ffcv.refuse_changed(path, written)
    os.truncate(path, 50)
    with pytest.raises(RunError, match="was written to while it was read"):
        ffcv.refuse_changed(path, written)
    os.truncate(path, 100)
    os.utime(path, ns=(0, 0))
    with pytest.raises(RunError, match="was written to"):
        ffcv.refuse_changed(path, written)


def test_a_mapped_file_may_be_replaced_or_vanish(tmp_path: Path) -> None:
    path, other = tmp_path / "set.beton", tmp_path / "other"
    path.write_bytes(bytes(100))
    other.write_bytes(bytes(7))
    written = identity_of(path)
    with open(path, "rb"):  # as the map does, keeps the number of the first file from being given to the next
        os.replace(other, path)
        ffcv.refuse_changed(path, written)
        path.unlink()
        ffcv.refuse_changed(path, written)
