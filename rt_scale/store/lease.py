"""Who is running a run directory: at most one process, replaced when it is gone.

Each attempt at a run is a file ``lease/<attempt>.json``, numbered from 1. Creating the next number is exclusive, so of
several contenders one wins; the highest number is the owner. Files are never removed, so no number is given twice and
no slow contender can undo a later takeover. The owner's heartbeat is the file's modification time; 1970 says that the
owner is done, and saying so needs no room on a full disk.

Clocks are set: a laptop wakes up, a server corrects its time. So no owner is replaced, unless its process is known to
be gone, before whoever replaces it has watched the heartbeat stand still, by a clock that nobody sets; and a heartbeat
that lies in the future tells nothing, and is watched for as long as any may be silent.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from rt_scale.spec.errors import Held, RtScaleError, RunError
from rt_scale.store.atomic import create_exclusive, names_in, read_json, to_json
from rt_scale.system.files import remove, temporary_name

FOLDER = "lease"
ROUNDING = 2.0
"""Seconds by which a heartbeat may lie in the future: object stores date in whole seconds, by several clocks."""
LOOK = 1.0
"""Seconds between two looks of whoever watches."""
LATE = 5.0
"""Seconds without a look that count at most as ones for which a heartbeat stood still."""


@dataclass(frozen=True)
class LeaseTimes:
    """When owners count as gone, in seconds."""

    heartbeat: float
    """Between two heartbeats."""
    stale: float
    """Without a heartbeat, after which an owner elsewhere counts as gone."""
    watch: float
    """Of these, the last, for which whoever replaces the owner watches himself; at most half of them count."""


TIMES = LeaseTimes(heartbeat=5.0, stale=60.0, watch=15.0)
"""Of a store in a folder."""

_pause, _clock = time.sleep, time.monotonic
_seen: dict[str, tuple[object, float, float]] = {}
"""Whose heartbeat -> the heartbeat, when this process looked last, and seconds for which it has stood still."""


@dataclass(frozen=True)
class Owner:
    """The process that made an attempt.

    Attributes:
        host: name of its machine, for people.
        machine: what its process id is relative to: this boot of this machine, this container.
        pid: its process id.
        started: when the process started, in clock ticks since boot: tells a reused process id.
        token: random; tells two attempts of one process.
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
        pid = os.getpid()
        return Owner(socket.gethostname(), _machine(), pid, _started(pid), secrets.token_hex(8), time.time())


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> int:
    """Start of process ``pid`` in clock ticks since boot; -1 where there is none; 0 where none can tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return -1 if Path("/proc/self/stat").exists() else _signalled(pid)
    # The command, second and in parentheses, may hold blanks and parentheses itself.
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
    """The newest attempt at a run, as seen from outside.

    Attributes:
        number: counted from 1.
        owner: who made it; None where its file cannot be read.
        age: seconds since its last heartbeat, by the clock that dates it; negative where it is dated in the future,
            infinite where the owner is done.
        beat: what another heartbeat changes.
        still: seconds for which this process has seen the heartbeat stand still.
    """

    number: int
    owner: Owner | None
    age: float
    beat: object = None
    still: float = 0.0

    @property
    def is_gone(self) -> bool:
        """Whether the owner is done, or its process is known to be gone."""
        owner = self.owner
        if owner is not None and owner.machine == _machine() and _started(owner.pid) != owner.started:
            return True
        return math.isinf(self.age)

    @property
    def is_ahead(self) -> bool:
        """Whether the heartbeat is dated in the future, so that its date does not tell its age."""
        return self.age < -ROUNDING

    @property
    def silent(self) -> float:
        """Seconds since the last heartbeat, as far as its date or watching it tells."""
        return self.still if self.is_ahead else max(0.0, self.age, self.still)

    def is_live(self, stale: float = TIMES.stale) -> bool:
        """Whether the owner counts as at work: not known to be gone, and silent for less than ``stale`` s.

        To be told to people; whoever replaces an owner asks :func:`at_work`.
        """
        return not self.is_gone and self.silent < stale

    @property
    def who(self) -> str:
        """The owner in words: ``process <pid> on host <host>``."""
        return f"process {self.owner.pid} on host {self.owner.host}" if self.owner else "an unknown process"

    @property
    def heartbeat(self) -> str:
        """The age of the heartbeat in words."""
        if math.isinf(self.age):
            return "done by now"
        if self.is_ahead:
            return f"last heartbeat of unknown age: it is dated {-self.age:.0f} s in the future"
        return f"last heartbeat {self.silent:.0f} s ago"

    def __str__(self) -> str:
        return f"{self.who}, {self.heartbeat}"


def stood_still(whose: str, beat: object) -> float:
    """Seconds for which this process has seen the same heartbeat; a late look counts no more than a timely one."""
    now = _clock()
    before, looked, seconds = _seen.get(whose, (None, now, 0.0))
    seconds = seconds + min(now - looked, LATE) if before == beat else 0.0
    _seen[whose] = (beat, now, seconds)
    return seconds


def at_work(
    look: Callable[[], Attempt | None], times: LeaseTimes, watching: Callable[[Attempt], None]
) -> tuple[Attempt | None, bool]:
    """The newest attempt, None where there was none, and whether its owner is at work.

    Takes up to ``times.watch`` s where the heartbeat is old by its date, and up to ``times.stale`` s where it lies in
    the future.

    Args:
        look: finds the newest attempt.
        times: of heartbeats.
        watching: told of the attempt between two looks; what it raises ends the watch.
    """
    first = attempt = look()
    watch = min(times.watch, times.stale / 2)
    while attempt is not None and not attempt.is_gone:
        moved = first is not None and (first.number, first.beat) != (attempt.number, attempt.beat)
        if moved or (not attempt.is_ahead and attempt.silent < times.stale - watch):
            return attempt, True
        left = (times.stale if attempt.is_ahead else watch) - attempt.still
        if left <= 0:
            break
        watching(attempt)
        _pause(min(LOOK, left))
        attempt = look()
    return attempt, False


def latest_attempt(run: Path) -> Attempt | None:
    """The newest attempt at the run in folder ``run``; None where there was none."""
    number = _newest(run / FOLDER)
    if number == 0:
        return None
    path = _path(run, number)
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


def _newest(folder: Path) -> int:
    numbers = [name.removesuffix(".json") for name in names_in(folder) if name.endswith(".json")]
    return max((int(number) for number in numbers if number.isdigit()), default=0)


def _path(run: Path, number: int) -> Path:
    return run / FOLDER / f"{number}.json"


def file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps files in ``folder``: a file server's may differ from ours."""
    probe = temporary_name(folder / "clock")
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:  # a store that we may only read
        return time.time()
    finally:
        remove(probe)


class Lease(ABC):
    """The right to write into a run, kept up by a heartbeat until :meth:`release`.

    Attributes:
        attempt: number of this attempt at the run, from 1.
        owner: this process as recorded.
    """

    def __init__(self, where: str, times: LeaseTimes, watching: Callable[[Attempt], None]) -> None:
        """Acquire the lease of the run at ``where``.

        Args:
            where: for messages.
            times: of heartbeats.
            watching: see :func:`at_work`.

        Raises:
            InputError: where a live process holds it, or nothing can be written there.
            StoreAway: where an object store does not answer.
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
        """Make the attempt after ``before``, the last look's; its number, None where another was faster."""

    @abstractmethod
    def _beat(self) -> None:
        """Send a heartbeat."""

    @abstractmethod
    def _end(self) -> None:
        """Tell that this owner is done."""

    @abstractmethod
    def check(self) -> None:
        """Make sure that this process still owns the run; to be called before each write to the store.

        Raises:
            RunError: where another process has taken over, the run was removed, or the lease was released.
            StoreAway: where an object store does not answer.
        """

    def check_here(self) -> None:
        """As :meth:`check`, before a write to this machine's disk, which asks nothing of an object store."""
        self.check()

    def _acquire(self, watching: Callable[[Attempt], None]) -> int:
        while True:
            before, held = at_work(self._look, self._times, watching)
            if held:
                raise Held(
                    f"The run '{self._where}' is in use: {before}. Wait until that process is done or stop it, then "
                    "run the same command again; if it is gone, its claim ends "
                    f"{self._times.stale:g} s after its last heartbeat."
                )
            if (number := self._claim(before)) is not None:
                return number

    def _keep_up(self) -> None:
        while not self._stop.wait(self._times.heartbeat):
            # A server that is away comes back; a takeover, and a run that is gone, are found by check().
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
        """Stop the heartbeat; the claim goes stale by itself."""
        self._stop.set()
        self._thread.join()

    def release(self) -> None:
        """Stop the heartbeat and give the run free."""
        if not self._stop.is_set():
            self.stop()
            with contextlib.suppress(OSError, RtScaleError):  # a server that is away
                self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class FileLease(Lease):
    """The right to write into a run directory."""

    def __init__(
        self,
        run: Path,
        times: LeaseTimes = TIMES,
        watching: Callable[[Attempt], None] = lambda attempt: None,
    ) -> None:
        """Acquire the lease of the run in folder ``run``, which is made if need be; raises as :class:`Lease`."""
        self._run = run
        super().__init__(str(run), times, watching)

    def _look(self) -> Attempt | None:
        return latest_attempt(self._run)

    def _claim(self, before: Attempt | None) -> int | None:
        number = 1 if before is None else before.number + 1
        return number if create_exclusive(_path(self._run, number), to_json(asdict(self.owner))) else None

    def _beat(self) -> None:
        os.utime(_path(self._run, self.attempt))

    def _end(self) -> None:
        os.utime(_path(self._run, self.attempt), (0, 0))

    def check(self) -> None:
        """See :meth:`Lease.check`."""
        self._check_released()
        if _newest(self._run / FOLDER) != self.attempt:
            other = latest_attempt(self._run)
            raise self._lost(f"attempt {other.number} does ({other})" if other else "its folder was removed")
