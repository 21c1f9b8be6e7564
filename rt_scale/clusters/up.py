"""``rt-scale cluster up|down|status``: a Ray cluster of machines that are reached by SSH."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rt_scale.clusters.hosts import HostsSpec
from rt_scale.clusters.ssh import OPTIONS, HostFailed, Machine
from rt_scale.data.catalogue import BUNDLED, prepare_command
from rt_scale.data.meta import META, default_data_dir
from rt_scale.spec.errors import InputError, counted
from rt_scale.system.paths import BOOTSTRAP

SPACE_NEW, SPACE = 8.0, 1.0
"""GiB that must be free in the home: for a new environment (torch with CUDA), and where there is one."""
INSTALL_S, DATA_S = 3600.0, 3600.0
"""Time limits for installing an environment and for preparing data, in seconds."""
ACTION_S = 300.0
"""Time limit for the other actions of a machine, in seconds."""
_COPIED = (
    "--exclude=/.git", "--exclude=/.venv", "--filter=:- .gitignore",
    # Removed modules are removed there too; whatever else is in the folder stays.
    "--delete", "--filter=R /rt_scale/***", "--filter=P *",
)  # fmt: skip
_LOOK = """
cd
free() { df -Pk "$1" | awk 'END { print $4 }'; }
echo "home $(free .)"
echo "temporary $(free "${RAY_TMPDIR:-/tmp}")"
[ -x %(python)s ] && echo "python yes" || echo "python no"
[ -e %(folder)s ] && [ ! -e %(folder)s/cluster/bootstrap.sh ] && [ -n "$(ls -A %(folder)s)" ] && echo "foreign yes"
command -v bash >/dev/null && command -v rsync >/dev/null || echo "tools no"
exit 0
"""
"""What a machine says of itself before anything is installed, in words of any shell."""
Say = Callable[[str, str], None]


@dataclass
class State:
    """A machine of a cluster as this command found it: ``failed`` says why it cannot be used."""

    machine: Machine
    head: bool = False
    ip: str = ""
    failed: str | None = None
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return self.machine.spec.label


class Hosts:
    """The machines of a file, all of which are worked on at once; ``say`` gets (machine, what is done).

    Attributes:
        states: of the machines, the head first.
    """

    def __init__(self, spec: HostsSpec, say: Say) -> None:
        self.spec, self._say = spec, say
        self.states = [State(Machine(host), head=not number) for number, host in enumerate(spec.hosts)]

    def up(self) -> list[State]:
        """Bring every machine into the cluster that is not in it; those that failed say why, the others go on.

        InputError, before anything is done: a variable or data set that machines are to get is not here.
        """
        secrets, copied = self.spec.secrets, self._copied_data()
        if not BOOTSTRAP.is_file() and any(state.machine.spec.python is None for state in self.states):
            raise InputError(
                "This rt-scale is no checkout that could be copied to the machines. Install the same version there and "
                "name its interpreter as python: in the file."
            )
        self._each(self.states, lambda state: self._make_ready(state, copied))
        head, *workers = self.states
        for state in workers if head.failed is None else ():
            self._compare(state, head)
        self._each([head], lambda state: self._start(state, secrets))
        if head.failed is not None:
            for state in workers:
                state.failed = state.failed or f"not started, because the head {head.label} failed"
        self._each(workers, lambda state: self._start(state, secrets, head))
        return self.states

    def down(self) -> list[State]:
        """End what ``up`` started: jobs first, so that their runs write checkpoints, then all nodes."""
        head = self.states[0]

        def stop_jobs(state: State) -> None:
            if ended := self._act(state, "stop_jobs")["jobs"]:
                self._say(state.label, f"{counted(ended, 'process')} of jobs ended")

        self._each([head], stop_jobs)

        def stop(state: State) -> None:
            self._say(state.label, self._act(state, "stop")["what"])

        self._each(self.states[1:], stop)  # a worker cannot be drained without a head
        self._each([head], stop)
        return self.states

    def status(self) -> list[State]:
        """What every machine says of itself; ``in_cluster`` where the head knows it."""

        def look(state: State) -> None:
            state.found |= self._look(state)
            state.found |= self._act(state, "status", {}) if state.found["python"] else {}
            state.ip = self._ip(state)

        self._each(self.states, look)
        known = self.states[0].found.get("nodes") or {}
        for state in self.states:
            state.found["in_cluster"] = state.ip in known if state.failed is None else False
        return self.states

    def _each(self, states: Iterable[State], work: Callable[[State], None]) -> None:
        """Work on all machines that did not fail, at once; why one fails is told and kept."""

        def attempt(state: State) -> None:
            try:
                work(state)
            except HostFailed as error:
                state.failed = str(error)
                if not interrupted:
                    self._say(state.label, f"failed: {error}")

        interrupted = False
        todo = [state for state in states if state.failed is None]
        with ThreadPoolExecutor(max_workers=max(1, len(todo))) as pool:
            try:
                for done in [pool.submit(attempt, state) for state in todo]:
                    done.result()
            except BaseException:
                interrupted = True
                for state in todo:
                    state.machine.stop()
                raise

    def _make_ready(self, state: State, copied: Sequence[str]) -> None:
        """Have rt-scale and the data sets on a machine."""
        own = state.machine.spec.python is None
        found = self._look(state)
        self._say(state.label, f"reached, {found['home']:.1f} GiB free")
        if not own and not found["python"]:
            raise HostFailed(f"there is no Python at {state.machine.spec.python}, which the file names")
        needed = SPACE if found["python"] else SPACE_NEW
        for what, free in (("home", found["home"]), ("folder for temporary files", found["temporary"])):
            if free < (least := needed if what == "home" else SPACE):
                raise HostFailed(f"its disk is full: {free:.1f} GiB are free in its {what}, {least:g} are needed")
        if own:
            self._install(state, found)
        state.found = self._act(state, "describe")
        state.ip = self._ip(state)
        missing = [name for name in self.spec.data if name not in state.found["data"]]
        if missing:
            self._say(state.label, f"preparing {', '.join(missing)}")
            for name in (name for name in missing if name in copied):
                folder = f".rt-scale/{self.spec.name}/incoming/{name}"
                state.machine.run(f"mkdir -p {folder}")
                state.machine.copy(default_data_dir() / name, folder)
            given = {"data": missing, "data_origin": self.spec.data_origin}
            self._act(state, "prepare_data", given, timeout=DATA_S)

    def _install(self, state: State, found: dict[str, Any]) -> None:
        """Copy the project to a machine and have its environment made there; takes a second where all is there."""
        folder = self.spec.folder
        if found["foreign"]:
            raise HostFailed(f"its folder '{folder}' holds something else; name another as folder: in the file")
        if not found["tools"]:
            raise HostFailed("bash or rsync is not installed there (sudo apt-get install rsync)")
        state.machine.run(f"mkdir -p {shlex.quote(folder)}")
        state.machine.copy(BOOTSTRAP.parents[1], folder, _COPIED)
        self._say(state.label, "copied" if found["python"] else "copied; installing the environment (minutes)")
        state.machine.run(f"cd {shlex.quote(folder)} && bash cluster/bootstrap.sh 2>&1", timeout=INSTALL_S)

    def _look(self, state: State) -> dict[str, Any]:
        """GiB free, and what is there; HostFailed if the machine cannot be reached."""
        words = {"python": shlex.quote(self._python(state)), "folder": shlex.quote(self.spec.folder)}
        out = state.machine.run("sh", _LOOK % words)
        said = dict(line.split(" ", 1) for line in out.splitlines() if " " in line)
        return {
            "home": int(said["home"]) / 2**20, "temporary": int(said["temporary"]) / 2**20,
            "python": said["python"] == "yes", "foreign": "foreign" in said, "tools": "tools" not in said,
        }  # fmt: skip

    def _python(self, state: State) -> str:
        """The interpreter there; ssh begins in the home, where '~' is."""
        given = state.machine.spec.python
        return f"{self.spec.folder}/.venv/bin/python" if given is None else given.removeprefix("~/")

    def _act(
        self, state: State, action: str, given: dict[str, Any] | None = None, timeout: float = ACTION_S
    ) -> dict[str, Any]:
        """What an action of :mod:`rt_scale.clusters.node` answers; it gets ``given`` by its standard input alone."""
        words = f"{shlex.quote(self._python(state))} -m rt_scale.clusters.node {action}"
        text = json.dumps({"name": self.spec.name, **(given or {})})
        try:
            answer: dict[str, Any] = json.loads(state.machine.run(words, text, timeout).splitlines()[-1])
        except HostFailed as error:
            if "No module named" in str(error):
                raise HostFailed(f"its Python has no rt-scale of this version ({error})") from None
            raise
        return answer

    def _ip(self, state: State) -> str:
        return state.machine.spec.ip or str(state.found.get("ip", ""))

    def _compare(self, state: State, head: State) -> None:
        """Ray joins equal versions only, and runs should be executed by one."""
        if state.failed is None:
            for what, theirs in state.found["versions"].items():
                if theirs != (ours := head.found["versions"][what]):
                    state.failed = f"it has {what} {theirs}, and the head {head.label} has {ours}"
                    self._say(state.label, f"failed: {state.failed}")
                    return

    def _start(self, state: State, secrets: dict[str, str], head: State | None = None) -> None:
        spec, host = self.spec, state.machine.spec
        options = [f"--node-ip-address={state.ip}", "--disable-usage-stats"]
        options += [f"--num-cpus={host.cpus}"] if host.cpus is not None else []
        options += [f"--num-gpus={host.gpus}"] if host.gpus is not None else []
        options += [f"--resources={json.dumps(host.resources)}"] if host.resources else []
        given: dict[str, Any] = {
            "ip": state.ip, "store": spec.store, "data_origin": spec.data_origin, "secrets": secrets,
            "cwd": spec.folder if host.python is None else ".",
        }  # fmt: skip
        if head is None:
            options += [f"--port={spec.port}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"]
            options.append(f"--dashboard-port={spec.dashboard_port}")
            given |= {"port": spec.port, "dashboard_port": spec.dashboard_port}
        else:
            given |= {"head": head.found["address"], "cluster": head.found["cluster"], "token": head.found["token"]}
        state.found |= self._act(state, "start", {**given, "words": options})
        self._say(state.label, f"{'head' if head is None else 'worker'} {state.found['what']}")

    def _copied_data(self) -> list[str]:
        """Data sets that machines get from here."""
        if self.spec.data_origin is not None:
            return []
        needed = [name for name in self.spec.data if name not in BUNDLED]
        for name in needed:
            if not (default_data_dir() / name / META).is_file():
                raise InputError(
                    f"data lists {name}, and machines are to get a copy of this machine's, which has none. Prepare it "
                    f"({prepare_command(name, default_data_dir())}), or name a data_origin."
                )
        return needed

    def next_steps(self) -> list[str]:
        """What to type next, from this machine."""
        command = self.spec.command or "rt-scale sweep SWEEP.yaml"
        machine = self.states[0].machine
        login = shlex.join(["ssh", "-t", *machine.options[len(OPTIONS) :], machine.target])
        there = f". ~/.rt-scale/{self.spec.name}/env && "
        lines = ["A sweep as a job, which goes on when you log out:"]
        lines.append(f"  {login} {shlex.quote(f'{there}ray job submit -- {command}')}")
        if not self.spec.environment:
            lines += ["or in a terminal, with its progress:", f"  {login} {shlex.quote(there + command)}"]
        return lines


def failed(states: Sequence[State]) -> list[State]:
    """The machines that cannot be used."""
    return [state for state in states if state.failed is not None]


def rows(states: Sequence[State]) -> list[dict[str, Any]]:
    """A row a machine for a table or JSON."""
    return [
        {
            "host": state.label,
            "role": "head" if state.head else "worker",
            "reachable": state.failed is None,
            "ray": bool(state.found.get("running")),
            "in_cluster": bool(state.found.get("in_cluster")),
            "free_gib": round(state.found["home"], 1) if "home" in state.found else None,
            "gpus": state.found.get("gpus", []),
            "runs": state.found.get("runs", 0),
            "problem": state.failed,
        }
        for state in states
    ]
