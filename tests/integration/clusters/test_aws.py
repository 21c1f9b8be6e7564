"""cluster/aws.yaml from `ray up` to `ray down`, on AWS as moto plays it, with a host for every machine that it gives.

Everything happens in a world without a way out (machines.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.dying import outcome
from tests.integration.machines import CLIENT, HOME, PROJECT, Host, World
from tests.integration.sweeping import SLOW, SWEEP, slow_down

PROGRAMS = Path(sys.executable).parent
SERVER = f"http://{CLIENT}:5000"
FEW = {**SWEEP, "name": "few", "base": SLOW, "launch": {"cpus": 1}}
STORE = "s3://mine/runs"
PREPARE = """
import boto3, pathlib, sys
boto3.client("cloudformation").create_stack(
    StackName="rt-scale", TemplateBody=pathlib.Path("cluster/aws_access.yaml").read_text(),
    Capabilities=["CAPABILITY_NAMED_IAM"], Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "mine"}])
for file in pathlib.Path(sys.argv[1]).rglob("*"):
    if file.is_file():
        boto3.client("s3").upload_file(str(file), "mine", f"data/digits/{file.relative_to(sys.argv[1])}")
ec2 = boto3.client("ec2")
ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=pathlib.Path(sys.argv[2]).read_bytes())
print(ec2.describe_images()["Images"][0]["ImageId"])
"""
FETCH = """
import boto3, pathlib, sys
for each in boto3.resource("s3").Bucket("mine").objects.filter(Prefix="runs/"):
    file = pathlib.Path(sys.argv[1], each.key.removeprefix("runs/"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(each.get()["Body"].read())
"""


@dataclass
class Cloud:
    """AWS in a world: a host for every machine that runs."""

    world: World
    hosts: dict[str, Host] = field(default_factory=dict)
    told: list[dict[str, Any]] = field(default_factory=list)
    began: float = field(default_factory=time.monotonic)
    over: threading.Event = field(default_factory=threading.Event)
    broken: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.terminal = self.world.shared / "terminal"
        self.environment = {
            "AWS_ENDPOINT_URL": SERVER, "AWS_DEFAULT_REGION": "us-west-2", "AWS_ACCESS_KEY_ID": "me",
            "AWS_SECRET_ACCESS_KEY": "secret", "PYTHONPATH": str(self.world.shared),
        }  # fmt: skip
        self.market(spot=1, on_demand=1)
        words = [sys.executable, PROJECT / "tests/integration/ec2_server.py", CLIENT, self.world.shared]
        with (self.world.shared / "server.log").open("w") as log:
            self.world.start(words, stdout=log, stderr=log)
        self.wait("the server", lambda: (self.world.shared / "objects.json").exists())
        self.thread = threading.Thread(target=self.follow)
        self.thread.start()

    def follow(self) -> None:
        """Plug in a host for every machine that runs, and pull the plug of those that were terminated."""
        while not self.over.wait(0.2):
            try:
                for machine in self.machines():
                    name, runs = machine["id"], machine["state"] == "running"
                    if runs and name not in self.hosts:
                        host = self.world.host(name, ip=machine["ip"], lo_addresses=["169.254.169.254"])
                        words = [PROJECT / "tests/integration/metadata_server.py", self.world.shared, name]
                        host.start([sys.executable, *words, machine["profile"]])
                        self.hosts[name] = host
                    elif not runs and name in self.hosts and self.hosts[name].alive:
                        self.hosts[name].unplug()
            except BaseException as error:
                self.broken.append(error)
                return

    def market(self, **left: int) -> None:
        new = self.world.shared / "market.new"
        new.write_text(json.dumps(left))
        os.replace(new, self.world.shared / "market.json")

    def machines(self, *states: str) -> list[dict[str, Any]]:
        found = json.loads((self.world.shared / "instances.json").read_text())
        return [each for each in found if not states or each["state"] in states]

    def workers(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Machines for runs that run, of a kind, with their host."""
        found = self.machines("running")
        found = [each for each in found if each["tags"].get("ray-node-type") == "worker" and each["id"] in self.hosts]
        return [each for each in found if kind in (None, each["kind"]) and self.hosts[each["id"]].alive]

    def spot_hosts(self) -> list[Host]:
        return [self.hosts[machine["id"]] for machine in self.workers("spot")]

    def launches(self) -> list[dict[str, Any]]:
        file = self.world.shared / "launches.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def objects(self, pattern: str) -> list[str]:
        return [key for key in json.loads((self.world.shared / "objects.json").read_text()) if re.search(pattern, key)]

    def tell(self, text: str, look: bool = False) -> None:
        """Note what happens; ``look``: a recording shows the terminal of the sweep now."""
        seen = self.terminal.stat().st_size if self.terminal.exists() else 0
        self.told.append({"seconds": time.monotonic() - self.began, "text": text, "seen": seen, "look": look})
        print(f"[{self.told[-1]['seconds']:5.1f} s] {text}", flush=True)

    def record(self, file: Path) -> None:
        """All of it for benchmarks/recording.py."""
        shown = self.terminal.read_bytes().decode(errors="replace") if self.terminal.exists() else ""
        file.write_text(json.dumps({"told": self.told, "terminal": shown}))

    def wait(self, what: str, done: Callable[[], Any], seconds: float = 300.0) -> Any:
        end = time.monotonic() + seconds
        while not (found := done()):
            assert time.monotonic() < end, f"{what} did not come within {seconds:g} s"
            assert not self.broken, self.broken
            time.sleep(0.2)
        return found

    def run(self, *words: object, **options: Any) -> str:
        """A command of the user's; what it printed."""
        self.tell(f"$ {' '.join(map(str, words))}")
        done = self.world.run(words, env=self.environment, cwd=PROJECT, timeout=400, **options)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def python(self, code: str, *arguments: object) -> str:
        done = self.world.run([sys.executable, "-c", code, *arguments], env=self.environment, cwd=PROJECT)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def head_log(self) -> str:
        """What the autoscaler said last, if there is a head."""
        heads = [host for host in self.hosts.values() if host.alive][:1]
        return "".join(
            head.run(["bash", "-c", "tail -n 60 /tmp/ray/session_latest/logs/monitor.{log,out,err}"]).stdout
            for head in heads
        )

    def terminate(self, machine: str) -> None:
        self.python(f"import boto3; boto3.client('ec2').terminate_instances(InstanceIds=['{machine}'])")


def file_for_test(text: str, image: str) -> str:
    """The launcher file with what differs here: keys, images, times, and no environment that is made anew."""
    file = yaml.safe_load(text)
    file["idle_timeout_minutes"] = 0.15
    file["provider"] |= {"use_internal_ips": True, "ssh_from": f"{CLIENT}/32"}
    file["auth"] = {"ssh_user": "root", "ssh_private_key": str(HOME / ".ssh/id_ed25519")}
    for kind in file["available_node_types"].values():
        kind["node_config"] |= {"ImageId": image, "KeyName": "mine"}
    assert file["setup_commands"][-1].endswith("bash cluster/bootstrap.sh")
    file["setup_commands"][-1] = f"ln -sfn {PROGRAMS.parent} ~/rt-scale/.venv"
    return yaml.safe_dump(file, sort_keys=False)


@pytest.fixture(scope="module")
def cloud(data_dir: Path) -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch:
        quick = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "AUTOSCALER_NODE_SSH_INTERVAL_S": "1"}
        with machines.world() as world:
            more = {"AWS_ENDPOINT_URL": SERVER, "PYTHONPATH": world.shared, "SLOW": slow_down(world.shared)}
            for name, value in {**more, **quick}.items():
                patch.setitem(machines.ENVIRONMENT, name, str(value))
            shutil.copy(world.folder / "key.pub", world.shared)
            shutil.copytree(data_dir / "digits", world.shared / "digits")
            made = Cloud(world)
            try:
                live(made)
                yield made
            except BaseException:
                print(made.head_log())
                raise
            finally:
                if file := os.environ.get("RT_SCALE_RECORD"):
                    made.record(Path(file))
                made.over.set()
                made.thread.join()


def live(cloud: Cloud) -> None:
    """From nothing to the last result, over a partial launch, two losses and a market without spot machines."""
    command = prepare(cloud)
    cloud.run(PROGRAMS / "ray", "up", "--yes", "aws.yaml")
    cloud.tell("the head runs")
    cloud.tell(f"$ ray exec aws.yaml '{command}'")
    words = [PROGRAMS / "ray", "exec", "aws.yaml", command]
    with cloud.terminal.open("w") as log:
        driver = cloud.world.start(words, env=cloud.environment, cwd=PROJECT, stdout=log, stderr=log)
    gain_two_machines(cloud)
    lose_two_machines(cloud)
    cloud.wait("the end of the sweep", lambda: driver.poll() is not None)
    cloud.tell(f"the sweep ended with {driver.returncode}", look=True)
    assert driver.returncode == 0, cloud.terminal.read_text()
    cloud.wait("scale-down", lambda: not cloud.workers())
    cloud.tell("no machine for runs is left")
    cloud.python(FETCH, cloud.world.shared / "store")
    cloud.run(PROGRAMS / "ray", "down", "--yes", "aws.yaml")
    cloud.wait("the end of the head", lambda: not cloud.machines("pending", "running"))
    cloud.tell("no machine is left")


def prepare(cloud: Cloud) -> str:
    """A bucket with a data set, what machines may do, a token, and the launcher file; returns the sweep's command."""
    image = cloud.python(PREPARE, cloud.world.shared / "digits", cloud.world.shared / "key.pub")
    cloud.run(PROGRAMS / "ray", "get-auth-token", "--generate")
    put(cloud, PROJECT / "sweeps/few.yaml", yaml.safe_dump(FEW, sort_keys=False))
    words = ["sweeps/few.yaml", "--store", STORE, "--data-origin", "s3://mine/data", "--max", "2"]
    said = cloud.run(PROGRAMS / "rt-scale", "cluster", "write", "aws", *words, "--out", "aws.yaml")
    cloud.run(PROGRAMS / "rt-scale", "cluster", "check", "aws.yaml", "sweeps/few.yaml")
    written = cloud.world.run(["cat", PROJECT / "aws.yaml"]).stdout
    put(cloud, PROJECT / "aws.yaml", file_for_test(written, image))
    start = shlex.split(said.splitlines()[-1])
    assert start[:-1] == ["ray", "up", "--yes", "aws.yaml", "&&", "ray", "exec", "--tmux", "aws.yaml"]
    return start[-1]


def put(cloud: Cloud, path: Path, text: str) -> None:
    assert cloud.world.run(["tee", path], input=text).returncode == 0


def gain_two_machines(cloud: Cloud) -> None:
    """Two are asked for and one is given; the other comes as soon as there is one."""
    (first,) = cloud.wait("the first machine", lambda: cloud.workers("spot"))
    cloud.tell(f"{first['id']} is all that there is of spot machines; asked for were {cloud.launches()[1]['wanted']}")
    cloud.wait("a refusal", lambda: any(each["given"] == 0 for each in cloud.launches()))
    cloud.tell("an on-demand machine is asked for, and there is none either")
    cloud.market(spot=2, on_demand=1)
    cloud.tell("there is one more spot machine")
    cloud.wait("the second machine", lambda: len(cloud.workers("spot")) == 2)
    cloud.wait("their agents", lambda: all("are watched" in agent_log(host) for host in cloud.spot_hosts()))
    cloud.tell("two spot machines run")


def begun(cloud: Cloud) -> set[str]:
    """Runs with a checkpoint and without a result."""
    done = {key.split("/")[2] for key in cloud.objects(r"/runs/[^/]+/result\.json$")}
    return {key.split("/")[2] for key in cloud.objects(r"/runs/[^/]+/checkpoints/")} - done


def agent_log(host: Host) -> str:
    return host.run(["cat", HOME / "watch.log"]).stdout if host.alive else ""


def lose_two_machines(cloud: Cloud) -> None:
    """One is interrupted with a notice, the other one's plug is pulled, and there are no more spot machines."""
    cloud.wait("runs with checkpoints on both", lambda: len(begun(cloud)) >= 3)
    cloud.market(spot=0, on_demand=3)
    noticed, pulled = (machine["id"] for machine in cloud.workers("spot"))
    end = datetime.now(UTC) + timedelta(seconds=120)
    notice = {"action": "terminate", "time": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
    (cloud.world.shared / f"notice-{noticed}").write_text(json.dumps(notice))
    cloud.hosts[pulled].unplug()
    cloud.tell(f"there are no spot machines any more: {noticed} gets its notice, {pulled} is gone at once", look=True)
    cloud.terminate(pulled)
    host = cloud.hosts[noticed]
    said = [agent_log(host)]

    def ended() -> bool:
        """Ray's autoscaler ends a drained machine, mostly before AWS does."""
        said.append(agent_log(host) or said[-1])
        return not host.alive or host.run(["pgrep", "raylet"]).returncode != 0

    cloud.wait("the end of the node", ended)
    cloud.tell(f"{noticed} has no Ray any more; its agent: {said[-1].splitlines()[-1]}")
    assert "Ray is told" in said[-1]
    cloud.terminate(noticed)
    cloud.wait("an on-demand machine", lambda: cloud.workers("on_demand"))
    cloud.tell("an on-demand machine runs", look=True)
    (cloud.world.shared / "slow").unlink()


def test_whoever_asks_for_too_many_machines_gets_what_there_is_and_asks_again(cloud: Cloud) -> None:
    head, first, refused, *later = cloud.launches()
    assert head["kind"] == "on_demand"
    assert (first["kind"], first["wanted"], first["given"]) == ("spot", 2, 1)
    assert (refused["kind"], refused["wanted"], refused["given"]) == ("on_demand", 1, 0)
    second = next(each for each in later if each["given"])
    assert second["kind"] == "spot", "spot again as soon as there is one"
    assert second["time"] - first["time"] < 60, "Ray alone waits for 10 minutes"


def test_on_demand_machines_come_when_there_are_no_spot_ones(cloud: Cloud) -> None:
    launches = cloud.launches()
    given = [each for each in launches if each["given"]]
    assert [each["kind"] for each in given][:3] == ["on_demand", "spot", "spot"]
    assert {each["kind"] for each in given[3:]} == {"on_demand"}
    replaced = given[3]
    before = next(each for each in launches if each["kind"] == "spot" and 0 <= replaced["time"] - each["time"] < 20)
    assert before["given"] == 0, "spot was asked for first"
    assert replaced["time"] - before["time"] < 10


def test_the_sweep_is_bitwise_that_of_a_quiet_machine(
    cloud: Cloud, tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(cloud.world.shared)
    file = tmp_path / "few.yaml"
    file.write_text(yaml.safe_dump(FEW))
    lost, quiet = Store(cloud.world.shared / "store"), Store(tmp_path)
    for point in load_sweep(file)[1]:
        run(point.spec, Options(store=quiet, data_dir=data_dir, device="cpu", threads=1))
        assert outcome(lost.run(point.spec)) == outcome(quiet.run(point.spec)), point.label


def test_nothing_is_left_and_ssh_was_open_to_the_user_alone(cloud: Cloud) -> None:
    assert not cloud.machines("pending", "running", "stopping", "stopped")
    assert not any(host.alive for host in cloud.hosts.values())
    assert len(cloud.hosts) >= 4
    assert not cloud.broken
    groups = json.loads(
        cloud.python("""
import boto3, json
groups = boto3.client("ec2").describe_security_groups()["SecurityGroups"]
print(json.dumps([g["IpPermissions"] for g in groups if g["GroupName"].startswith("ray-autoscaler")]))""")
    )
    (rules,) = groups
    open_to = [block["CidrIp"] for rule in rules for block in rule["IpRanges"]]
    assert open_to == [f"{CLIENT}/32"]
