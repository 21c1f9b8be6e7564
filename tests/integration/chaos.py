"""A sweep on three hosts, disturbed by events that a seed draws, until it is done; see clusters/test_chaos.py.

A head without runs, three hosts with two cores each and an S3 server on a host of its own live in a world without a
way out (machines.py). Whatever ends is started again as somebody who is on call would: Ray on a host, the head, and the
sweep by the same command.
"""

from __future__ import annotations

import itertools
import random
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration.dying import outcome
from tests.integration.machines import PROJECT, Host, Process, World

PROGRAMS = Path(sys.executable).parent
STORE_IP = "172.31.255.250"
SERVER = f"http://{STORE_IP}:5000"
STORE = "s3://chaos/runs"
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
"""Of Debian's package libfaketime."""
LOOK_S = 1.0
"""Seconds between two looks at what has ended."""
AWAY_S = 20.0
"""Seconds for which the store is away, or a disk is full."""
NOTICE_S = 15
"""Seconds between the notice of a preemption and its node's end."""
RESTART_S = 2.0
"""Seconds until what ended is started again."""
HANGS_S = 240.0
"""Seconds without any progress after which the sweep hangs."""
TRIAL = "^ray::ImplicitFunc.train"
"""Title of the process of a run."""
_SERVE = f"""
import boto3, threading
from moto.server import ThreadedMotoServer
ThreadedMotoServer("{STORE_IP}", 5000).start()
boto3.client("s3", endpoint_url="{SERVER}").create_bucket(Bucket="chaos")
print("ready", flush=True)
threading.Event().wait()
"""
_FETCH = """
import boto3, pathlib, sys
for each in boto3.resource("s3").Bucket("chaos").objects.filter(Prefix="runs/"):
    if each.key.endswith("/"):
        continue  # Ray Train's mark of a folder
    file = pathlib.Path(sys.argv[1], each.key.removeprefix("runs/"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(each.get()["Body"].read())
"""


@dataclass
class Happened:
    """An event, with what followed.

    Attributes:
        at: seconds after the start.
        kind: name of the event.
        where: the host that was drawn; empty: there was nothing to hit, such as no run of several workers.
        back: seconds until the sweep's command wrote a line again; None: it was over before.
    """

    at: float
    kind: str
    where: str
    back: float | None = None


@dataclass
class Chaos:
    """The disturbed sweep.

    Attributes:
        sweeps: the sweep files, run by one command.
        gate: what holds runs back (sweeping.slow_down) and goes after the last event; None: nothing does.
        happened: the events so far.
        exits: exit code -> how often the command ended so.
    """

    world: World
    data_dir: Path
    sweeps: list[Path]
    gate: Path | None = None
    happened: list[Happened] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.world.shared
        token = self.folder / "token"
        token.write_text("0123456789abcdef" * 4)
        token.chmod(0o600)
        self.environment = {
            "AWS_ENDPOINT_URL": SERVER, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3",
            "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(self.folder), "SLOW": str(self.gate or ""),
        }  # fmt: skip
        self.logs = itertools.count()
        self.server = self.world.host("store", ip=STORE_IP)
        self._start(self.server, [sys.executable, "-c", _SERVE], "server")
        self._until(lambda: "ready" in (self.folder / "server.log").read_text())
        self.head = self.world.host("head")
        self.hosts = [self.world.host(f"h{number}", disk="900m") for number in (1, 2, 3)]
        self.rays: dict[str, Process] = {}
        self.clocks: dict[str, str] = {}
        self.undo: list[tuple[float, Callable[[], object]]] = []
        self.driver: Process | None = None
        self.began = self.progress = time.monotonic()
        self.results = -1

    def _start(self, host: Host, words: list[Any], log: str, **more: str) -> Process:
        file = (self.folder / f"{log}.log").open("a")
        with file:
            return host.start(words, env=self.environment | more, cwd=PROJECT, stdout=file, stderr=file)

    def _until(self, done: Callable[[], object], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, "it did not begin"
            time.sleep(0.2)

    # What is started again.

    def revive(self) -> None:
        """Start again what has ended: hosts, Ray on them, the head, and the sweep."""
        for host in (self.head, *self.hosts):
            if not host.alive:
                host.plug()
        if self._ended(self.head.name):
            words = ["--head", "--num-cpus=0", "--port=6379", "--dashboard-host=127.0.0.1"]
            self._start_ray(self.head, words)
            time.sleep(RESTART_S)
        for host in self.hosts:
            if self._ended(host.name):
                self._start_ray(host, [f"--address={self.head.ip}:6379", "--num-cpus=2"])
        if self.driver is not None and self.driver.poll() is not None:
            self.exits.append(self.driver.returncode)
            self.driver = None
        if self.driver is None and not self.done and self._answers():
            words = [PROGRAMS / "rt-scale", "sweep", *self.sweeps, "--store", STORE, "--data-dir", self.data_dir]
            words += ["--address", f"{self.head.ip}:6379"]
            self.driver = self._start(self.head, words, f"driver-{next(self.logs)}")

    @property
    def done(self) -> bool:
        """Whether the sweep's command ended well."""
        return bool(self.exits) and self.exits[-1] == 0

    def _ended(self, name: str) -> bool:
        return name not in self.rays or self.rays[name].poll() is not None

    def _start_ray(self, host: Host, words: list[str]) -> None:
        self._pkill(host, "-KILL", "raylet|gcs_server|ray::|ray/dashboard|ray/_private|ray._private")
        more = {}
        if (clock := self.clocks.get(host.name)) is not None:
            more = {"LD_PRELOAD": FAKETIME, "FAKETIME": clock}  # without monotonic clocks, time.sleep fails
        self.rays[host.name] = self._start(host, [PROGRAMS / "ray", "start", "--block", *words], host.name, **more)

    def _answers(self) -> bool:
        return self.head.run(["bash", "-c", f": <>/dev/tcp/{self.head.ip}/6379"]).returncode == 0

    def _pkill(self, host: Host, signal: str, pattern: str, *, oldest: bool = False) -> bool:
        """Send a signal to processes of a host by their command line; whether there was one."""
        if not host.alive:
            return False
        words = ["pkill", signal, *(["-o"] if oldest else []), "-f", pattern]
        return host.run(words).returncode == 0

    # The events; each returns whether it hit anything.

    def kill_trial(self, host: Host) -> bool:
        """A run's process dies."""
        return self._pkill(host, "-KILL", TRIAL, oldest=True)

    def kill_worker(self, host: Host) -> bool:
        """One of the workers of a run dies."""
        return self._pkill(host, "-KILL", "^ray::.*RayTrainWorker", oldest=True)

    def kill_raylet(self, host: Host) -> bool:
        """Ray's own process on a host dies."""
        return self._pkill(host, "-KILL", "raylet/raylet ")

    def kill_driver(self, host: Host) -> bool:
        """The sweep's command dies."""
        return self._pkill(self.head, "-KILL", "bin/rt-scale sweep")

    def kill_head(self, host: Host) -> bool:
        """The cluster's head dies."""
        return self._pkill(self.head, "-KILL", "gcs_server")

    def unplug(self, host: Host) -> bool:
        """A host loses its power."""
        host.unplug()
        return True

    def drain(self, host: Host) -> bool:
        """A host is preempted, with notice."""
        code = (
            "import ray; ray.init('auto', logging_level='ERROR'); "
            f"print(*[n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == '{host.ip}'])"
        )
        found = self.head.run([sys.executable, "-c", code], env=self.environment).stdout.split()
        words = [PROGRAMS / "ray", "drain-node", "--node-id", *found[:1], "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        words += ["--reason-message", "chaos", "--deadline-remaining-seconds", str(NOTICE_S)]
        drained = bool(found) and self.head.run(words, env=self.environment).returncode == 0
        if drained:
            self._later(NOTICE_S + 5, host.unplug)  # ``ray start --block`` stays without its raylet
        return drained

    def terminate_node(self, host: Host) -> bool:
        """``ray start --block`` gets SIGTERM, as from systemd, Kubernetes or Slurm."""
        return self._pkill(host, "-TERM", "bin/ray start --block")

    def terminate_driver(self, host: Host) -> bool:
        """The sweep's command gets SIGTERM."""
        return self._pkill(self.head, "-TERM", "bin/rt-scale sweep")

    def store_away(self, host: Host) -> bool:
        """The object store does not answer."""
        self.server.cut()
        self._later(AWAY_S, lambda: self.server.cut(off=False))
        return True

    def wrong_clock(self, host: Host) -> bool:
        """A host restarts with a clock that is an hour off."""
        self.clocks[host.name] = self.rng.choice(["+1h", "-1h"])
        host.unplug()
        return True

    def fill_disk(self, host: Host) -> bool:
        """A host's disk is full."""
        full = self.folder.parent / "full"
        host.run(["bash", "-c", f"dd if=/dev/zero of={full} bs=1M status=none || true"])
        self._later(AWAY_S, lambda: host.alive and host.run(["rm", "-f", full]))
        return True

    def _later(self, seconds: float, what: Callable[[], object]) -> None:
        self.undo.append((time.monotonic() + seconds, what))

    EVENTS = (
        kill_trial, kill_worker, kill_raylet, kill_driver, kill_head, unplug, drain, terminate_node, terminate_driver,
        store_away, wrong_clock, fill_disk,
    )  # fmt: skip

    # The whole.

    def live(self, events: int, seed: int, between: tuple[float, float]) -> None:
        """Run the sweep to its end, disturbed by so many events, ``between`` seconds apart; kinds take turns."""
        self.rng = random.Random(seed)
        every = list(self.EVENTS)
        drawn = [kind for _ in range(-(-events // len(every))) for kind in self.rng.sample(every, len(every))][:events]
        self.began = self.progress = time.monotonic()
        due = time.monotonic()
        while not self.done:
            self.revive()
            self._undo()
            self._look()
            if drawn and time.monotonic() >= due and self._works():
                self._happen(drawn.pop(0))
                due = time.monotonic() + self.rng.uniform(*between)
            if self.gate is not None and not drawn:
                self.gate.unlink(missing_ok=True)
            time.sleep(LOOK_S)
        self._undo(everything=True)

    def _works(self) -> bool:
        """Whether a run is executed somewhere."""
        return any(host.alive and host.run(["pgrep", "-f", TRIAL]).returncode == 0 for host in self.hosts)

    def _happen(self, event: Callable[[Chaos, Host], bool]) -> None:
        at = time.monotonic() - self.began
        hit = next((host.name for host in self.rng.sample(self.hosts, len(self.hosts)) if event(self, host)), "")
        self.happened.append(Happened(at, event.__name__, hit))
        print(f"{at:7.1f} s {event.__name__} {hit or '(nothing to hit)'}", flush=True)

    def _undo(self, everything: bool = False) -> None:
        for each in [each for each in self.undo if everything or each[0] <= time.monotonic()]:
            self.undo.remove(each)
            each[1]()

    def _look(self) -> None:
        """Note progress: the number of lines that the drivers printed, without the summary that comes every 30 s."""
        logs = sorted(self.folder.glob("driver-*.log"))
        lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
        seen = sum(re.match(r"\d+ of \d+ done", line) is None for line in lines) if logs else -1
        if seen != self.results:
            self.results, self.progress = seen, time.monotonic()
            for each in reversed(self.happened):
                if each.back is not None:
                    break
                each.back = self.progress - self.began - each.at
        assert time.monotonic() - self.progress < HANGS_S, f"it hangs; see {logs[-1] if logs else 'nothing'}"

    def fetch(self, folder: Path) -> Path:
        """What the store holds, in a folder."""
        done = self.world.run([sys.executable, "-c", _FETCH, folder], env=self.environment)
        assert done.returncode == 0, done.stderr
        return folder


def small_sweeps(folder: Path, *, seeds: int) -> list[Path]:
    """Two sweep files: ``4 seeds`` runs of one worker, and ``seeds`` of two."""
    base = {
        "data": {"name": "digits"}, "encoder": {"name": "convnet_8_2", "norm": "batch"},
        "projector": {"hidden": [32], "bottleneck": 16, "out_dim": 64},
        "train": {"epochs": 60, "batch_size": 128, "optimizer": {"name": "sgd", "lr": 0.001}},
        "probe": {"every": "5ep", "epochs": 2, "standardized": False},
    }  # fmt: skip
    launches: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
        ("alone", {"student.alpha": [1e-10, 0.5], "projector.out_dim": [16, 64]}, {"cpus": 1}),
        ("together", {"student.alpha": [0.25]}, {"cpus": 1, "workers": 2}),
    ]
    files = []
    for name, axes, launch in launches:
        files.append(folder / f"{name}.yaml")
        sweep = {"name": name, "base": base, "axes": axes, "seeds": seeds, "launch": {**launch, "retries": 20}}
        files[-1].write_text(yaml.safe_dump(sweep, sort_keys=False))
    return files


def quiet_sweep(chaos: Chaos, store: Path) -> None:
    """The same sweep with nothing to disturb it, on a Ray of the client's machine."""
    words = [PROGRAMS / "rt-scale", "sweep", *chaos.sweeps, "--store", store, "--data-dir", chaos.data_dir]
    done = chaos.world.run([*words, "--address", "local"], timeout=600)
    assert done.returncode == 0, done.stderr


def problems(chaos: Chaos, quiet: Store, disturbed: Store) -> list[str]:
    """What is wrong with the disturbed sweep, beside the same one in the store ``quiet``: nothing."""
    found = []
    for point in (point for file in chaos.sweeps for point in load_sweep(file)[1]):
        there = disturbed.run(point.spec)
        if there.result() is None:
            found.append(f"{point.label} has no result")
        elif outcome(there) != outcome(quiet.run(point.spec)):
            found.append(f"{point.label} is not bitwise that of a quiet machine")
        if not (there.path / "lease").exists():
            found.append(f"{point.label} was executed by nobody")
        last = max(int(file.name.split(".")[0]) for file in (there.path / "lease").iterdir())
        if not any(file.name.endswith(".end") for file in (there.path / "lease").glob(f"{last}.*")):
            found.append(f"{point.label} is still leased")
    names = {path.parent.name for path in disturbed.root.glob("runs/*/result.json")}
    if len(names) != sum(len(load_sweep(file)[1]) for file in chaos.sweeps):
        found.append(f"{len(names)} results are not one a run")
    return found
