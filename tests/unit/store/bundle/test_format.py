"""The file of a bundle: told from others, and written whole or not at all."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from rt_scale.spec.errors import RunError
from rt_scale.store.bundle import pack as packing
from rt_scale.store.bundle.format import is_bundle
from rt_scale.store.bundle.pack import pack
from rt_scale.store.store import Store
from tests.unit.store.bundle.bundles import DONE, PART, fill


def test_a_failure_on_the_way_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = Store(tmp_path / "store"), tmp_path / "out"
    fill(store)
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(b"before")
    (folder / ".tmp-a.tar.gz-dead").write_bytes(b"half")
    (folder / ".tmp-other.tar.gz-dead").write_bytes(b"of another")
    unreadable = store.run(DONE).path / "metrics.parquet"
    opened = open

    def refuse(path: object, *rest: object) -> object:
        if path == unreadable:
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)  # type: ignore[call-overload]

    monkeypatch.setattr(packing, "open", refuse, raising=False)
    with opened(folder / ".tmp-a.tar.gz-live", "wb") as live:
        fcntl.flock(live, fcntl.LOCK_EX)  # as another process that packs into the same file
        with pytest.raises(RunError, match=rf"'{unreadable}' cannot be read: Permission denied"):
            pack(folder / "a.tar.gz", store, [PART])
    assert sorted(path.name for path in folder.iterdir()) == [
        ".tmp-a.tar.gz-live",
        ".tmp-other.tar.gz-dead",
        "a.tar.gz",
    ]
    assert (folder / "a.tar.gz").read_bytes() == b"before"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.tar.gz", b"name: small\n", True),
        ("a.zip", b"name: small\n", True),
        ("a.yaml", b"\x1f\x8b...", True),
        ("a.yaml", b"PK\3\4...", True),
        ("a.yaml", b"name: small\n", False),
    ],
)
def test_a_bundle_is_told_by_its_name_or_its_first_bytes(
    tmp_path: Path, name: str, data: bytes, expected: bool
) -> None:
    (tmp_path / name).write_bytes(data)
    assert is_bundle(tmp_path / name) is expected
    (tmp_path / name).unlink()
    assert is_bundle(tmp_path / name) is (name != "a.yaml")
