"""Commands and files on other machines, by the system's ssh and rsync."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rt_scale.clusters.hosts import HostSpec
from rt_scale.spec.errors import InputError, RunError, cut

OPTIONS = (
    *("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "StrictHostKeyChecking=accept-new"),
    # A machine that is gone is noticed after a minute.
    *("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4", "-o", "LogLevel=ERROR"),
)
_UNREACHED = 255
"""ssh's exit code where it is not the command's."""
_REASONS = (
    (
        "permission denied",
        "its SSH server refuses the key ({who}); put the public key into ~/.ssh/authorized_keys there",
    ),
    ("too many authentication failures", "its SSH server refuses the keys; name the right one as identity_file"),
    ("host identification has changed", "its host key is not the one in ~/.ssh/known_hosts (was it installed anew?)"),
    ("host key verification failed", "its host key is not the one in ~/.ssh/known_hosts"),
    ("could not resolve", "its name is not known here"),
    ("connection refused", "nothing listens at its SSH port"),
    ("no route to host", "there is no route to it (is it off, or in another network?)"),
    ("network is unreachable", "there is no route to it (is it off, or in another network?)"),
    ("timed out", "it does not answer (is it off, or in another network?)"),
    ("not responding", "it stopped answering"),
    ("closed by remote host", "the connection broke off"),
    ("broken pipe", "the connection broke off"),
)
"""What ssh says, in lower case -> what it means for a user."""


class HostFailed(RunError):
    """A machine cannot be used: why, as the end of a sentence that begins with its name."""


@dataclass(frozen=True)
class Machine:
    """A host behind ssh; ``running`` are the processes that talk to it, of this and other threads."""

    spec: HostSpec
    running: set[subprocess.Popen[str]] = field(default_factory=set, compare=False, repr=False)

    @property
    def target(self) -> str:
        """``user@host``, as for ssh."""
        return self.spec.host if self.spec.user is None else f"{self.spec.user}@{self.spec.host}"

    @property
    def options(self) -> list[str]:
        """The words between ``ssh`` and the target."""
        words = [*OPTIONS]
        if self.spec.identity_file is not None:
            words += ["-o", "IdentitiesOnly=yes", "-i", str(Path(self.spec.identity_file).expanduser())]
        return words if self.spec.ssh_port is None else [*words, "-p", str(self.spec.ssh_port)]

    def run(self, command: str, given: str = "", timeout: float = 120.0) -> str:
        """What a command of its shell prints, of which ``given`` is the standard input.

        Raises:
            HostFailed: it cannot be reached, takes longer than ``timeout`` seconds, or the command fails.
        """
        code, out, err = self._call(["ssh", *self.options, self.target, command], given, timeout)
        if code == _UNREACHED:
            raise HostFailed(self._reason(err))
        if code:
            raise HostFailed(_last_line(err) or _last_line(out) or f"a command ended with code {code}")
        return out

    def copy(self, source: Path, target: str, words: Sequence[str] = (), timeout: float = 3600.0) -> None:
        """Copy the contents of a folder with rsync; HostFailed as :meth:`run`."""
        shell = shlex.join(["ssh", *self.options])
        code, _, err = self._call(
            ["rsync", "-a", "-e", shell, *words, f"{source}/", f"{self.target}:{target}/"], "", timeout
        )
        if code == _UNREACHED:
            raise HostFailed(self._reason(err))
        if "command not found" in err or "rsync: not found" in err:
            raise HostFailed("rsync is not installed there (sudo apt-get install rsync)")
        if code:
            full = "its disk is full" if "No space left" in err else _last_line(err)
            raise HostFailed(f"files could not be copied to '{target}' ({full})")

    def _call(self, words: Sequence[str], given: str, timeout: float) -> tuple[int, str, str]:
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True, errors="replace")
        except FileNotFoundError as error:
            raise InputError(f"{words[0]} is not installed on this machine. Install it, e.g. with apt-get.") from error
        self.running.add(process)
        try:
            out, err = process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            raise HostFailed(f"a command took longer than {timeout:g} s") from None
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
            self.running.discard(process)
        return process.returncode, out, err

    def _reason(self, err: str) -> str:
        who = f"user {self.spec.user}" if self.spec.user else "the user that ssh chose"
        found = next((text for words, text in _REASONS if words in err.lower()), None)
        return found.format(who=who) if found else f"ssh cannot reach it ({_last_line(err)})"

    def stop(self) -> None:
        """End what is running to it, from another thread."""
        for process in tuple(self.running):
            process.kill()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return cut(lines[-1].strip(), 300) if lines else ""
