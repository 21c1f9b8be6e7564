"""An object store in memory, and the machines that share it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale.store import remote_lease
from rt_scale.store.remote import RemoteStore
from rt_scale.store.store import Store
from tests.unit.store.objects import Objects


@pytest.fixture
def objects() -> Objects:
    """A server whose clock is two hours behind ours."""
    return Objects(lambda: time.time() - 7200)


@pytest.fixture
def machine(objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """The store as a machine of that name sees it; claims settle at once."""
    monkeypatch.setattr(remote_lease, "SETTLING", 0.02)
    monkeypatch.setattr(remote_lease, "RESOLUTION", 0.0)

    def see(name: str) -> Store:
        return Store(tmp_path / name, RemoteStore(objects.bucket(), tmp_path / name))

    return see
