from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rt_scale.spec.errors import InputError, StoreAway
from rt_scale.store.objects import retries
from rt_scale.store.objects.bucket import Bucket, Entry, changed_entries
from tests.unit.store.objects.fake import Objects


@pytest.fixture
def objects() -> Objects:
    return Objects(lambda: 1000.7)


class Away:
    """Fails the first ``times`` operations."""

    def __init__(self, times: int, text: str = "AWS Error NETWORK_CONNECTION") -> None:
        self.times, self.text, self.failed = times, text, 0

    def __call__(self, operation: str, key: str) -> None:
        if self.failed < self.times:
            self.failed += 1
            raise OSError(self.text)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses, which take no time but on the watch of who tries again."""
    pauses: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", pauses.append)
    monkeypatch.setattr(retries.time, "monotonic", lambda: sum(pauses))
    return pauses


def test_objects_and_files(objects: Objects, tmp_path: Path) -> None:
    bucket = objects.bucket()
    bucket.put("a/b", b"12")
    (tmp_path / "file").write_bytes(b"345")
    bucket.put_file("a/c/d", tmp_path / "file")
    assert bucket.entries("a") == {"a/b": Entry(2, 1000.0), "a/c/d": Entry(3, 1000.0)}
    assert bucket.entries("") == bucket.entries("a")
    assert (bucket.get("a/b"), bucket.get("a/x")) == (b"12", None)
    copy = tmp_path / "deep" / "copy"
    assert bucket.get_file("a/c/d", copy, changed=77.0)
    assert (copy.read_bytes(), copy.stat().st_mtime) == (b"345", 77.0)
    assert not bucket.get_file("a/x", copy)
    assert copy.read_bytes() == b"345"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    bucket.delete("a/b")
    bucket.delete("a/b")
    bucket.delete_folder("a")
    bucket.delete_folder("a")
    assert bucket.entries("") == {}
    bucket.check_writable()
    assert objects.keys() == []


def test_names_that_lead_elsewhere_are_passed_over(objects: Objects) -> None:
    for key in ("runs/../../x", "runs//x", "runs/./x", "runs/y"):
        objects.put(f"bucket/store/{key}", b"")
    assert list(objects.bucket().entries("")) == ["runs/y"]


def test_the_clock_of_the_server(objects: Objects) -> None:
    assert objects.bucket().now() == 1000.0
    assert objects.keys() == []
    objects.before = Away(99, "AWS Error ACCESS_DENIED during PutObject")
    assert abs(objects.bucket().now() - time.time()) < 60


def test_what_fails_for_a_while_is_tried_again(objects: Objects, watch: list[float]) -> None:
    objects.before = Away(5)
    objects.bucket(patience=120.0).put("a", b"1")
    assert objects.keys() == ["a"]
    assert len(watch) == 5
    for number, pause in enumerate(watch):
        assert 0.5 <= pause / (0.2 * 2**number) <= 1.5
    other: list[float] = list(watch)
    watch.clear()
    objects.before = Away(5)
    objects.bucket(patience=120.0).put("a", b"1")
    assert watch != other  # processes that failed together do not come again together


def test_patience_ends(objects: Objects, watch: list[float]) -> None:
    objects.before = Away(10**9)
    bucket = objects.bucket(patience=120.0)
    with pytest.raises(StoreAway) as error:
        bucket.put("runs/a/result.json", b"1")
    assert 100 < sum(watch) <= 120
    assert max(watch) <= 15
    assert "did not write 's3://bucket/store/runs/a/result.json' within 120 s (AWS Error NETWORK" in str(error.value)
    assert "Nothing that was computed is lost" in str(error.value)
    before = sum(watch)
    with pytest.raises(StoreAway, match="within 10 s"):
        bucket.get("a")
    assert sum(watch) - before <= 10
    objects.before = lambda operation, key: None
    assert bucket.get("a") is None or bucket.get("a")
    bucket.put("b", b"")
    objects.before = Away(10**9)
    with pytest.raises(StoreAway, match="within 120 s"):
        bucket.get("a")
    with bucket.brief() as quick, pytest.raises(StoreAway, match="within 10 s"):
        quick.get("a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("AWS Error NO_SUCH_BUCKET during PutObject operation", "There is no bucket 'bucket' for the store 's3://bu"),
        ("AWS Error ACCESS_DENIED during PutObject", "The store refuses to write 's3://bucket/store/a' (AWS Error A"),
        ("AWS Error UNKNOWN (HTTP status 403)", "may list, read, write and delete objects in bucket 'bucket'"),
        ("Unable to parse ExceptionName: ExpiredToken Message: The provided token", "Check the credentials"),
    ],
)
def test_a_refusal_is_told_at_once(objects: Objects, watch: list[float], text: str, said: str) -> None:
    objects.before = away = Away(10**9, text)
    with pytest.raises(InputError) as refusal:
        objects.bucket(patience=120.0).put("a", b"1")
    assert said in str(refusal.value)
    assert (away.failed, watch) == (1, [])


def test_a_bucket_that_is_not_there_is_not_an_empty_one(objects: Objects) -> None:
    elsewhere = Bucket(objects, "typo/store", "s3://typo/store")
    with pytest.raises(InputError, match="There is no bucket 'typo'"):
        elsewhere.entries("")


def test_many_at_a_time(objects: Objects) -> None:
    bucket, threads = objects.bucket(), set()
    barrier = threading.Barrier(4, timeout=30)

    def work(name: str) -> None:
        barrier.wait()
        threads.add(threading.get_ident())
        bucket.put(name, b"")

    bucket.each(work, "abcd")
    assert (objects.keys(), len(threads)) == (["a", "b", "c", "d"], 4)

    def fail(name: str) -> Any:
        raise InputError(name)

    with pytest.raises(InputError, match="e"):
        bucket.each(fail, "e")


def test_which_files_are_not_as_listed(tmp_path: Path, objects: Objects) -> None:
    bucket = objects.bucket()
    for name in ("same", "larger", "younger"):
        bucket.put(name, b"1")
        bucket.get_file(name, tmp_path / name, changed=1000.0)
    entries = {"same": Entry(1, 1000.0), "larger": Entry(2, 1000.0), "younger": Entry(1, 1001.0), "new": Entry(0, 0.0)}
    assert [name for name, _ in changed_entries(entries, tmp_path)] == ["larger", "younger", "new"]
