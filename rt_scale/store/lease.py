"""The lease of a run directory: at most one process writes it, and another takes over when that process ends.

Attempt n is the file ``lease/<n>.json``, n from 1, created exclusively; the highest number owns the run. Files are
never removed, so no number is used twice and a slow process cannot undo a later takeover. The heartbeat is the file's
modification time; 1970 means that the owner has ended, which also works on a full disk.

Wall clocks jump (a laptop wakes, a server is corrected). So, unless the owner's process is known to have ended, a
process takes over only after it saw no heartbeat for ``LeaseTimes.watch`` seconds of its monotonic clock, or for
``LeaseTimes.stale`` seconds if the heartbeat is dated in the future.

Of a process on another machine Ray may know that it was lost (:func:`note_lost`). It may be there all the same, behind
a broken network, and write. So its lease ends not at once, but with its heartbeats: ``LOST`` seconds after the last.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from rt_scale.spec.errors import LeasedElsewhere, RtScaleError, RunError
from rt_scale.store.atomic import create_exclusive, names_in, read_json, to_json
from rt_scale.system.files import remove, temporary_name

FOLDER = "lease"
ROUNDING = 2.0
"""Seconds by which a heartbeat may lie in the future: object stores date in whole seconds, by several clocks."""
LOOK = 1.0
"""Seconds between two looks at a heartbeat."""
LOST = 20.0
"""Seconds without a heartbeat, more than between two, after which an owner counts as ended that Ray has lost."""
LATE = 5.0
"""Seconds between two looks that count at most as time without a heartbeat: the process may have been suspended."""


@dataclass(frozen=True)
class LeaseTimes:
    """When an owner on another machine counts as ended, in seconds."""

    heartbeat: float
    """Between two heartbeats."""
    stale: float
    """Without a heartbeat until the owner counts as ended."""
    watch: float
    """The last part of ``stale``, which the new owner observes itself; at most half of ``stale`` is used."""


TIMES = LeaseTimes(heartbeat=5.0, stale=60.0, watch=15.0)
"""For a store in a folder."""

_pause, _clock = time.sleep, time.monotonic
_lost: set[Process] = set()
"""Processes on other machines that Ray has lost, as far as this process was told."""
_seen: dict[str, tuple[object, float, float]] = {}
"""Run -> its heartbeat, when this process looked last, and for how many seconds the heartbeat has not changed."""


@dataclass(frozen=True)
class Process:
    """A process: this boot of its machine or container, its id there, its start in clock ticks since boot."""

    machine: str
    pid: int
    started: int

    @staticmethod
    def current() -> Process:
        """This process."""
        pid = os.getpid()
        return Process(_machine(), pid, _started(pid))


def note_lost(processes: Iterable[Process]) -> None:
    """Tell this process that others were lost, so that their leases end ``LOST`` seconds after the last heartbeat."""
    _lost.update(processes)


@dataclass(frozen=True)
class Owner:
    """The process that made an attempt.

    Attributes:
        host: name of its machine, for people.
        machine: this boot of this machine or container, within which ``pid`` is valid.
        started: when the process started, in clock ticks since boot: detects a reused process id.
        token: random; distinguishes two attempts of one process.
        acquired: when the attempt began, in seconds since 1970.
    """

    host: str
    machine: str
    pid: int
    started: int
    token: str
    acquired: float

    @staticmethod
    def current() -> Owner:
        """This process, now."""
        process = Process.current()
        token = secrets.token_hex(8)
        return Owner(socket.gethostname(), process.machine, process.pid, process.started, token, time.time())


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> int:
    """Start of process ``pid`` in clock ticks since boot; -1 if there is none; 0 if unknown."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1 if Path("/proc/self/stat").exists() else _signalled(pid)
    # The second field, the command in parentheses, may hold blanks and parentheses.
    fields = text.rpartition(")")[2].split()
    return -1 if fields[0] in "ZX" else int(fields[19])


def _signalled(pid: int) -> int:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return -1
    except PermissionError:
        pass
    return 0


@dataclass(frozen=True)
class Attempt:
    """The newest attempt at a run, as another process sees it.

    Attributes:
        number: from 1.
        owner: None if its file cannot be read.
        age: seconds since its last heartbeat, by the clock that dates it; negative if that is in the future, infinite
            if the owner has ended.
        beat: changes with every heartbeat.
        still: seconds for which this process has seen no new heartbeat.
    """

    number: int
    owner: Owner | None
    age: float
    beat: object = None
    still: float = 0.0

    @property
    def is_gone(self) -> bool:
        """Whether the owner released the lease, or its process is known to have ended."""
        owner = self.owner
        if owner is not None and owner.machine == _machine() and _started(owner.pid) != owner.started:
            return True
        return math.isinf(self.age)

    @property
    def is_lost(self) -> bool:
        """Whether Ray has lost the owner's process; it may be there all the same."""
        owner = self.owner
        return owner is not None and Process(owner.machine, owner.pid, owner.started) in _lost

    @property
    def is_ahead(self) -> bool:
        """Whether the heartbeat is dated in the future, so that its age is unknown."""
        return self.age < -ROUNDING

    @property
    def silent(self) -> float:
        """Seconds since the last heartbeat, by its date or by observation."""
        return self.still if self.is_ahead else max(0.0, self.age, self.still)

    def is_live(self, stale: float = TIMES.stale) -> bool:
        """Whether the owner has not ended and its last heartbeat is less than ``stale`` seconds old.

        For display only; before a takeover, use :func:`at_work`.
        """
        return not self.is_gone and self.silent < (min(stale, LOST) if self.is_lost else stale)

    @property
    def who(self) -> str:
        """The owner in words: ``process <pid> on host <host>``."""
        return f"process {self.owner.pid} on host {self.owner.host}" if self.owner else "an unknown process"

    @property
    def heartbeat(self) -> str:
        """The age of the heartbeat, in words."""
        if math.isinf(self.age):
            return "done by now"
        if self.is_ahead:
            return f"last heartbeat of unknown age: it is dated {-self.age:.0f} s in the future"
        return f"last heartbeat {self.silent:.0f} s ago"

    def __str__(self) -> str:
        return f"{self.who}, {self.heartbeat}"


def stood_still(whose: str, beat: object) -> float:
    """Seconds for which this process has seen the same heartbeat; one look adds at most ``LATE``."""
    now = _clock()
    before, looked, seconds = _seen.get(whose, (None, now, 0.0))
    seconds = seconds + min(now - looked, LATE) if before == beat else 0.0
    _seen[whose] = (beat, now, seconds)
    return seconds


def at_work(
    look: Callable[[], Attempt | None], times: LeaseTimes, watching: Callable[[Attempt], None]
) -> tuple[Attempt | None, bool]:
    """The newest attempt, if any, and whether its owner is running.

    Takes up to ``times.watch`` s if the heartbeat is old, up to ``times.stale`` s if it is dated in the future, up to
    ``LOST`` s if Ray has lost the owner.

    Args:
        look: finds the newest attempt.
        times: of heartbeats.
        watching: called with the attempt between two looks; an exception it raises ends the observation.
    """
    first = attempt = look()
    watch = min(times.watch, times.stale / 2)
    while attempt is not None and not attempt.is_gone:
        moved = first is not None and (first.number, first.beat) != (attempt.number, attempt.beat)
        if moved or not (attempt.is_lost or attempt.is_ahead or attempt.silent >= times.stale - watch):
            return attempt, True
        left = (times.stale if attempt.is_ahead else watch) - attempt.still
        if attempt.is_lost:
            left = LOST - attempt.silent
        if left <= 0:
            break
        watching(attempt)
        _pause(min(LOOK, left))
        attempt = look()
    return attempt, False


def latest_attempt(run: Path) -> Attempt | None:
    """The newest attempt at the run in folder ``run``, if any."""
    number = attempts_at(run)
    if number == 0:
        return None
    path = attempt_file(run, number)
    owner: Owner | None = None
    with contextlib.suppress(RunError, TypeError, FileNotFoundError):
        owner = Owner(**read_json(path))
    try:
        beat = path.stat().st_mtime_ns
    except FileNotFoundError:  # the whole run was removed while we looked
        return None
    if beat == 0:
        return Attempt(number, owner, math.inf)
    age = file_system_time(run / FOLDER) - beat / 1e9
    return Attempt(number, owner, age, beat, stood_still(str(path.absolute()), beat))


def attempts_at(run: Path | str) -> int:
    """How many attempts there were at the run in folder ``run``."""
    numbers = [name.removesuffix(".json") for name in names_in(f"{run}/{FOLDER}") if name.endswith(".json")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def attempt_file(run: Path, number: int) -> Path:
    """The file of an attempt at the run in folder ``run``."""
    return run / FOLDER / f"{number}.json"


def file_system_time(folder: Path) -> float:
    """Now, by the clock that dates files in ``folder``: a file server's may differ from ours."""
    probe = temporary_name(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # a read-only store
        return time.time()
    finally:
        remove(probe)


class Lease(ABC):
    """The right to write a run, with a heartbeat until :meth:`release`.

    Attributes:
        attempt: number of this attempt at the run, from 1.
        owner: this process.
    """

    def __init__(self, where: str, times: LeaseTimes, watching: Callable[[Attempt], None]) -> None:
        """Acquire the lease of the run at ``where``, which messages name; ``watching``: see :func:`at_work`.

        Raises:
            InputError: a running process holds it, or the store cannot be written.
            StoreUnavailable: an object store does not answer.
        """
        self._where, self._times = where, times
        self.owner = Owner.current()
        self.attempt = self._acquire(watching)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="lease", daemon=True)
        self._thread.start()

    @abstractmethod
    def _look(self) -> Attempt | None:
        """The newest attempt."""

    @abstractmethod
    def _claim(self, before: Attempt | None) -> int | None:
        """Create the attempt after ``before``, the newest one; its number, or None if another process was faster."""

    @abstractmethod
    def _beat(self) -> None:
        """Send a heartbeat."""

    @abstractmethod
    def _end(self) -> None:
        """Record that this owner has ended."""

    @abstractmethod
    def check(self) -> None:
        """Make sure, before each write to the store, that this process still owns the run.

        Raises:
            RunError: another process has taken over, the run was removed, or the lease was released.
            StoreUnavailable: an object store does not answer.
        """

    def check_here(self) -> None:
        """As :meth:`check`, before a write to this machine's disk; sends no request to an object store."""
        self.check()

    def _acquire(self, watching: Callable[[Attempt], None]) -> int:
        while True:
            before, held = at_work(self._look, self._times, watching)
            if held:
                raise LeasedElsewhere(
                    f"The run '{self._where}' is in use: {before}. Wait until that process is done or stop it, then "
                    "run the same command again; if it has ended, its claim ends "
                    f"{self._times.stale:g} s after its last heartbeat.",
                    owner=before.who if before else "",
                )
            if (number := self._claim(before)) is not None:
                return number

    def _keep_up(self) -> None:
        while not self._stop.wait(self._times.heartbeat):
            # A server may come back; check() finds a takeover or a removed run.
            with contextlib.suppress(OSError, RtScaleError):
                self._beat()

    def _check_released(self) -> None:
        if self._stop.is_set():
            raise RunError(f"The lease of '{self._where}' was released; acquire it again before writing there.")

    def _lost(self, how: str) -> RunError:
        return RunError(
            f"This process (attempt {self.attempt}) no longer owns the run '{self._where}': {how}. Nothing more is "
            "written by this one; what it saved before is kept and used."
        )

    def stop(self) -> None:
        """Stop the heartbeat without release: the lease becomes stale later."""
        self._stop.set()
        self._thread.join()

    def release(self) -> None:
        """Stop the heartbeat and release the run."""
        if not self._stop.is_set():
            self.stop()
            with contextlib.suppress(OSError, RtScaleError):  # the server may not answer
                self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class FileLease(Lease):
    """The lease of a run in a folder."""

    def __init__(
        self,
        run: Path,
        times: LeaseTimes = TIMES,
        watching: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        """Acquire the lease of the run in folder ``run``, creating it if needed; raises as :class:`Lease`."""
        self._run = run
        super().__init__(str(run), times, watching)

    def _look(self) -> Attempt | None:
        return latest_attempt(self._run)

    def _claim(self, before: Attempt | None) -> int | None:
        number = 1 if before is None else before.number + 1
        return number if create_exclusive(attempt_file(self._run, number), to_json(asdict(self.owner))) else None

    def _beat(self) -> None:
        os.utime(attempt_file(self._run, self.attempt))

    def _end(self) -> None:
        os.utime(attempt_file(self._run, self.attempt), (0, 0))

    def check(self) -> None:
        """See :meth:`Lease.check`."""
        self._check_released()
        if attempts_at(self._run) != self.attempt:
            other = latest_attempt(self._run)
            raise self._lost(f"attempt {other.number} does ({other})" if other else "its folder was removed")
