"""A head and its nodes: joined, lost, judged by the kinds there are, and taken away."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rt_scale.ray_backend.head import HANGS, LEFT, RESTARTED, SILENT
from tests.integration.joining import RAY, Start, connecting, environment, name_of, told


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Variables of a user with an empty home and nothing set for Ray."""
    home = tmp_path / "home"
    home.mkdir()
    return environment(home)


def free_port() -> int:
    """A port below those that the kernel gives to whoever asks for any, and above those of Ray's workers."""
    while True:
        port = secrets.choice(range(20_000, 32_000))
        with contextlib.suppress(OSError), socket.create_server(("", port)):
            return port


@pytest.fixture
def begin_head(
    start: Start, env: dict[str, str], living: Callable[[int], list[int]]
) -> Iterator[Callable[..., tuple[str, subprocess.Popen[str]]]]:
    """Starts a head as an administrator does, with a token, on a port of its own."""
    # A socket's path has 107 characters at most.
    temp = Path("/tmp") / f"rt-scale-{secrets.token_hex(4)}"
    started: list[subprocess.Popen[str]] = []

    token = Path(env["HOME"]) / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)

    def begin(*options: str, port: str = "", **more: str) -> tuple[str, subprocess.Popen[str]]:
        port = port or str(free_port())
        arguments = ["start", "--head", "--block", f"--port={port}", f"--temp-dir={temp}", "--num-cpus=2"]
        environment = {**env, "RAY_AUTH_MODE": "token", "PYTHONUNBUFFERED": "1", **more}
        process = start(*arguments, "--include-dashboard=false", *options, program=[RAY], env=environment)
        started.append(process)
        told(process, "Ray runtime started")
        return f"127.0.0.1:{port}", process

    yield begin
    for process in started:
        for pid in living(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(temp, ignore_errors=True)


Begin = Callable[..., tuple[str, subprocess.Popen[str]]]


def test_a_cluster_is_joined_with_its_token_only(begin_head: Begin, env: dict[str, str], tmp_path: Path) -> None:
    address, _ = begin_head()
    inside = "print(cluster.describe()); cluster.refuse_impossible(LaunchSpec(cpus=4))"
    said, refused = connecting(address, env, inside).splitlines()
    assert re.fullmatch(r"Ray at [\d.]+:\d+: 1 node, 2 CPUs", said), said
    assert refused.startswith("refused: A run asks for 4 CPUs on one node")
    assert connecting(None, {**env, "RAY_ADDRESS": address}) == said
    (tmp_path / "other").mkdir()
    stranger = environment(tmp_path / "other")
    assert "requires a token, and there is none here" in connecting(address, stranger)
    wrong = connecting("auto", {**stranger, "RAY_ADDRESS": address, "RAY_AUTH_TOKEN": "1" * 64})
    assert "does not accept the token of this machine" in wrong
    assert wrong.endswith("left: True")
    assert "1" * 64 not in wrong


LOST = """
import dataclasses, os, sys
from rt_scale.ray_backend.cluster import connect, ray
from rt_scale.ray_backend.head import SILENT, Head, watch_head
def lost(since, trouble):
    print("lost", trouble.what, flush=True)
    os._exit(7)
before = [None]
def trouble():
    found = head.trouble()
    if found != before[0]:
        print("trouble", found and found.what, flush=True)
    before[0] = found
    return dataclasses.replace(SILENT, patience=float(sys.argv[2])) if found == SILENT else found
with connect(sys.argv[1]) as cluster:
  head = Head(cluster.address)
  with watch_head(trouble, lost):
      @ray.remote
      def work():
          import time
          time.sleep(1000)
      running = work.remote()
      print("up", flush=True)
      ray.get(running)
"""


def test_a_lost_head_is_noticed_before_ray_ends_the_process(
    begin_head: Begin, env: dict[str, str], start: Start, living: Callable[[int], list[int]]
) -> None:
    address, process = begin_head()
    driver = start("-c", LOST, address, SILENT.patience, program=[sys.executable], env=env)
    told(driver, "up")
    (gcs,) = (pid for pid in living(process.pid) if name_of(pid) == "gcs_server")
    os.kill(gcs, signal.SIGSTOP)
    assert told(driver, "trouble") == HANGS.what
    os.kill(gcs, signal.SIGCONT)
    assert told(driver, "trouble") == "None"
    os.kill(gcs, signal.SIGKILL)
    assert told(driver, "lost") == SILENT.what
    assert driver.wait(30) == 7


def test_a_head_that_was_started_anew_and_a_driver_whose_own_node_is_lost(
    begin_head: Begin, env: dict[str, str], start: Start, living: Callable[[int], list[int]]
) -> None:
    address, process = begin_head()
    driver = start("-c", LOST, address, 300, program=[sys.executable], env=env)  # a start takes its time
    told(driver, "up")
    for pid in living(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait(60)
    soon = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "2"}
    _, process = begin_head(port=address.rpartition(":")[2], **soon)
    assert told(driver, "lost") == RESTARTED.what
    assert driver.wait(30) == 7
    driver = start("-c", LOST, address, 300, program=[sys.executable], env=env)
    told(driver, "up")
    process.send_signal(signal.SIGSTOP)  # it would end the head with the node
    (raylet,) = (pid for pid in living(process.pid) if name_of(pid) == "raylet")
    os.kill(raylet, signal.SIGKILL)
    assert told(driver, "lost") == LEFT.what
    assert driver.wait(30) == 7


KINDS = """
cluster_name: pretended
max_workers: 8
provider:
  type: external
  module: ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider
  use_node_id_as_ip: true
  disable_node_updaters: true
  disable_launch_config_check: true
head_node_type: head
available_node_types:
  head: {resources: {CPU: 2}, node_config: {}, max_workers: 0}
  big: {resources: {CPU: 8}, node_config: {}, min_workers: 0, max_workers: 3}
upscaling_speed: 1.0
idle_timeout_minutes: 1
auth: {}
docker: {}
file_mounts: {}
cluster_synced_files: []
file_mounts_sync_continuously: false
rsync_exclude: []
rsync_filter: []
initialization_commands: []
setup_commands: []
head_setup_commands: []
worker_setup_commands: []
head_start_ray_commands: []
worker_start_ray_commands: []
"""


def test_an_autoscaler_is_judged_by_its_kinds_of_node(begin_head: Begin, env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "kinds.yaml"
    file.write_text(KINDS)
    pretend = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    address, _ = begin_head(f"--autoscaling-config={file}", **pretend)
    inside = (
        "print(cluster.autoscaling, cluster.at_once(LaunchSpec(cpus=8, workers=1)));"
        "cluster.refuse_impossible(LaunchSpec(cpus=8, workers=3));"
        "cluster.refuse_impossible(LaunchSpec(cpus=9))"
    )
    said = connecting(address, env, inside)
    assert said.startswith("True 3\nrefused: A run asks for 9 CPUs on one node")
    assert "up to 3 nodes of 8 CPUs: big" in said


TWO = """
import os, subprocess, sys
os.environ["RAY_AUTH_MODE"] = "token"
from rt_scale.ray_backend.local_ray import own_token
own_token()
from rt_scale.ray_backend.cluster import connect, ray
from rt_scale.ray_backend.control import draining_nodes
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec
from ray import tune
from ray.cluster_utils import Cluster as Nodes

nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
added = nodes.add_node(num_cpus=1, resources={"second": 1})
with connect(nodes.address) as cluster:
    print("has", cluster.describe())
    cluster.refuse_impossible(LaunchSpec(workers=2))
    try:
        cluster.refuse_impossible(LaunchSpec(cpus=2))
    except InputError as error:
        print("refused", error)

    @ray.remote(num_cpus=1)
    class Worker:
        def place(self):
            return ray.get_runtime_context().get_node_id()
        def look(self):
            return sorted(draining_nodes())

    first, second = Worker.remote(), Worker.options(resources={"second": 1}).remote()
    head, node = ray.get([first.place.remote(), second.place.remote()])
    # All CPUs are taken: a trial whose workers are elsewhere starts all the same, on the head.
    def trial(config):
        tune.report({"node": ray.get_runtime_context().get_node_id()})
    bundle = cluster.trial_resources(LaunchSpec(workers=2))
    results = tune.Tuner(
        tune.with_resources(trial, tune.PlacementGroupFactory([bundle])),
        run_config=tune.RunConfig(storage_path=sys.argv[2], verbose=0, callbacks=[]),
    ).fit()
    print("trials", results.num_errors)
    print("before", ray.get([first.look.remote(), second.look.remote()]))
    subprocess.run(
        [sys.argv[1], "drain-node", "--address", nodes.address, "--node-id", node, "--reason",
         "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test", "--deadline-remaining-seconds", "600"],
        check=True, capture_output=True,
    )
    print("after", ray.get([first.look.remote(), second.look.remote()]) == [[node], [node]], node != head)
try:
    with connect(nodes.address, train=True):
        pass
except InputError as error:
    print("several", error)
nodes.shutdown()
print("done", flush=True)
"""


SAID = ["has", "refused", "trials", "before", "after", "several", "done"]


def test_two_nodes_one_of_which_is_taken_away(env: dict[str, str], start: Start, tmp_path: Path) -> None:
    process = start("-c", TWO, RAY, str(tmp_path / "trials"), program=[sys.executable], env=env)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    lines = [line for line in out.splitlines() if line.partition(" ")[0] in SAID]
    assert re.fullmatch(r"has Ray at [\d.]+:\d+: 2 nodes, 2 CPUs", lines[0]), out
    assert lines[1].startswith("refused A run asks for 2 CPUs on one node")
    assert "2 nodes of 1 CPU" in lines[1]
    assert lines[2:5] == ["trials 0", "before [[], []]", "after True True"]
    assert lines[5].startswith("several The head of the Ray cluster has no dashboard that answers (")
    assert lines[6:] == ["done"]
