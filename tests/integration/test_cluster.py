"""Real Rays, each in processes and a home of its own: joined, refused, drained, lost."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.joining import Start, connecting, environment, told


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Variables of a user with an empty home and nothing set for Ray."""
    home = tmp_path / "home"
    home.mkdir()
    return environment(home)


def listening(pids: list[int]) -> dict[str, int]:
    """Where processes listen: hexadecimal address as the kernel has it -> how many."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            sockets |= {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
    found: dict[str, int] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                address = fields[1].partition(":")[0]
                found[address] = found.get(address, 0) + 1
    return found


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
OWN = """
import sys
from rt_scale.ray_backend.cluster import connect, ray
with connect(train=True) as cluster:
    @ray.remote
    def work():
        return 1
    ray.get(work.remote())
    print("up", cluster.address, ray._private.worker._global_node.webui_url, flush=True)
    sys.stdin.readline()
"""


def test_a_ray_of_our_own_is_on_localhost_and_wants_its_token(
    env: dict[str, str], start: Start, living: Callable[[int], list[int]], tmp_path: Path
) -> None:
    process = start("-c", OWN, program=[sys.executable], env=env, stdin=subprocess.PIPE)
    address, board = told(process, "up").split()
    assert address.startswith("127.0.0.1:")
    pids = living(process.pid)
    found = listening(pids)
    assert sum(found.values()) >= 6
    assert set(found) <= LOOPBACK
    file = Path(env["HOME"]) / ".ray" / "auth_token"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for pid in pids:
        for about in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                assert file.read_bytes() not in Path(f"/proc/{pid}/{about}").read_bytes()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://{board}/api/v0/nodes", timeout=60)
    (tmp_path / "stranger").mkdir()
    assert asked(address, environment(tmp_path / "stranger")) == "no token"
    assert asked(address, {**env, "RAY_AUTH_MODE": "token"}) is None
    # What is signalled to the driver's process group is for the driver alone.
    assert [pid for pid in pids if os.getpgid(pid) == process.pid] == [process.pid]
    out, err = process.communicate("\n", timeout=480)
    assert file.read_text() not in out + err
    assert process.returncode == 0


def asked(address: str, env: dict[str, str]) -> object:
    """What stands in the way of joining the Ray at ``address``, also on localhost, which Ray would replace."""
    code = (
        "import sys, json; from rt_scale.ray_backend import probe; from ray._private import services; "
        "services.canonicalize_bootstrap_address_or_die = lambda a: a; "
        "print(json.dumps(probe.describe_cluster(sys.argv[1])))"
    )
    ended = subprocess.run([sys.executable, "-c", code, address], env=env, capture_output=True, text=True, timeout=480)
    return json.loads(ended.stdout.splitlines()[-1]).get("problem")


def test_what_is_said_goes_to_a_file_and_a_token_is_kept_from_others(env: dict[str, str], tmp_path: Path) -> None:
    token = Path(env["HOME"]) / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a token of the user's own")
    token.chmod(0o644)
    code = f"""
import logging, pathlib, time
from rt_scale.ray_backend.cluster import connect, ray
logs = pathlib.Path({str(tmp_path / "logs")!r})
with connect(log_dir=logs):
    @ray.remote
    def work():
        print("said by a worker")
    ray.get(work.remote())
    logging.getLogger("ray.anything").info("said by Ray")
    # The workers' output is gathered every half a second, by a process that may be late to begin.
    end = time.monotonic() + 60
    while "said by a worker" not in (logs / "ray.log").read_text() and time.monotonic() < end:
        time.sleep(0.1)
"""
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=480)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    text = (tmp_path / "logs" / "ray.log").read_text()
    assert "said by a worker" in text
    assert "INFO ray.anything: said by Ray" in text
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == "a token of the user's own"


GIVEN = """
import os, sys
from ray._private.accelerators import NvidiaGPUAcceleratorManager as Nvidia
from rt_scale.ray_backend.cluster import connect, ray
Nvidia.get_current_node_num_accelerators = staticmethod(lambda: int(sys.argv[1]))  # as NVIDIA's driver
with connect() as cluster:
    print(cluster.describe())
    @ray.remote(num_gpus=1, num_cpus=0)
    class Trial:
        def sees(self):
            return os.environ["CUDA_VISIBLE_DEVICES"]
    trials = [Trial.remote(), Trial.remote()]
    print(sorted(ray.get([trial.sees.remote() for trial in trials])))
"""


@pytest.mark.parametrize(("gpus", "whole"), [("1,3", 4), ("MIG-41b35014,MIG-5c1fb2a7", 1)])
def test_a_ray_of_our_own_takes_the_cores_and_gpus_that_slurm_gave(env: dict[str, str], gpus: str, whole: int) -> None:
    given = {**env, "SLURM_CPUS_ON_NODE": "1", "CUDA_VISIBLE_DEVICES": gpus}
    words = [sys.executable, "-c", GIVEN, str(whole)]
    ended = subprocess.run(words, env=given, capture_output=True, text=True, timeout=480)
    assert ended.stdout == f"a local Ray: 1 node, 1 CPU, 2 GPUs\n{gpus.split(',')}\n", ended.stderr


SLOW = """
import time
from rt_scale.ray_backend.cluster import connect
from rt_scale.system.signals import stopping_on_signals
with stopping_on_signals(lambda text: None) as stopping, connect():
    print("up", flush=True)
    while not stopping():
        time.sleep(0.01)
    time.sleep(4)
    print("in order", flush=True)
"""


def test_who_is_asked_to_stop_may_take_longer_than_ray_would_wait(env: dict[str, str], start: Start) -> None:
    process = start("-c", SLOW, program=[sys.executable], env=env)
    told(process, "up")
    process.terminate()
    out, err = process.communicate(timeout=480)
    assert (process.returncode, out) == (0, "in order\n"), err


def test_a_port_where_nothing_answers(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        said = connecting(f"127.0.0.1:{mute.getsockname()[1]}", env)
    assert said.startswith("refused: No Ray cluster answers at ")
    assert said.endswith("left: True")
