from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store.board_server import serve


def test_a_port_in_use_is_bad_input(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"{port}.*--port"):
            serve(tmp_path, print, title="demo", port=port)
