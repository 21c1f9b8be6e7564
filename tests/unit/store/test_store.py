"""The store as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store


def test_a_place_that_cannot_hold_folders_is_bad_input() -> None:
    with pytest.raises(InputError, match=r"/proc/nowhere/store' cannot be made.*--store"):
        Store(Path("/proc/nowhere/store")).check_writable()
