from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rt_scale.data import fetch as module
from rt_scale.data.fetch import fetch
from rt_scale.data.prepare import Prepared, list_prepared, open_prepared, prepare, verify_prepared
from rt_scale.spec.errors import InputError, RunError


@pytest.fixture
def origin(tmp_path: Path, pets: Path) -> Path:
    """A folder of prepared data that is not the machine's own."""
    prepare("pets", tmp_path / "origin", pets)
    return tmp_path / "origin"


def _left(data_dir: Path) -> list[str]:
    return sorted(path.name for path in data_dir.iterdir())


def _same(prepared: Prepared | None, origin: Path) -> bool:
    there = open_prepared("pets", origin)
    return prepared is not None and (prepared.sha256, prepared.info, prepared.notes, prepared.request) == (
        there.sha256,
        there.info,
        there.notes,
        there.request,
    )


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_what_is_fetched_is_what_was_prepared(data_dir: Path, origin: Path, form: str) -> None:
    fetched = fetch("pets", data_dir, form.format(origin))
    assert _same(fetched, origin)
    assert fetched is not None
    assert fetched.folder == data_dir / "pets"
    assert verify_prepared("pets", data_dir).train.samples == 16
    assert _left(data_dir) == [".pets.lock", "pets"]


def test_a_path_may_be_relative_or_below_the_home(
    data_dir: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(origin.parent)
    monkeypatch.setenv("HOME", str(origin.parent))
    assert _same(fetch("pets", data_dir / "a", origin.name), origin)
    assert _same(fetch("pets", data_dir / "b", f"~/{origin.name}"), origin)


@pytest.mark.parametrize(
    ("origin", "kind", "root"),
    [
        ("s3://bucket/a/b/?region=us-east-1", "s3", "bucket/a/b"),
        ("gs://anonymous@bucket/a/b", "gcs", "bucket/a/b"),
        ("file:///a/b", "local", "/a/b"),
        ("/a/b/", "local", "/a/b"),
    ],
)
def test_addresses_that_are_known(origin: str, kind: str, root: str) -> None:
    store, folder = module._open_store(origin)
    assert (store.type_name, folder) == (kind, root)


def test_what_is_there_is_not_fetched_again(data_dir: Path, origin: Path) -> None:
    fetch("pets", data_dir, str(origin))
    before = (data_dir / "pets" / "train.beton").stat()
    shutil.rmtree(origin)
    assert fetch("pets", data_dir, str(origin)) is not None
    assert (data_dir / "pets" / "train.beton").stat() == before


def test_a_set_that_the_origin_has_not_is_none(data_dir: Path, origin: Path) -> None:
    assert fetch("dogs", data_dir, str(origin)) is None
    assert _left(data_dir) == [".dogs.lock"]


@pytest.mark.parametrize("file", ["train.beton", "test.beton"])
def test_contents_other_than_recorded_are_refused(data_dir: Path, origin: Path, file: str) -> None:
    with open(origin / "pets" / file, "r+b") as out:
        out.seek(-1, os.SEEK_END)
        out.write(b"\xff")
    with pytest.raises(InputError, match=rf"{file}' is damaged.*SHA-256.*Nothing was kept.*RT_SCALE_DATA_ORIGIN"):
        fetch("pets", data_dir, str(origin))
    assert _left(data_dir) == [".pets.lock"]


def test_a_missing_file_is_named(data_dir: Path, origin: Path) -> None:
    (origin / "pets" / "test.beton").unlink()
    with pytest.raises(InputError, match=r"Cannot read.*origin/pets/test\.beton"):
        fetch("pets", data_dir, str(origin))
    assert _left(data_dir) == [".pets.lock"]


def test_another_version_is_refused(data_dir: Path, origin: Path) -> None:
    meta = origin / "pets" / "meta.json"
    meta.write_text(meta.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(InputError, match=rf"Cannot read '{origin}/pets'.*format 2 is not 1"):
        fetch("pets", data_dir, str(origin))
    assert _left(data_dir) == [".pets.lock"]


@pytest.mark.parametrize("origin", ["ftp://example.org/data", "s3://", "gs:/x://"])
def test_an_address_of_another_kind_is_refused(data_dir: Path, origin: str) -> None:
    with pytest.raises(InputError, match=r"Cannot read.*RT_SCALE_DATA_ORIGIN"):
        fetch("pets", data_dir, origin)


def test_a_disk_without_room_is_refused_before_writing(
    data_dir: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum((origin / "pets" / file).stat().st_size for file in ("train.beton", "test.beton"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, size - 1))  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "_copy", None)
    with pytest.raises(InputError, match=f"Disk full.*{size:,} bytes are needed, {size - 1:,} are free"):
        fetch("pets", data_dir, str(origin))
    assert _left(data_dir) == [".pets.lock"]


def test_a_disk_that_fills_up_leaves_nothing(data_dir: Path, origin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="Disk full"):
        fetch("pets", data_dir, str(origin))
    assert _left(data_dir) == [".pets.lock"]


def test_a_folder_of_somebody_else_is_not_touched(
    data_dir: Path, origin: Path, save_images: Callable[..., None]
) -> None:
    save_images(data_dir / "pets", {"cat": 2})
    with pytest.raises(InputError, match="holds something else"):
        fetch("pets", data_dir, str(origin))
    assert len(list((data_dir / "pets" / "cat").iterdir())) == 2


def test_opening_fetches_where_an_origin_is_named(
    data_dir: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="Unknown data set 'pets'"):
        open_prepared("pets", data_dir)
    monkeypatch.setenv("RT_SCALE_DATA_ORIGIN", str(origin))
    assert _same(open_prepared("pets", data_dir), origin)
    assert list(list_prepared(data_dir)) == ["pets"]


def test_what_is_nowhere_is_refused_with_both_places(
    data_dir: Path, origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RT_SCALE_DATA_ORIGIN", str(origin))
    with pytest.raises(InputError, match=rf"'cifar5m' is not prepared in '{data_dir}', nor in '{origin}' \(RT_SCALE_D"):
        open_prepared("cifar5m", data_dir)
    with pytest.raises(InputError, match="Unknown data set 'pest'"):
        open_prepared("pest", data_dir)


def test_the_digits_are_made_here_whatever_the_origin(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RT_SCALE_DATA_ORIGIN", "nowhere://")
    assert open_prepared("digits", data_dir).train.samples == 1437
