from __future__ import annotations

import http.server
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from rt_scale.spec.errors import InputError, StoreUnavailable
from rt_scale.store.objects import bucket as bucket_module
from rt_scale.store.objects.bucket import Bucket, Entry
from rt_scale.store.objects.uri import clean_address
from tests.unit.store.objects.fake import Objects


@pytest.fixture
def objects() -> Objects:
    return Objects(lambda: 1000.7)


class Failing:
    """Fails the first ``times`` operations."""

    def __init__(self, times: int, error: Exception | None = None) -> None:
        self.times, self.error, self.failed = times, error or GenericError("error sending request"), 0

    def __call__(self, operation: str, key: str) -> None:
        if self.failed < self.times:
            self.failed += 1
            raise self.error


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses, which take no time but on the watch of who tries again."""
    pauses: list[float] = []
    monkeypatch.setattr(bucket_module.time, "sleep", pauses.append)
    monkeypatch.setattr(bucket_module.time, "monotonic", lambda: sum(pauses))
    return pauses


def dated(bucket: Bucket, prefix: str) -> dict[str, tuple[int, float]]:
    return {key: (entry.size, entry.changed) for key, entry in bucket.entries(prefix).items()}


def test_objects_and_files(objects: Objects, tmp_path: Path) -> None:
    bucket = objects.bucket()
    bucket.put("a/b.x", b"12")
    (tmp_path / "file").write_bytes(b"345")
    bucket.put_file("a/c/d", tmp_path / "file")
    assert dated(bucket, "a") == dated(bucket, "") == {"a/b.x": (2, 1000.0), "a/c/d": (3, 1000.0)}
    assert (bucket.get("a/b.x"), bucket.get("a/x")) == (b"12", None)
    copy = tmp_path / "deep" / "copy"
    assert bucket.get_file("a/c/d", copy) == bucket.entries("a")["a/c/d"].tag
    assert bucket.look("a/c/d") == bucket.entries("a")["a/c/d"]
    assert copy.read_bytes() == b"345"
    assert (bucket.get_file("a/x", copy), bucket.look("a/x")) == (None, None)
    assert copy.read_bytes() == b"345"
    assert [path.name for path in copy.parent.iterdir()] == ["copy"]
    bucket.delete(["a/b.x"])
    bucket.delete(["a/b.x"])
    bucket.delete([])
    bucket.delete_folder("a")
    bucket.delete_folder("a")
    assert bucket.entries("") == {}
    bucket.check_writable()
    assert objects.keys() == []


def test_a_file_that_is_gone_is_no_missing_bucket(objects: Objects, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        objects.bucket().put_file("a", tmp_path / "gone")


def test_marks_of_folders_and_names_that_lead_elsewhere_are_passed_over(objects: Objects) -> None:
    objects.write("runs/../../x", b"1")
    for key in ("runs", "runs/a/lease", "runs/a/lease/1.x.end", "runs/a/checkpoints/4"):
        objects.write(key, b"")
    assert list(objects.bucket().entries("")) == ["runs/a/lease/1.x.end"]


def test_of_those_who_create_an_object_one_does(objects: Objects, watch: list[float]) -> None:
    bucket = objects.bucket(patience=120.0)
    assert bucket.create("a", b"first")
    assert not bucket.create("a", b"second")

    class Lost(Objects):
        """The object is written, and the answer gets lost."""

        def put(self, key: str, file: bytes | Path, mode: str = "overwrite") -> None:
            super().put(key, file, mode)
            if len(self.asked) == 1:
                raise GenericError("connection reset")

    losing = Lost(lambda: 0.0)
    assert losing.bucket(patience=120.0).create("a", b"mine") == losing.bucket().entries("")["a"].tag
    assert not losing.bucket().create("a", b"another's")


def test_the_clock_of_the_server(objects: Objects) -> None:
    assert objects.bucket().now() == 1000.0
    assert objects.keys() == []
    objects.before = Failing(99, PermissionDeniedError("AccessDenied"))
    assert abs(objects.bucket().now() - time.time()) < 60


def test_what_fails_for_a_while_is_tried_again(objects: Objects, watch: list[float]) -> None:
    objects.before = Failing(5)
    objects.bucket(patience=120.0).put("a", b"1")
    assert objects.keys() == ["a"]
    assert len(watch) == 5


def test_patience_ends(objects: Objects, watch: list[float]) -> None:
    objects.before = Failing(10**9)
    bucket = objects.bucket(patience=120.0)
    with pytest.raises(StoreUnavailable) as error:
        bucket.put("runs/a/result.json", b"1")
    assert 100 < sum(watch) <= 120
    assert "did not write 's3://bucket/store/runs/a/result.json' within 120 s (error sending req" in str(error.value)
    assert "Nothing that was computed is lost" in str(error.value)
    before = sum(watch)
    with pytest.raises(StoreUnavailable, match="within 10 s"):
        bucket.get("a")
    assert sum(watch) - before <= 10
    objects.before = lambda operation, key: None
    bucket.put("b", b"")
    objects.before = Failing(10**9)
    with pytest.raises(StoreUnavailable, match="within 120 s"):
        bucket.get("a")
    with pytest.raises(StoreUnavailable, match="within 10 s"):
        bucket.brief().get("a")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError("<Code>NoSuchBucket</Code>"), "There is no bucket 'bucket' for the store 's3://bucket"),
        (PermissionDeniedError("AccessDenied"), "The store refuses to write 's3://bucket/store/a' (AccessDenied)"),
        (GenericError("status code: 403 Forbidden"), "may list, read, write and delete objects in bucket 'bucket'"),
        (GenericError("400 Bad Request <Code>ExpiredToken</Code>"), "Check the credentials"),
        (GenericError("error sending request to http://169.254.169.254/latest/api/token"), "Check the credentials"),
    ],
)
def test_a_refusal_is_told_at_once(objects: Objects, watch: list[float], error: Exception, said: str) -> None:
    objects.before = failing = Failing(10**9, error)
    with pytest.raises(InputError) as refusal:
        objects.bucket(patience=120.0).put("a", b"1")
    assert said in str(refusal.value)
    assert (failing.failed, watch) == (1, [])


def test_what_a_server_quotes_is_not_handed_on(objects: Objects) -> None:
    """Amazon's answer to a wrong signature quotes the request, with its session token; a traceback is recorded."""
    answer = (
        "<Error><Code>SignatureDoesNotMatch</Code><Message>Wrong.</Message><CanonicalRequest>tOkEn</CanonicalRequest>"
    )
    objects.before = Failing(10**9, PermissionDeniedError(f"403 Forbidden: {answer}\n\nDebug source: tOkEn"))
    with pytest.raises(InputError, match=r"\(403 Forbidden: SignatureDoesNotMatch: Wrong\.\)") as refusal:
        objects.bucket().put("a", b"1")
    assert "tOkEn" not in "".join(traceback.format_exception(refusal.value))


def test_a_machine_whose_role_does_not_answer_for_a_while(objects: Objects, watch: list[float]) -> None:
    bucket = objects.bucket(patience=120.0)
    bucket.put("a", b"1")
    objects.before = Failing(3, GenericError("error sending request to http://169.254.169.254/latest/api/token"))
    bucket.put("a", b"2")
    assert len(watch) == 3


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


def test_a_tag_is_the_same_from_whichever_answer(objects: Objects) -> None:
    """Azure quotes it in some; a server may give none when it writes."""
    bucket = objects.bucket()
    tag = bucket.put("a", b"1")
    about, put = objects._about, objects.put
    objects._about = lambda key: {**about(key), "e_tag": f'"{tag}"'}  # type: ignore[method-assign]
    assert [bucket.entries("")["a"].tag, (bucket.look("a") or Entry(0, 0)).tag] == [tag, tag]
    objects._about = lambda key: {**about(key), "e_tag": None}  # type: ignore[method-assign]
    objects.put = lambda *given, **named: {**put(*given, **named), "e_tag": None}  # type: ignore[method-assign]
    assert bucket.put("a", b"2") == bucket.entries("")["a"].tag == "1@1000.0"
    assert bucket.create("b", b"3") == bucket.entries("")["b"].tag


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No setting and no credentials of whoever runs the tests."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(bucket_module, "_S3", "http://127.0.0.1:9")
    return monkeypatch


@pytest.mark.parametrize(
    ("address", "variables", "expected"),
    [
        ("s3://b/a/c?region=eu-west-1", {}, {"bucket": "b", "region": "eu-west-1"}),
        ("s3://b?endpoint_override=h:5&scheme=http", {}, {"endpoint": "http://h:5"}),
        ("s3://b?endpoint_override=http://h:5", {"AWS_ENDPOINT_URL": "http://no"}, {"endpoint": "http://h:5"}),
        ("s3://b", {"AWS_ENDPOINT_URL": "http://h:5/"}, {"endpoint": "http://h:5"}),
        ("s3://b", {"AWS_ENDPOINT_URL": "http://no", "AWS_ENDPOINT_URL_S3": "http://h"}, {"endpoint": "http://h"}),
        ("gs://b/a?endpoint_override=h:5&scheme=http", {}, {"bucket": "b", "base_url": "http://h:5"}),
        ("az://b/a?account=mine", {}, {"container_name": "b", "account_name": "mine"}),
    ],
)
def test_what_obstore_is_told(
    environment: pytest.MonkeyPatch, address: str, variables: dict[str, str], expected: dict[str, str]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    opened: Any = bucket_module._open(clean_address(address))
    assert expected.items() <= opened.config.items()
    assert opened.client_options["allow_http"] in (True, "true") or "http://" not in str(opened.config)
    assert opened.prefix == (address.partition("?")[0].partition("://b")[2].strip("/") or None)


def test_an_azure_store_without_its_account_is_bad_input(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    with pytest.raises(InputError, match=r"'az://box/a' cannot be opened: .*Account must be specified"):
        Bucket.open("az://box/a")


def test_keys_of_a_profile_are_found(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Obstore itself looks at the environment and the machine's role alone."""
    assert bucket_module._profile() is None
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[work]\naws_access_key_id = one\naws_secret_access_key = two\n")
    environment.setenv("AWS_PROFILE", "work")
    provider: Any = bucket_module._profile()
    assert provider()["access_key_id"] == "one"
    environment.setenv("AWS_PROFILE", "typo")
    with pytest.raises(InputError, match=r"~/\.aws gives no credentials: .*typo"):
        Bucket.open("s3://bucket/a?region=here")
    environment.setenv("AWS_ACCESS_KEY_ID", "of the environment")
    assert bucket_module._profile() is None


@pytest.mark.parametrize(
    ("status", "region"), [(200, "eu-north-1"), (301, "eu-north-1"), (403, "eu-north-1"), (404, "")]
)
def test_amazon_is_asked_for_the_region_of_a_bucket(environment: pytest.MonkeyPatch, status: int, region: str) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            assert self.path == "/there"
            self.send_response(status)
            if region:
                self.send_header("x-amz-bucket-region", region)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        environment.setattr(bucket_module, "_S3", f"http://127.0.0.1:{server.server_port}")
        assert bucket_module._region_of("there") == region
        thread.join()
    assert bucket_module._region_of("there") == ""
