"""Standard streams that cannot fail; as whole processes they are in tests/integration/test_output.py."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from rt_scale.system import console
from rt_scale.system.console import lasting_stream, lost, make_streams_last


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was lost before."""
    monkeypatch.setattr(console, "_lost", {})


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("buffered", [True, False])
def test_a_reader_that_left_is_no_error(unread: int, buffered: bool) -> None:
    stream = lasting_stream(unread, "stdout", buffered=buffered)
    for _ in range(3):
        assert stream.write("much\n" * 10_000) == 50_000
        stream.flush()
    stream.close()
    assert lost() == {}


def test_a_full_disk_is_no_error_and_is_named() -> None:
    with open("/dev/full", "wb") as full:
        stream = lasting_stream(full.fileno(), "stderr")
        print("a line", file=stream)
        print("another", file=stream, flush=True)
        assert lost() == {"stderr": "No space left on device"}


@pytest.mark.parametrize("buffered", [True, False])
def test_a_pipe_that_does_not_block_is_waited_for(buffered: bool) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    heard: list[bytes] = []

    def read() -> None:
        with open(reading, "rb") as file:
            heard.append(file.read())

    reader = threading.Thread(target=read)
    reader.start()
    text = "0123456789" * 200_000  # many times what a pipe holds
    stream = lasting_stream(writing, "stdout", owned=True, buffered=buffered)
    stream.write(text)
    stream.close()
    reader.join()
    assert heard == [text.encode()]
    assert lost() == {}


def test_what_a_program_put_in_place_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = io.StringIO(), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    make_streams_last()
    assert (sys.stdout, sys.stderr) == (out, err)


def test_a_closed_stream_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    make_streams_last()
    print("nobody hears this", flush=True)
    os.close(sys.stdout.fileno())
    assert lost() == {}
