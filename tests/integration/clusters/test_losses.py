"""A sweep on hosts of their own with an S3 store: nodes that are told to end, unplugged or cut off.

The runs are taken over before their leases would have run out, and end as if undisturbed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.objects.lease import TIMES
from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.dying import outcome
from tests.integration.machines import CLIENT, PROJECT, Host, Process, World
from tests.integration.several_nodes import NOTICED
from tests.integration.sweeping import SLOW, SWEEP, slow_down

PROGRAMS = Path(sys.executable).parent
THREE = {**SWEEP, "base": SLOW, "axes": {"student.alpha": [1e-10, 0.5, 1.0], "projector.out_dim": [64]}}
STORE = "s3://mine/runs"
SERVER = """
import json, os, pathlib, sys, time
import boto3
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
ThreadedMotoServer(sys.argv[1], 5000, verbose=False).start()
boto3.client("s3").create_bucket(Bucket="mine")
(bucket,) = (each for accounts in s3_backends.values() for each in accounts["aws"].buckets.values())
while True:
    found = {}
    for name, key in list(bucket.keys.items()):
        owner = json.loads(key.value)["host"] if name.endswith(".claim") else ""
        found[name] = [key.last_modified.timestamp(), owner]
    new = pathlib.Path(sys.argv[2], "objects.new")
    new.write_text(json.dumps(found))
    os.replace(new, new.with_name("objects.json"))
    time.sleep(0.2)
"""
FETCH = """
import shutil, sys
from rt_scale.store.objects.store import open_place
store = open_place(sys.argv[1])
store.refresh()
for name in store.names():
    for step in store.run(name).checkpoints.steps():
        store.run(name).fetch(step)
shutil.copytree(store.root / "runs", sys.argv[2])
"""


class Hosts:
    """A Ray of hosts: a head, where the driver runs, and nodes of one CPU; S3 on the client's machine."""

    def __init__(self, world: World, data_dir: Path) -> None:
        self.world, self.shared, self.slow = world, world.shared, slow_down(world.shared)
        shutil.copytree(data_dir / "digits", self.shared / "data" / "digits")
        (self.shared / "token").write_text("0123456789abcdef" * 4)
        (self.shared / "small.yaml").write_text(yaml.safe_dump(THREE, sort_keys=False))
        self.environment = {
            **NOTICED, "SLOW": str(self.slow),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.shared / "token"),
            "RAY_USAGE_STATS_ENABLED": "0", "AWS_ENDPOINT_URL": f"http://{CLIENT}:5000", "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret",
        }  # fmt: skip
        with (self.shared / "server.log").open("w") as log:
            words = [sys.executable, "-c", SERVER, CLIENT, self.shared]
            world.start(words, env=self.environment, stdout=log, stderr=log)
        self.head = world.host("h0")
        self.ray(self.head, "--head", "--port=6379", "--num-cpus=0", "--include-dashboard=false")

    def ray(self, host: Host, *options: str) -> Process:
        """Start a node on a host."""
        log = self.shared / f"{host.name}.log"
        words = [PROGRAMS / "ray", "start", "--block", f"--node-ip-address={host.ip}", *options]
        with log.open("w") as out:
            process = host.start(words, env=self.environment, stdout=out, stderr=out)
        self.wait(f"Ray on {host.name}", lambda: "Ray runtime started" in log.read_text())
        return process

    def node(self, name: str, cpus: int = 1) -> tuple[Host, Process]:
        """A host more, with a node."""
        host = self.world.host(name)
        return host, self.ray(host, f"--address={self.head.ip}:6379", f"--num-cpus={cpus}")

    def python(self, code: str, *arguments: object) -> None:
        done = self.head.run([sys.executable, "-c", code, *arguments], env=self.environment, cwd=PROJECT)
        assert done.returncode == 0, done.stderr

    def sweep(self) -> Process:
        words = ["sweep", self.shared / "small.yaml", "--store", STORE, "--data-dir", self.shared / "data"]
        with (self.shared / "said").open("w") as out:
            words = [PROGRAMS / "rt-scale", *words, "--address", "auto"]
            return self.head.start(words, env=self.environment, cwd=self.shared, stdout=out, stderr=out)

    @property
    def said(self) -> str:
        return (self.shared / "said").read_text()

    def objects(self, part: str) -> dict[str, Any]:
        """Keys that contain a part -> date and, of an attempt, the host that made it."""
        file = self.shared / "objects.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        return {key: value for key, value in found.items() if part in key}

    def attempt(self, run: str, number: int) -> Any:
        """Date and host of an attempt, if it was made."""
        return next(iter(self.objects(f"{run}/lease/{number}.exclusive.claim").values()), None)

    def saved(self, run: str) -> list[int]:
        """The steps of a run's checkpoints in the store."""
        keys = [key.split("/") for key in self.objects(f"{run}/checkpoints/") if key.endswith("manifest.json")]
        return sorted(int(parts[-2]) for parts in keys)

    def wait(self, what: str, done: Any, seconds: float = 400.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := done()):
            said = self.said if (self.shared / "said").exists() else ""
            assert time.monotonic() < end, f"{what} did not come within {seconds:g} s: {said}"
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def hosts(data_dir: Path) -> Iterator[Hosts]:
    with machines.world() as world:
        yield Hosts(world, data_dir)


def test_nodes_that_end_are_unplugged_or_cut_off(
    hosts: Hosts, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(hosts.shared)
    points = load_sweep(hosts.shared / "small.yaml")[1]
    names = told, lost, cut = [point.spec.name for point in points]
    started = dict(hosts.node(f"h{number}") for number in (1, 2, 3))
    driver = hosts.sweep()
    for name in names:
        hosts.wait(f"a checkpoint of {name}", lambda name=name: hosts.saved(name)[1:])
    where = {name: hosts.world.hosts[hosts.attempt(name, 1)[1]] for name in names}
    more, _ = hosts.node("h4", cpus=3)
    before = hosts.saved(told)[-1]
    where[cut].cut()
    where[lost].unplug()
    # A cloud, Slurm or Kubernetes that takes a machine away begins so.
    started[where[told]].terminate()
    for name, how in ((told, "preempted"), (lost, "lost"), (cut, "lost")):
        hosts.wait(name, lambda name=name, how=how: f"its node {where[name].ip} was {how}; it continues" in hosts.said)
    assert started[where[told]].wait(60) is not None
    assert hosts.saved(told)[-1] > before  # it saved one before it left
    for name in names:
        begun, host = hosts.wait(f"a takeover of {name}", lambda name=name: hosts.attempt(name, 2))
        assert host == more.name
        (beaten, _), *_ = hosts.objects(f"{name}/lease/1.exclusive.beat").values()
        assert begun - beaten < TIMES.stale
    hosts.slow.unlink()
    where[cut].cut(off=False)  # its run's process finds that it was taken over
    hosts.wait("the end", lambda: driver.poll() is not None)
    assert driver.returncode == 0, hosts.said
    assert "try 2 of" not in hosts.said
    hosts.python(FETCH, STORE, hosts.shared / "store" / "runs")
    kept, alone = Store(hosts.shared / "store"), Store(tmp_path)
    for point in points:
        run(point.spec, Options(store=alone, data_dir=data_dir, device="cpu", threads=1))
        assert outcome(kept.run(point.spec)) == outcome(alone.run(point.spec))
