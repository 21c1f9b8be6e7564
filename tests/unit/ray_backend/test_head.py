"""How a lost cluster is noticed; real heads are killed in tests/integration/test_cluster_nodes.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from rt_scale.ray_backend import head
from rt_scale.ray_backend.head import LEFT, SILENT, Trouble, in_words, watch_head

Told = list[tuple[str, Trouble]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "LOOK", 0.02)


def watching(trouble: Callable[[], Trouble | None], seconds: float) -> Told:
    """What is told of a cluster that is watched for so long, or until it was told."""
    told, heard = Told(), threading.Event()

    def lost(since: str, found: Trouble) -> None:
        told.append((since, found))
        heard.set()

    with watch_head(trouble, lost):
        heard.wait(seconds)
        threading.Event().wait(0.1)
    return told


def test_a_lost_head_is_told_once() -> None:
    ((since, found),) = watching(lambda: LEFT, 30)
    assert found is LEFT
    said = in_words("the Ray cluster at 10.0.0.1:6379", since, found)
    assert said.startswith(
        f"the Ray cluster at 10.0.0.1:6379 is lost: this machine is no longer a node of it, since {since}."
    )


def test_trouble_must_last() -> None:
    short = replace(SILENT, patience=0.3)
    found = iter([short] * 3)
    assert watching(lambda: next(found, None), 0.6) == []
    turns = 0

    def again_and_again() -> Trouble | None:
        nonlocal turns
        turns += 1
        return None if turns % 3 == 0 else short

    assert watching(again_and_again, 1.0) == []
    ((_, told),) = watching(lambda: short, 30)
    assert told is short


def test_nothing_is_told_after_the_end() -> None:
    told = threading.Event()
    with watch_head(lambda: replace(SILENT, patience=0.2), lambda *_: told.set()):
        pass
    assert not told.wait(0.5)


def test_an_error_in_between_is_raised_once_the_head_is_there() -> None:
    """One that a lost head caused is not shown: the process ends before."""
    lost, found = threading.Event(), iter([replace(SILENT, patience=60.0)] * 5)
    with pytest.raises(ValueError, match="of Ray"), watch_head(lambda: next(found, None), lambda *_: lost.set()):
        raise ValueError("of Ray")
    assert next(found, None) is None
    with pytest.raises(ValueError, match="of Ray"), watch_head(lambda: LEFT, lambda *_: lost.set()):
        raise ValueError("of Ray")
    assert lost.is_set()  # in a sweep, the process has ended
