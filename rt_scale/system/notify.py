"""Notifications: a JSON document to a command's standard input, or by POST to a URL."""

from __future__ import annotations

import http.client
import json
import queue
import re
import shlex
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from rt_scale.spec.errors import InputError, counted, shown

Document = Mapping[str, Any]
URL_SECONDS, COMMAND_SECONDS = 10.0, 30.0
"""How long a URL may take to answer, and a command to end."""


class _Undelivered(Exception):
    """A notification did not arrive; the message says why, without any part of a URL but scheme and host."""


class Notifier:
    """Sends documents to a command or a URL, in order, from a thread of its own (a context manager, used once).

    Leaving it waits for what is not sent yet. A notification that fails is never an error: ``warn`` receives a
    sentence at the end. A URL may hold a secret, so only its scheme and host are shown; of a command only its name.

    Args:
        target: a command with its arguments, executed without a shell; or a URL, http or https.
        warn: receives the sentence.

    Raises:
        InputError: the command does not exist, or the URL is of another scheme, without a host or with a password.
    """

    def __init__(self, target: str, warn: Callable[[str], None]) -> None:
        is_url = re.match(r"\s*[\w+.-]+://", target)
        self.place, self._deliver = _url(target.strip()) if is_url else _command(target)
        self._warn = warn
        self._queue: queue.SimpleQueue[Document | None] = queue.SimpleQueue()
        self._problems: list[str] = []
        self._sent = 0
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self._problems:
            failed = f"{len(self._problems)} of {counted(self._sent, 'notification')}"
            self._warn(f"{failed} to {self.place} failed: {self._problems[-1]}.")

    def send(self, event: str, **fields: object) -> None:
        """Send a document of ``event`` and ``fields`` (plain JSON types), soon; returns at once.

        Documents ``run_failed`` that wait are sent as one: the newest, with the entries of all their lists ``failed``.
        """
        self._queue.put({"event": event, **fields})

    def _work(self) -> None:
        waiting: deque[Document | None] = deque()
        while True:
            if not waiting:
                waiting.append(self._queue.get())
            while not self._queue.empty():
                waiting.append(self._queue.get())
            document = waiting.popleft()
            if document is None:
                return
            while waiting and (newer := waiting[0]) and newer["event"] == document["event"] == "run_failed":
                document = {**newer, "failed": [*document["failed"], *newer["failed"]]}
                waiting.popleft()
            self._sent += 1
            try:
                self._deliver(json.dumps(document).encode())
            except _Undelivered as error:
                self._problems.append(str(error))


def _command(target: str) -> tuple[str, Callable[[bytes], None]]:
    try:
        words = shlex.split(target)
    except ValueError as error:
        raise InputError(f"--notify was given a command that cannot be read: {error}. Close its quotes.") from None
    if not words or shutil.which(words[0]) is None:
        raise InputError(
            f"--notify was given the command {shown(words[0] if words else '')}, which is not found here. Give a "
            "program that exists, with its arguments, or a URL that starts with http:// or https://."
        )

    def deliver(document: bytes) -> None:
        try:
            # A session of its own, so that Ctrl-C ends the sweep and not the message about it.
            ended = subprocess.run(
                words, input=document, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                timeout=COMMAND_SECONDS, start_new_session=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _Undelivered(f"it did not end within {COMMAND_SECONDS:g} seconds") from None
        except OSError as error:
            raise _Undelivered(f"it could not be started ({error.strerror})") from None
        if ended.returncode:
            raise _Undelivered(f"it ended with exit code {ended.returncode}")

    return f"the command {shown(words[0])}", deliver


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as GET, without the document, and perhaps at another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def _url(target: str) -> tuple[str, Callable[[bytes], None]]:
    scheme = target.partition("://")[0]
    if scheme.lower() not in ("http", "https"):
        raise InputError(f"--notify was given a URL of scheme {shown(scheme)}; allowed: http, https, or a command.")
    try:
        parts = urlsplit(target)
        host, port, secret = parts.hostname, parts.port, parts.username is not None
    except ValueError:
        host, port, secret = None, None, False
    if not host or secret or re.search(r"[\s\x00-\x1f]", target):
        raise InputError(
            "--notify was given a URL that cannot be used: it needs a host, a port that is a number if any, and no "
            "user, password or blanks. For a server that asks for a password give a command, such as curl."
        )
    place = f"{scheme.lower()}://{host}" + (f":{port}" if port else "")
    opener = urllib.request.build_opener(_NoRedirect)

    def deliver(document: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "rt-scale"}
        try:
            with opener.open(urllib.request.Request(target, document, headers), timeout=URL_SECONDS):
                return
        except urllib.error.HTTPError as error:
            raise _Undelivered(f"it answered {error.code}") from None
        except TimeoutError:
            raise _Undelivered(f"it did not answer within {URL_SECONDS:g} seconds") from None
        except urllib.error.URLError as error:
            why = error.reason.strerror if isinstance(error.reason, OSError) else None
            raise _Undelivered(f"it cannot be reached ({why or type(error.reason).__name__})") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            # Their messages may hold the URL.
            raise _Undelivered(f"it cannot be reached ({type(error).__name__})") from None

    return place, deliver
