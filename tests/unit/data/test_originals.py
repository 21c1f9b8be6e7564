from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt_scale.data.catalogue import DATASETS, DataInfo, Download
from rt_scale.data.datasets.grey import FILES
from rt_scale.data.originals import advice, fetch, find_original
from rt_scale.spec.errors import InputError

Small = Callable[..., DataInfo]


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
    assert advice(info, tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100", "cifar5m"])
def test_the_advice_says_which_file_goes_where(name: str, tmp_path: Path) -> None:
    info = DATASETS[name]
    text = advice(info, tmp_path)
    assert all(each.file in text for each in info.downloads)
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
    fetch(info, tmp_path, None)
    target = tmp_path / "originals" / "mnist" / FILES[2]
    target.write_bytes(b"cut")
    fetch(info, tmp_path, None)
    assert target.read_bytes() == (server[0] / FILES[2]).read_bytes()
    assert _Quiet.requests[4:] == [f"/{FILES[2]}"]


def test_a_wrong_checksum_keeps_nothing(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    (server[0] / FILES[0]).write_bytes(b"something else")
    with pytest.raises(InputError, match=f"Wrong checksum.*{FILES[0]}"):
        fetch(info, tmp_path, None)
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
    info = small("cifar5m", 1, 1, downloads=(Download("part0.npz", published[0].url, ""),))
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
        fetch(info, tmp_path, None)
    assert not list((tmp_path / "originals" / "cifar5m").iterdir())


def test_a_connection_that_ends_early_keeps_nothing(
    small: Small, server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = _publish(*server, ("part0.npz",))
    info = small("cifar5m", 1, 1, downloads=(Download("part0.npz", published[0].url, ""),))
    monkeypatch.setattr(_Quiet, "longer", 10)
    with pytest.raises(InputError, match="ended after 900,000 of 900,010 bytes"):
        fetch(info, tmp_path, None)
    assert not list((tmp_path / "originals" / "cifar5m").iterdir())


def test_a_download_without_room_is_not_begun(
    small: Small, server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    size = len(FILES[0]) * 100_000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, size - 1))  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"Disk full.*{size:,} bytes are needed, {size - 1:,} are free"):
        fetch(info, tmp_path, None)
    assert not list((tmp_path / "originals" / "mnist").iterdir())


def test_a_missing_page_keeps_nothing(small: Small, server: tuple[Path, str], tmp_path: Path) -> None:
    info = small("mnist", 1, 1, downloads=_publish(*server))
    (server[0] / FILES[0]).unlink()
    with pytest.raises(InputError, match=r"could not be downloaded \(HTTP Error 404.*originals/mnist"):
        fetch(info, tmp_path, None)
    assert not list((tmp_path / "originals" / "mnist").iterdir())


def test_without_network_the_advice_is_given(small: Small, tmp_path: Path) -> None:
    gone = (Download("a.tar.gz", "http://127.0.0.1:9/a.tar.gz", "0" * 32),)
    info = small("cifar10", 1, 1, downloads=gone)
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/a\.tar\.gz could not be downloaded.*put a\.tar\.gz"):
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
