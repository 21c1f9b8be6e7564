from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt_scale.data import download
from rt_scale.data.catalogue import DATASETS
from rt_scale.data.datasets.base import DataSet, Download, Release
from rt_scale.data.datasets.grey import FILES
from rt_scale.data.download import fetch, find_original, open_origin
from rt_scale.data.prepare import Prepared, list_prepared, open_prepared, prepare, verify_prepared
from rt_scale.spec.errors import InputError, RunError

Small = Callable[..., DataSet]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    requests: list[str] = []  # noqa: RUF012 - one server a test
    announced: dict[str, str] = {}  # noqa: RUF012 - headers sent with every answer, the same

    longer = 0
    """Bytes that the announced length is too long by."""

    def send_header(self, keyword: str, value: str) -> None:
        wrong = str(int(value) + self.longer) if keyword == "Content-Length" else value
        super().send_header(keyword, wrong)

    def end_headers(self) -> None:
        for name, value in self.announced.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_: object) -> None:
        self.requests.append(self.path)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address it is served at."""
    folder = tmp_path / "served"
    folder.mkdir()
    _Quiet.requests.clear()
    _Quiet.announced.clear()
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
        thread.join()


def _publish(folder: Path, url: str, names: tuple[str, ...] = FILES) -> tuple[Download, ...]:
    for name in names:
        (folder / name).write_bytes(name.encode() * 100_000)
    return tuple(Download(name, url + name, hashlib.md5((folder / name).read_bytes()).hexdigest()) for name in names)


def test_nothing_is_downloaded_unless_asked(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    with pytest.raises(InputError) as caught:
        find_original(info, tmp_path, False, None)
    assert not _Quiet.requests
    assert "--download" in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "cifar5m"])
def test_the_advice_says_which_file_goes_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        find_original(dataclasses.replace(DATASETS[name], package_folder=""), tmp_path, False, None)
    text = str(caught.value)
    assert all(each.file in text for each in DATASETS[name].downloads)
    assert str(tmp_path / "originals" / name) in text
    assert f"rt-scale data prepare {name} --data-dir {tmp_path} --from PATH" in text
    assert "--download" in text
    assert ("dataset-fashion-mnist" in text) is (name == "fashion_mnist")


def test_a_download_is_checked_kept_and_not_repeated(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    seen: list[tuple[int, int]] = []
    folder = find_original(info, tmp_path, True, lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "originals" / "mnist"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert all((folder / name).read_bytes() == (server[0] / name).read_bytes() for name in FILES)
    size = len(FILES[0]) * 100_000
    assert (size, size) in seen
    assert len(_Quiet.requests) == 4
    assert find_original(info, tmp_path, True, None) == find_original(info, tmp_path, False, None) == folder
    assert len(_Quiet.requests) == 4


def test_a_damaged_file_is_fetched_again(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    find_original(info, tmp_path, True, None)
    target = tmp_path / "originals" / "mnist" / FILES[2]
    target.write_bytes(b"cut")
    find_original(info, tmp_path, True, None)
    assert target.read_bytes() == (server[0] / FILES[2]).read_bytes()
    assert _Quiet.requests[4:] == [f"/{FILES[2]}"]


def test_a_wrong_checksum_keeps_nothing(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    (server[0] / FILES[0]).write_bytes(b"something else")
    with pytest.raises(InputError, match=f"Wrong checksum.*{FILES[0]}"):
        find_original(info, tmp_path, True, None)
    assert not list((tmp_path / "originals" / "mnist").iterdir())


def _goog_hash(content: bytes) -> dict[str, str]:
    digest = base64.b64encode(hashlib.md5(content).digest()).decode()
    return {"x-goog-hash": f"crc32c=AAAAAA==,md5={digest}"}


@pytest.mark.parametrize(
    "announced", [{}, {"x-goog-hash": "crc32c=AAAAAA=="}, {"x-goog-hash": "md5=?"}, _goog_hash(b"part0.npz" * 100_000)]
)
def test_a_file_without_published_checksum_is_kept_and_not_fetched_again(
    small: Small, server: tuple[Path, str], tmp_path: Path, announced: dict[str, str]
) -> None:
    published = _publish(*server, ("part0.npz",))
    info = small(
        "cifar5m", 1, 1, downloads=(Download("part0.npz", published[0].url, ""),), releases=(Release(("part0.npz",)),)
    )
    _Quiet.announced.update(announced)
    for _ in range(2):
        folder = find_original(info, tmp_path, True, None)
        assert (folder / "part0.npz").read_bytes() == (server[0] / "part0.npz").read_bytes()
    assert find_original(info, tmp_path, False, None) == folder
    assert _Quiet.requests == ["/part0.npz"]


def test_the_checksum_that_the_server_announces_counts(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    published = _publish(*server, ("part0.npz",))
    info = small("cifar5m", 1, 1, downloads=(Download("part0.npz", published[0].url, ""),))
    _Quiet.announced.update(_goog_hash(b"another"))
    expected = hashlib.md5(b"another").hexdigest()
    with pytest.raises(InputError, match=f"Wrong checksum.*part0.npz.*expected is {expected}"):
        find_original(info, tmp_path, True, None)
    assert not list((tmp_path / "originals" / "cifar5m").iterdir())


def test_a_connection_that_ends_early_keeps_nothing(
    small: Small, server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = _publish(*server, ("part0.npz",))
    info = small("cifar5m", 1, 1, downloads=(Download("part0.npz", published[0].url, ""),))
    monkeypatch.setattr(_Quiet, "longer", 10)
    with pytest.raises(InputError, match="ended after 900,000 of 900,010 bytes"):
        find_original(info, tmp_path, True, None)
    assert not list((tmp_path / "originals" / "cifar5m").iterdir())


def test_a_download_without_room_is_not_begun(
    small: Small, server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    size = len(FILES[0]) * 100_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, size - 1))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"Disk full.*{size:,} bytes are needed, {size - 1:,} are free"):
        find_original(info, tmp_path, True, None)
    assert not list((tmp_path / "originals" / "mnist").iterdir())


def test_a_missing_page_keeps_nothing(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    (server[0] / FILES[0]).unlink()
    with pytest.raises(InputError, match=r"Cannot read 'http.*HTTP Error 404.*originals/mnist"):
        find_original(info, tmp_path, True, None)
    assert not list((tmp_path / "originals" / "mnist").iterdir())


def test_without_network_the_advice_is_given(small: Small, tmp_path: Path) -> None:
    gone = (Download("a.tar.gz", "http://127.0.0.1:9/a.tar.gz", "0" * 32),)
    info = small("cifar10", 1, 1, downloads=gone)
    with pytest.raises(InputError, match=r"Cannot read 'http://127\.0\.0\.1:9/a\.tar\.gz'.*put a\.tar\.gz"):
        find_original(info, tmp_path, True, None)
    assert not list((tmp_path / "originals" / "cifar10").iterdir())


def test_what_a_package_installed_is_found_first(small: Small, tmp_path: Path) -> None:
    installed = tmp_path / "share"
    installed.mkdir()
    info = small("fashion_mnist", 1, 1, package_folder=str(installed), downloads=())
    for name in FILES:
        (installed / f"{name}.gz").write_bytes(b"")
    assert find_original(info, tmp_path, False, None) == installed
    assert find_original(info, tmp_path, True, None) == installed


def test_an_original_put_in_its_place_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "originals" / "cifar10"
    folder.mkdir(parents=True)
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"")
    assert find_original(DATASETS["cifar10"], tmp_path, False, None) == folder


@pytest.mark.parametrize("holder", ["stl10", "stl10_unlabeled"])
def test_sets_of_the_same_files_share_them(tmp_path: Path, holder: str) -> None:
    folder = tmp_path / "originals" / holder
    folder.mkdir(parents=True)
    (folder / "stl10_binary.tar.gz").write_bytes(b"")
    for name in ("stl10", "stl10_unlabeled"):
        assert find_original(DATASETS[name], tmp_path, False, None) == folder
    with pytest.raises(InputError, match="tiny_imagenet"):
        find_original(DATASETS["tiny_imagenet"], tmp_path, False, None)
    own = tmp_path / "originals" / "stl10_unlabeled"
    own.mkdir(exist_ok=True)
    for name in ("unlabeled_X.bin", "test_X.bin", "test_y.bin"):
        (own / name).write_bytes(b"")
    assert find_original(DATASETS["stl10_unlabeled"], tmp_path, False, None) == own
    assert find_original(DATASETS["stl10"], tmp_path, False, None) == folder


def test_files_that_another_set_has_are_not_downloaded_again(
    small: Small, server: tuple[Path, str], tmp_path: Path
) -> None:
    published = _publish(*server, ("stl10_binary.tar.gz",))
    infos = [small(name, 1, 1, downloads=published) for name in ("stl10", "stl10_unlabeled")]
    folders = {find_original(info, tmp_path, True, None) for info in infos}
    assert folders == {tmp_path / "originals" / "stl10"}
    assert _Quiet.requests == ["/stl10_binary.tar.gz"]


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
    store, folder = open_origin(origin)
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
    with pytest.raises(InputError, match=rf"Cannot read '{origin}/pets'.*format: Input should be 1"):
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
    monkeypatch.setattr(download, "_copy", None)
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
    with pytest.raises(InputError, match="holds other files"):
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
