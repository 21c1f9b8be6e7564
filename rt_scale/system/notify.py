"""Notifications: a JSON document to a command's standard input, or by POST to a URL."""

from __future__ import annotations

import json
import queue
import re
import shlex
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

from rt_scale.spec.errors import InputError, counted, shown

URL_SECONDS, COMMAND_SECONDS = 10.0, 30.0
"""How long a URL may take to answer, and a command to end."""


class Notifier:
    """Sends documents to a command or a URL, in order, from a thread of its own (a context manager, used once).

    Leaving it waits for what is not sent yet. A notification that fails is never an error: ``warn`` receives a
    sentence at the end, and of failed runs nothing more is sent. A URL may hold a secret, so only its scheme and host
    are shown; of a command only its name.

    Args:
        target: a command with its arguments, executed without a shell; or a URL, http or https; None: nobody is told.

    Raises:
        InputError: the command does not exist, or the URL is of another scheme, without a host or with a password.
    """

    def __init__(self, target: str | None, warn: Callable[[str], None]) -> None:
        self.place = ""
        self._deliver: Callable[[bytes], object] = len  # to nobody
        if target is not None:
            is_url = re.match(r"\s*[\w+.-]+://", target)
            self.place, self._deliver = _url(target.strip()) if is_url else _command(target)
        self._warn = warn
        self._queue: queue.SimpleQueue[dict[str, object] | None] = queue.SimpleQueue()
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)

    def __enter__(self) -> Notifier:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is not sent yet."""
        self._queue.put(None)
        self._thread.join()
        if self._problems:
            self._warn(f"{counted(len(self._problems), 'notification')} to {self.place} failed: {self._problems[-1]}.")

    def send(self, event: str, **fields: object) -> None:
        """Send a document of ``event`` and ``fields`` (plain JSON types), soon; returns at once."""
        self._queue.put({"event": event, **fields})

    def _work(self) -> None:
        while (document := self._queue.get()) is not None:
            # A server that is gone must not delay the end by a time-out for each of many runs.
            if not self._problems or document["event"] != "run_failed":
                try:
                    self._deliver(json.dumps(document).encode())
                except Exception as error:
                    self._problems.append(_why(error))


def _why(error: Exception) -> str:
    """What went wrong, without the messages of libraries, which may hold the URL."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(error, urllib.error.HTTPError):
        return f"it answered {error.code}"
    if isinstance(error, subprocess.CalledProcessError):
        return f"it ended with exit code {error.returncode}"
    if isinstance(cause, TimeoutError | subprocess.TimeoutExpired):
        return "it took too long"
    return f"it cannot be reached ({(cause.strerror if isinstance(cause, OSError) else '') or type(cause).__name__})"


def _command(target: str) -> tuple[str, Callable[[bytes], object]]:
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
        # A session of its own, so that Ctrl-C ends the sweep and not the message about it.
        subprocess.run(
            words, input=document, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=COMMAND_SECONDS,
            start_new_session=True, check=True,
        )  # fmt: skip

    return f"the command {shown(words[0])}", deliver


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as GET, without the document, and perhaps at another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def _url(target: str) -> tuple[str, Callable[[bytes], object]]:
    scheme = target.partition("://")[0].lower()
    if scheme not in ("http", "https"):
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
    opener = urllib.request.build_opener(_NoRedirect)

    def deliver(document: bytes) -> None:
        headers = {"Content-Type": "application/json", "User-Agent": "rt-scale"}
        opener.open(urllib.request.Request(target, document, headers), timeout=URL_SECONDS).close()

    return f"{scheme}://{host}" + (f":{port}" if port else ""), deliver
