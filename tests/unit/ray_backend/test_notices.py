"""A head that no longer answers."""

from __future__ import annotations

import socket
import threading

from rt_scale.ray_backend.control import cluster_lost


def test_a_lost_head_is_told_once() -> None:
    calls: list[str] = []
    told = threading.Event()

    def then() -> None:
        calls.append("lost")
        told.set()

    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    with cluster_lost(address, then, after=0.2):
        assert not told.wait(0.5)
        server.close()
        assert told.wait(30)
        assert not threading.Event().wait(0.5)
    assert calls == ["lost"]


def test_a_head_that_is_back_in_time_is_not_lost() -> None:
    told = threading.Event()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))  # its port is taken, and silent
        with cluster_lost(f"127.0.0.1:{server.getsockname()[1]}", told.set, after=3):
            threading.Event().wait(1)
            server.listen()
            assert not told.wait(3)


def test_nothing_is_told_after_the_end() -> None:
    told = threading.Event()
    with cluster_lost("127.0.0.1:1", told.set, after=0.3):
        pass
    assert not told.wait(1)
