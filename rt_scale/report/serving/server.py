"""Serves a report on this machine; its page follows the runs while it is open."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from rt_scale.report.page import Report, live_html, to_html
from rt_scale.report.report import report_points
from rt_scale.report.serving.running import RunsNow, counts_text, running_rows
from rt_scale.report.status import ENDED, status_of_sweep
from rt_scale.spec.errors import InputError, StoreUnavailable
from rt_scale.store.sweep_runs import SweepRuns
from rt_scale.system.signals import stopping_on_signals

PORT = 6007
LOOK = 2.0
"""Least seconds between two looks at the runs."""
LISTING = 15.0
"""Least seconds between two listings of an object store."""
_LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
_FILES = "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; sandbox"
"""What a browser lets a file of the store do that is opened alone."""


class Watched:
    """A report of sweeps, and how their runs stand; ``make`` makes and writes the report.

    Attributes:
        shown: the report as served; replaced as a whole, so that other threads may read it.
        report: as ``make`` made it last.
    """

    def __init__(self, sweeps: Sequence[SweepRuns], make: Callable[[], Report]) -> None:
        self._sweeps, self._make = sweeps, make
        self._ended: set[tuple[str, str]] | None = None
        self._made = 0
        self.look()

    def look(self) -> None:
        """See how the runs stand; the report is made again if one has ended since."""
        points, store = report_points(self._sweeps), self._sweeps[0].store
        early = {name: stop for sweep in self._sweeps for name, stop in sweep.early_stopped.items()}
        preempted = {name: each for sweep in self._sweeps for name, each in sweep.preempted.items()}
        statuses = status_of_sweep(points, store, early, preempted)
        ended = {(row.name, row.state) for row in statuses if row.state in ENDED}
        if ended != self._ended:
            self.report = self._make()
            self._ended, self._made = ended, self._made + 1
        to_sample = sum(sweep.to_sample for sweep in self._sweeps)
        specs = {point.spec.name: point.spec for point in points}
        live = RunsNow(
            running=running_rows(statuses, specs, store, time.time()),
            counts=counts_text(statuses, to_sample),
            over=len(ended) == len(statuses) and not to_sample,
            page=_digest(repr((self._made, [(row.name, row.state, row.attempts) for row in statuses]))),
        )
        self.shown = replace(self.report, statuses=statuses, unsampled=to_sample, live=live, folder=store.root)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Handler(SimpleHTTPRequestHandler):
    """The page at ``/``, how the runs stand at ``/live``, files of the report, and of its runs below ``/runs/``."""

    def __init__(self, *arguments: object, watched: Watched, hosts: Sequence[str]) -> None:
        self._watched, self._hosts, self._policy = watched, hosts, _FILES
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        # Another site's page may reach this server under a name of its own; it has to read nothing.
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if self._hosts and host not in self._hosts:
            self.send_error(HTTPStatus.FORBIDDEN, "This server answers to localhost alone")
            return
        shown, (path, _, _) = self._watched.shown, self.path.partition("?")
        if path in ("/", "/report.html"):
            self._send(to_html(shown))
        elif path == "/live":
            self._send(live_html(shown))
        else:
            below = path.startswith("/runs/")
            self.directory = str(shown.runs if below else self._watched.report.folder)
            self.path = self.path.removeprefix("/runs") if below else self.path
            super().do_GET()

    def do_HEAD(self) -> None:
        """No more than GET."""
        self.send_error(HTTPStatus.NOT_IMPLEMENTED)

    def _send(self, text: str) -> None:
        tag = f'"{_digest(text)}"'
        known, self._policy = self.headers.get("If-None-Match") == tag, ""  # the page has a policy of its own
        self.send_response(HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK)
        self.send_header("ETag", tag)
        self.send_header("Cache-Control", "no-cache")
        data = b"" if known else text.encode()
        if not known:
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        if self._policy:
            self.send_header("Content-Security-Policy", self._policy)
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the terminal is for people."""


def serve_report(
    sweeps: Sequence[SweepRuns],
    make: Callable[[], Report],
    *,
    host: str,
    port: int,
    say: Callable[[str], None],
    show: Callable[[str], None] | None = None,
    interval: float = LOOK,
) -> None:
    """Serve one report until interrupted (Ctrl-C, SIGTERM, SIGHUP); from the main thread only.

    Args:
        sweeps: of the report, all of one store.
        make: makes and writes the report; called once before, and again whenever a run has ended.
        host: address to listen on; ``localhost`` answers to this machine alone.
        port: 0: any free port.
        say: receives lines for people.
        show: opens the address in a browser; None: nothing does.
        interval: least seconds between two looks at the runs.

    Raises:
        InputError: host or port is taken or not allowed, or the report cannot be made.
    """
    hosts = _LOCAL if host in _LOCAL else ()
    with _listening(host, port) as server:
        watched = Watched(sweeps, make)
        server.RequestHandlerClass = partial(_Handler, watched=watched, hosts=hosts)
        thread = threading.Thread(target=server.serve_forever, name="report", daemon=True)
        thread.start()
        address = f"http://{host}:{server.server_address[1]}/"
        say(f"Report: {address} (Ctrl-C ends it)")
        if show is not None:
            show(address)
        _follow(watched, sweeps[0], interval)
        server.shutdown()
    say(f"Ended. The report stays: open {_page(watched.report).as_uri()}")


def _follow(watched: Watched, sweep: SweepRuns, interval: float) -> None:
    """Look at the runs until a signal comes."""
    with suppress(KeyboardInterrupt), stopping_on_signals(lambda text: None) as asked:
        while not asked():
            until = time.monotonic() + interval
            with suppress(StoreUnavailable):  # tried again at the next look
                sweep.store.refresh(events=False, younger=LISTING)
                watched.look()
            while not asked() and (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 0.2))


def _listening(host: str, port: int) -> ThreadingHTTPServer:
    try:
        return ThreadingHTTPServer((host.strip("[]"), port), SimpleHTTPRequestHandler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"The report cannot be served on {host}, port {port}: {reason}. Choose another --port (0: a free one) or "
            "--host."
        ) from error


def _page(report: Report) -> Path:
    return next(path for path in report.files if path.suffix == ".html").absolute()
