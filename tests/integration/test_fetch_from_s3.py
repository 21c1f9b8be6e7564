"""Prepared data kept in an object store: pyarrow's own S3 client against a server that answers as S3 does."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rt_scale.data.download import fetch
from rt_scale.data.prepare import open_prepared, verify_prepared
from rt_scale.spec.errors import InputError


class _Objects(http.server.SimpleHTTPRequestHandler):
    """Whole objects and byte ranges of them, by GET and HEAD; nothing can be listed."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_GET(self) -> None:
        self._answer(head=False)

    def _answer(self, head: bool) -> None:
        path = Path(self.directory) / self.path.partition("?")[0].lstrip("/")
        if "secret" in path.parts or not path.is_file():
            self.send_response(403 if "secret" in path.parts else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        whole = content = path.read_bytes()
        first = 0
        if asked := self.headers.get("Range"):
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            content = whole[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{first + len(content) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
        self.end_headers()
        if not head:
            self.wfile.write(content)


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder and the s3:// address, without its path, that it is served at; {} stands for the path."""
    (tmp_path / "served" / "bucket").mkdir(parents=True)
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "key"), ("EC2_METADATA_DISABLED", "true")):
        monkeypatch.setenv(f"AWS_{name}", value)
    handler = functools.partial(_Objects, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        where = f"scheme=http&endpoint_override=127.0.0.1:{running.server_port}&region=us-east-1"
        yield tmp_path / "served" / "bucket", f"s3://bucket/{{}}?{where}"
        running.shutdown()
        thread.join()


def test_a_set_is_fetched_from_an_object_store(
    bucket: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = bucket
    kept = open_prepared("digits", folder / "data").sha256
    (folder / "data" / "digits").rename(folder / "data" / "mine")
    monkeypatch.setenv("RT_SCALE_DATA_ORIGIN", address.format("data/"))
    assert open_prepared("mine", tmp_path / "data").sha256 == kept
    assert verify_prepared("mine", tmp_path / "data").train.samples == 1437
    assert fetch("another", tmp_path / "data", address.format("data")) is None


def test_a_store_that_refuses_is_named(bucket: tuple[Path, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Cannot read 's3://bucket/secret.*RT_SCALE_DATA_ORIGIN"):
        fetch("mine", tmp_path / "data", bucket[1].format("secret"))
