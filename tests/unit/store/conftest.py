"""An object store in memory, the machines that share it, and a bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store import lease as lease_module
from rt_scale.store.bundle.pack import pack
from rt_scale.store.bundle.unpack import open_bundle
from rt_scale.store.objects.store import ObjectStore
from rt_scale.store.store import Store
from tests.unit.store.bundle.bundles import PART, fill
from tests.unit.store.objects.fake import Objects


@pytest.fixture
def objects() -> Objects:
    """A server whose clock is two hours behind ours."""
    return Objects(lambda: time.time() - 7200)


@pytest.fixture
def machine(objects: Objects, tmp_path: Path) -> Callable[[str], Store]:
    """The store as a machine of that name sees it."""

    def see(name: str) -> Store:
        return ObjectStore(objects.bucket(), tmp_path / name)

    return see


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    store = Store(folder / "store")
    fill(store)
    return pack(folder / "a.tar.gz", store, [PART], weights="final").path


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[Path], str]:
    """Why a bundle is not opened; nothing of it may be left, inside the cache or beside it."""

    def find(path: Path) -> str:
        before = set(tmp_path.rglob("*"))
        with pytest.raises(InputError) as refused:
            open_bundle(path, tmp_path / "cache")
        left = set(tmp_path.rglob("*")) - before
        assert {file.suffix for file in left} <= {"", ".lock"}
        assert [file for file in left if file.suffix != ".lock"] in ([], [tmp_path / "cache"])
        text = str(refused.value)
        assert text.startswith(f"'{path}' is not opened: ")
        assert text.endswith("get it again from where it was made.")
        return text

    return find


class Watch:
    """The clock that nobody sets, and what happens meanwhile; nobody really waits.

    Attributes:
        now: seconds.
        happens: done at every pause.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.happens: Callable[[], object] = lambda: None

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.happens()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    found = Watch()
    monkeypatch.setattr(lease_module, "_pause", found.pause)
    monkeypatch.setattr(lease_module, "_clock", lambda: found.now)
    monkeypatch.setattr(lease_module, "_seen", {})
    return found
