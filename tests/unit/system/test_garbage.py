"""Cycles of objects are looked for again, whatever happened while they were not."""

from __future__ import annotations

import gc

import pytest

from rt_scale.system.garbage import no_collection


def test_it_is_paused_and_goes_on_after_an_error() -> None:
    assert gc.isenabled()
    with no_collection():
        assert not gc.isenabled()
        with no_collection():
            pass
        assert not gc.isenabled()
    with pytest.raises(ValueError, match="no"), no_collection():
        raise ValueError("no")
    assert gc.isenabled()
