"""Objects below a prefix of S3, Google Cloud Storage or Azure, through obstore."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, overload
from urllib.parse import urlsplit

from rt_scale.spec.errors import InputError, StoreUnavailable
from rt_scale.store.atomic import disk_errors
from rt_scale.store.objects.uri import address_options, server_of
from rt_scale.system.files import remove, temporary_name

if TYPE_CHECKING:
    from obstore import ObjectMeta, PutResult
    from obstore.store import ObjectStoreMethods, RetryConfig, S3CredentialProvider

T = TypeVar("T")
R = TypeVar("R")
PATIENCE = 120.0
"""Seconds for which an operation is retried before it counts as failed."""
BRIEF = 10.0
"""The same while a process ends, for a heartbeat, and after an operation that failed."""
_PAUSE = 1.0
"""Seconds between two of obstore's own series of retries."""
_THREADS = 16
_BLOCK = 1 << 24
_LISTED = 1000
_ROLES = "169.254.169.254"
"""The server of a machine's role credentials, on all clouds."""
_DENIED = ("401 Unauthorized", "403 Forbidden", "ExpiredToken", "InvalidToken")
_THROTTLED = ("SlowDown", "503 Service Unavailable", "429 Too Many Requests")
_S3 = "https://s3.amazonaws.com"

_RETRIES: RetryConfig = {
    "max_retries": 100,
    "retry_timeout": timedelta(seconds=5),  # obstore handles an interrupt only between two series of retries
    "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=3)},
}


class Entry(NamedTuple):
    """An object: size in bytes, and last change in seconds since 1970 by the server's clock (whole ones on S3).

    ``tag`` is the e-tag without quotes, which some servers give in one answer only; it changes with the contents.
    """

    size: int
    changed: float
    tag: str = ""

    @staticmethod
    def of(found: ObjectMeta) -> Entry:
        """Of obstore's description."""
        changed = found["last_modified"].timestamp()
        return Entry(found["size"], changed, _plain(found["e_tag"]) or f"{found['size']}@{changed}")


def _plain(tag: str | None) -> str:
    return (tag or "").strip('"')


class Bucket:
    """The objects of an object store below a prefix; keys are relative to it.

    Every request raises InputError if the store refuses it or has no such bucket, StoreUnavailable if it is silent.

    Attributes:
        address: of the prefix, for people.
        patience: seconds for which an operation is retried.
    """

    def __init__(self, objects: ObjectStoreMethods, address: str, patience: float = PATIENCE) -> None:
        """The objects at ``address``, accessed through obstore's ``objects``."""
        self._objects, self.address, self.patience = objects, address, patience
        self._bucket = urlsplit(address).netloc
        self._failed = self._answered = False

    @staticmethod
    def open(address: str) -> Bucket:
        """The objects at ``address``, a result of ``uri.clean_address``; InputError if obstore cannot open it."""
        from obstore.exceptions import BaseError

        try:
            return Bucket(_open(address), address)
        except (BaseError, ValueError) as error:
            raise InputError(f"The store '{address}' cannot be opened: {_in_a_line(error)}") from None

    def brief(self) -> Bucket:
        """The same objects, with a patience of at most :data:`BRIEF`."""
        return Bucket(self._objects, self.address, min(BRIEF, self.patience))

    def name(self, key: str) -> str:
        """The object's address, for messages."""
        head, mark, query = self.address.partition("?")
        return f"{head}/{key}{mark}{query}"

    def put(self, key: str, data: bytes) -> str:
        """Write an object atomically; returns its tag."""
        return self._tag(key, self._write(key, lambda: self._objects.put(key, data)))

    def put_file(self, key: str, path: Path) -> str:
        """Write a file's contents as an object; returns its tag; FileNotFoundError if there is no file."""
        try:
            return self._tag(key, self._write(key, lambda: self._objects.put(key, path)))
        except InputError:
            path.stat()  # obstore answers the same where there is no file and where there is no bucket
            raise

    def create(self, key: str, data: bytes) -> str | None:
        """Create an object; its tag, or None if it exists.

        Processes must write different ``data``, by which retries are found.
        """
        from obstore.exceptions import AlreadyExistsError

        def write() -> PutResult | None:
            try:
                return self._objects.put(key, data, mode="create")
            except AlreadyExistsError:
                return None

        written = self._write(key, write)
        if written is not None:
            return self._tag(key, written)
        # If the answer to a try was lost, the retry finds our own object.
        return self._tag(key, {"e_tag": None, "version": None}) if self.get(key) == data else None

    def _tag(self, key: str, written: PutResult) -> str:
        """The tag of an object that was written; asked for if the answer did not hold it."""
        if written["e_tag"]:
            return _plain(written["e_tag"])
        entry = self.look(key)
        return entry.tag if entry else ""

    def _write(self, key: str, write: Callable[[], T]) -> T:
        try:
            return self._tried("write", key, write)
        except FileNotFoundError:
            raise self._no_bucket() from None

    def get(self, key: str) -> bytes | None:
        """An object's contents; None if there is none."""
        try:
            return self._tried("read", key, lambda: bytes(self._objects.get(key).bytes()))
        except FileNotFoundError:
            return None

    def look(self, key: str) -> Entry | None:
        """What there is of an object, whether or not it is listed yet; None if there is none."""
        try:
            return self._tried("look at", key, lambda: Entry.of(self._objects.head(key)))
        except FileNotFoundError:
            return None

    def get_file(self, key: str, path: Path) -> str | None:
        """Replace the file ``path`` by an object, and return the object's tag; None if there is no object."""
        temporary = temporary_name(path)

        def read() -> str:
            found = self._objects.get(key)
            with disk_errors(path), open(temporary, "wb") as out:
                for block in found.stream(_BLOCK):
                    out.write(block)
            return Entry.of(found.meta).tag

        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        try:
            tag = self._tried("read", key, read)
            os.replace(temporary, path)
        except FileNotFoundError:
            return None
        finally:
            remove(temporary)
        return tag

    @overload
    def entries(self, prefix: str) -> dict[str, Entry]: ...

    @overload
    def entries(self, prefix: str, most: int) -> dict[str, Entry] | None: ...

    def entries(self, prefix: str, most: int | None = None) -> dict[str, Entry] | None:
        """Every object below the folder ``prefix``: key -> entry; None if there are more than ``most``.

        Omits keys with ``..``, and the empty objects by which some tools, and rt-scale before December 2026, mark
        folders.
        """

        def look() -> dict[str, Entry] | None:
            entries: dict[str, Entry] = {}
            for page in self._objects.list(prefix or None, chunk_size=_LISTED):
                entries |= _described(page)
                if most is not None and len(entries) > most:
                    return None
            return entries

        return self._tried("list", prefix, look)

    def entries_of(self, folder: str, names: Sequence[str]) -> dict[str, Entry]:
        """As :meth:`entries` of a ``folder`` with very many objects below its sorted folders ``names``, in parallel."""
        # Azure has no listing that starts within; obstore would list all, and leave out the first part.
        size = len(names) if self.address.startswith("az:") else max(1, -(-len(names) // _THREADS))
        starts = [names[first] for first in range(0, len(names), max(1, size))]

        def look(start: str, end: str) -> dict[str, Entry]:
            entries: dict[str, Entry] = {}
            for page in self._objects.list(folder, offset=f"{folder}/{start}", chunk_size=_LISTED):
                entries |= _described(page)
                if end and page[-1]["path"] >= f"{folder}/{end}":
                    break
            return entries

        ranges = zip(starts, [*starts[1:], ""], strict=True)
        parts = self.each(lambda each: self._tried("list", folder, lambda: look(*each)), ranges)
        return {key: entry for part in parts for key, entry in part.items()}

    def folders(self, prefix: str) -> set[str]:
        """The names of the folders in the folder ``prefix``."""
        found = self._tried("list", prefix, lambda: self._objects.list_with_delimiter(prefix))
        return {folder.rpartition("/")[2] for folder in found["common_prefixes"]} - {".."}

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects, in one request on S3; those that do not exist are no error."""
        if keys:
            with contextlib.suppress(FileNotFoundError):
                self._tried("remove", keys[0], lambda: self._objects.delete(list(keys)))

    def delete_folder(self, prefix: str) -> None:
        """Remove every object below ``prefix``."""
        self.delete(list(self.entries(prefix)))

    def now(self) -> float:
        """Seconds since 1970 by the server's clock, which dates the objects; by ours if the store is read-only."""
        try:
            return self.check_writable()
        except InputError:
            return time.time()

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """``work(item)`` of every item, in parallel threads; raises the first error."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return [done.result() for done in [pool.submit(work, item) for item in items]]

    def check_writable(self) -> float:
        """Write an object and remove it; returns its date, in seconds since 1970 by the server's clock."""
        key = f"clock/{secrets.token_hex(8)}"
        self.put(key, b"")
        found = self._tried("look at", key, lambda: Entry.of(self._objects.head(key)))
        self.delete([key])
        return found.changed

    def _tried(self, what: str, key: str, operation: Callable[[], T]) -> T:
        """Retry an operation until it succeeds; ``what`` is its verb, for messages. Passes FileNotFoundError on."""
        from obstore.exceptions import BaseError

        patience = min(BRIEF, self.patience) if self._failed else self.patience
        deadline = time.monotonic() + patience
        while True:
            try:
                value = operation()
            except BaseError as error:
                self._refuse(what, key, error)
                if time.monotonic() + _PAUSE > deadline:
                    self._failed = True
                    raise StoreUnavailable(
                        f"The store did not {what} '{self.name(key)}' within {patience:g} s ({_in_a_line(error)}). "
                        "Nothing that was computed is lost: it is in this machine's mirror of the store, and the same "
                        f"command on this machine resumes from there. {_advice(error)}"
                    ) from None
                time.sleep(_PAUSE)
            else:
                self._failed, self._answered = False, True
                return value

    def _refuse(self, what: str, key: str, error: Exception) -> None:
        """InputError for an error that retries cannot solve."""
        from obstore.exceptions import InvalidPathError, PermissionDeniedError, UnauthenticatedError

        text = str(error)
        if "404 Not Found" in text:
            raise self._no_bucket() from None
        if isinstance(error, InvalidPathError):
            raise InputError(
                f"'{self.name(key)}' holds an object whose name is no path ({_in_a_line(error)}). Remove that object, "
                "or choose another store with --store or RT_SCALE_STORE."
            ) from None
        # obstore asks the role server when it finds no credentials; outside a cloud there is none.
        denied = any(word in text for word in _DENIED) or (_ROLES in text and not self._answered)
        if denied or isinstance(error, PermissionDeniedError | UnauthenticatedError):
            raise InputError(
                f"The store refuses to {what} '{self.name(key)}' ({_in_a_line(error)}). Check the credentials in the "
                "environment, and that they may list, read, write and delete objects in bucket "
                f"'{self._bucket}'."
            ) from None

    def _no_bucket(self) -> InputError:
        return InputError(
            f"There is no bucket '{self._bucket}' for the store '{self.address}'. Create it, or check its name, its "
            "region and the endpoint; rt-scale creates no buckets."
        )


def _described(page: Sequence[ObjectMeta]) -> dict[str, Entry]:
    return {
        found["path"]: Entry.of(found)
        for found in page
        if (found["size"] or "." in found["path"].rpartition("/")[2]) and ".." not in found["path"].split("/")
    }


def _open(address: str) -> ObjectStoreMethods:
    """Obstore's objects at ``address``; obstore takes missing options from the environment."""
    from obstore.store import from_url  # a store in a folder does not need it

    parts, options = urlsplit(address), address_options(address)
    server = (options.get("endpoint_override") or server_of(address)).rstrip("/")
    if server and "://" not in server:
        server = f"{options.get('scheme', 'https')}://{server}"
    config: dict[str, Any] = {"base_url" if parts.scheme == "gs" else "endpoint": server} if server else {}
    if parts.scheme == "s3" and (region := options.get("region") or ("" if server else _region_of(parts.netloc))):
        config["region"] = region
    if "account" in options:
        config["account_name"] = options["account"]
    settings: Any = {
        "config": config,
        "client_options": {"allow_http": server.startswith("http://"), "read_timeout": "60s", "timeout": "600s"},
        "retry_config": _RETRIES,
        "credential_provider": _profile() if parts.scheme == "s3" else None,
    }
    objects: ObjectStoreMethods = from_url(parts._replace(query="").geturl(), **settings)
    return objects


def _profile() -> S3CredentialProvider | None:
    """The credentials of a profile in ~/.aws, which obstore does not read, unless the environment holds some."""
    home = Path.home() / ".aws"
    files = [
        os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials",
        os.environ.get("AWS_CONFIG_FILE") or home / "config",
    ]
    if os.environ.get("AWS_ACCESS_KEY_ID") or not any(map(os.path.isfile, files)):
        return None
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider  # takes a moment to import

    try:
        return Boto3CredentialProvider()
    except ValueError:  # there are none
        return None
    except BotoCoreError as error:
        raise ValueError(f"~/.aws gives no credentials: {error}") from error


def _region_of(bucket: str) -> str:
    """The region of a bucket on Amazon S3, by an anonymous request; empty if unknown."""
    import urllib.error
    import urllib.request  # takes a moment to import, as does what it needs

    try:
        with urllib.request.urlopen(urllib.request.Request(f"{_S3}/{bucket}", method="HEAD"), timeout=10) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        headers = error.headers
    except OSError:
        return ""
    return headers.get("x-amz-bucket-region") or ""


def _advice(error: Exception) -> str:
    if any(word in str(error) for word in _THROTTLED):
        return "The server throttles: execute fewer runs at a time (--concurrency), and wait before you start again."
    return "Check the network and the endpoint first."


def _in_a_line(error: Exception) -> str:
    """The error's text, shortened; of a server's answer, which may quote a token, only code and message."""
    head, answer, body = str(error).partition("Debug source:")[0].rpartition(" - ")[2].partition("<")
    found = re.search(r"Code>(.*?)</Code>.*?<Message>(.*?)</Message>", body, re.DOTALL) if answer else None
    return " ".join((head + ": ".join(found.groups() if found else ())).split())[:300]
