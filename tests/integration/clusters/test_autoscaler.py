"""Ray's autoscaler, of both versions, with pretended nodes: what a sweep asks of it, and when nodes go."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private.services import get_node_ip_address

from rt_scale.ray_backend.usage import SAMPLE_S
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from rt_scale.store.usage import read_usage
from tests.integration.conftest import PROGRAM, TIMEOUT
from tests.integration.joining import RAY, Start, connecting, environment, name_of, told
from tests.integration.sweeping import slow_down
from tests.integration.sweeping import until as wait_until
from tests.integration.test_cluster_nodes import free_port

HEAD = "f" * 51 + "00000"
"""The head's node id, which version 2 is told."""
LISTS = (
    "cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands", "setup_commands",
    "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
KINDS: dict[str, Any] = {
    "ray.head.default": {"resources": {"CPU": 0}, "max_workers": 0},
    "core": {"resources": {"CPU": 1}, "max_workers": 4},
    "gpus": {"resources": {"CPU": 4, "GPU": 2, "accelerator_type:A10G": 1}, "max_workers": 2},
}
SMALL: dict[str, Any] = {
    "name": "grows",
    "base": {
        "data": {"name": "digits", "samples": 200},
        "encoder": {"name": "convnet_4_1"},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 16},
        "train": {"epochs": 2},
    },
    "axes": {"student.alpha": [0.1, 0.5]},
}
HELD = {**SMALL["base"], "objective": {"name": "own_slow:cross_entropy"}}
"""The same, of half a second an epoch."""
WATCH = """
import json, time, ray
from ray._private.state import available_resources_per_node
ray.init({address!r}, log_to_driver=False, logging_level="ERROR")
while True:
    free = available_resources_per_node()
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    print("nodes now", json.dumps({{node: free.get(node, {{}}).get("CPU", 0.0) for node in nodes}}), flush=True)
    time.sleep(0.5)
"""


class Growing:
    """A head with an autoscaler, and who joins it."""

    def __init__(self, head: subprocess.Popen[str], address: str, env: dict[str, str], start: Start) -> None:
        self.head, self.address, self.env, self._start = head, address, env, start
        self.most = 0

    def sweep(self, folder: Path, data_dir: Path, *options: str, **changes: Any) -> subprocess.Popen[str]:
        """Begins a sweep of small runs with its store in ``folder``."""
        folder.mkdir(exist_ok=True)
        (folder / "s.yaml").write_text(yaml.safe_dump({**SMALL, **changes}))
        place = ["--store", str(folder / "store"), "--data-dir", str(data_dir), "--address", self.address]
        arguments = ["sweep", str(folder / "s.yaml"), *place, "--device", "cpu", *options]
        return self._start(*arguments, program=[PROGRAM], env=self.env)

    @contextlib.contextmanager
    def watching(self) -> Iterator[Callable[[Callable[[dict[str, float]], bool]], dict[str, float]]]:
        """Yields what waits until the nodes that hold runs, with their free CPUs, are as asked; counts the ``most``."""
        process = self._start("-c", WATCH.format(address=self.address), program=[sys.executable], env=self.env)

        def until(so: Callable[[dict[str, float]], bool]) -> dict[str, float]:
            while True:
                nodes: dict[str, float] = json.loads(told(process, "nodes now"))
                self.most = max(self.most, len(nodes))
                if so(nodes):
                    return nodes

        hangs = threading.Timer(TIMEOUT, process.kill)
        hangs.start()
        try:
            yield until
        finally:
            hangs.cancel()
            process.kill()


@pytest.fixture
def grow(start: Start, tmp_path: Path, living: Callable[[int], list[int]]) -> Iterator[Callable[[int, float], Growing]]:
    """Starts a head with version 1 or 2 of the autoscaler, which takes nodes away after so many idle seconds."""
    temp, started = Path("/tmp") / f"rt-scale-{secrets.token_hex(4)}", list[subprocess.Popen[str]]()

    def begin(version: int, idle: float) -> Growing:
        port, home = free_port(), tmp_path / "home"
        token = home / ".ray" / "auth_token"
        token.parent.mkdir(parents=True)
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        env = {
            **environment(home),
            "RAY_AUTH_MODE": "token",
            "PYTHONPATH": str(tmp_path),
            "SLOW": str(slow_down(tmp_path)),
        }
        file = tmp_path / "cluster.yaml"
        file.write_text(yaml.safe_dump(_config(version, idle, f"{get_node_ip_address()}:{port}")))
        pretended = {**env, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "PYTHONUNBUFFERED": "1"}
        if version == 2:
            pretended |= {"RAY_enable_autoscaler_v2": "1"}
            pretended |= dict.fromkeys(("RAY_CLOUD_INSTANCE_ID", "RAY_OVERRIDE_NODE_ID_FOR_TESTING"), HEAD)
        arguments = ["--head", "--block", f"--port={port}", f"--temp-dir={temp}", "--num-cpus=0"]
        options = ["--include-dashboard=false", f"--autoscaling-config={file}"]
        head = start("start", *arguments, *options, program=[RAY], env=pretended)
        started.append(head)
        told(head, "Ray runtime started")
        return Growing(head, f"127.0.0.1:{port}", env, start)

    yield begin
    for process in started:
        for pid in living(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    shutil.rmtree(temp, ignore_errors=True)


def _config(version: int, idle: float, gcs: str) -> dict[str, Any]:
    provider: dict[str, Any] = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": gcs,
    }
    provider |= dict.fromkeys(("use_node_id_as_ip", "disable_node_updaters", "disable_launch_config_check"), True)
    provider |= {"launch_multiple": True, "head_node_id": HEAD} if version == 2 else {}
    kinds = {name: {"node_config": {}, "min_workers": 0, **kind} for name, kind in KINDS.items()}
    return {
        "cluster_name": "pretended", "max_workers": 8, "provider": provider, "head_node_type": "ray.head.default",
        "available_node_types": kinds, "upscaling_speed": 100.0, "idle_timeout_minutes": idle / 60, "auth": {},
        "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False, **{name: [] for name in LISTS},
    }  # fmt: skip


def test_from_no_node_to_as_many_as_runs_need_and_back(
    grow: Callable[[int, float], Growing],
    tmp_path: Path,
    data_dir: Path,
    living: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing = grow(2, 6.0)
    monkeypatch.syspath_prepend(tmp_path)

    def raylets() -> set[int]:
        return {pid for pid in living(growing.head.pid) if name_of(pid) == "raylet"}

    own = raylets()
    # Three runs for two nodes: two end soon, the last one goes on and on.
    axes = {"train.epochs": [2, 3, 100_000]}
    sweep = growing.sweep(tmp_path / "a", data_dir, "--max-nodes", "2", base=HELD, axes=axes)
    with growing.watching() as until:
        until(lambda nodes: len(nodes) == 2)
        # The tail: the node of the others goes while the last run is executed.
        (last,) = until(lambda nodes: len(nodes) == 1)
        store, points = Store(tmp_path / "a" / "store"), load_sweep(tmp_path / "a" / "s.yaml")[1]
        assert [store.status(point.spec.name).state for point in points] == ["done", "done", "running"]
        sweep_dir = store.sweep("grows")
        wait_until(lambda: any(run.step > 0 for run in read_usage([sweep_dir])[0].live.values()))
        (raylet,) = raylets() - own
        os.kill(raylet, signal.SIGKILL)
        until(lambda nodes: last not in nodes and [*nodes.values()] == [0.0])
        wait_until(lambda: read_usage([sweep_dir])[0].interruptions == 1)
    sweep.terminate()
    out, err = sweep.communicate(timeout=TIMEOUT)
    assert sweep.returncode == 130, (out, err)
    assert growing.most == 2
    (usage,) = read_usage([sweep_dir])
    assert len(usage.nodes) == 3
    assert usage.lost["cpu"] > 0
    assert (
        0.5 < sum(stay.held["cpu"] for stay in usage.nodes) / sum(stay.end - stay.start for stay in usage.nodes) <= 1.01
    )


def test_gpus_in_parts_and_by_type_and_what_can_never_be(
    grow: Callable[[int, float], Growing], tmp_path: Path, data_dir: Path
) -> None:
    growing = grow(1, 60.0)
    inside = "\n        ".join(
        [
            "for asked in (dict(gpus=4), dict(gpus=1, accelerator='H100'), dict(memory=64), dict(gpus=2, workers=3)):",
            "    try:",
            "        cluster.refuse_impossible(LaunchSpec(**asked))",
            "    except InputError as error:",
            "        print(error)",
            "print(cluster.at_once(LaunchSpec(gpus=0.5, accelerator='A10G')))",
        ]
    )
    *refused, fits = connecting(growing.address, growing.env, inside).splitlines()
    told_of = ["1 CPU, 4 GPUs on one node", "accelerator 'H100'", "64 GiB of memory on one node", "3 workers of 1 CPU"]
    assert [words in line for words, line in zip(told_of, refused, strict=True)] == [True] * 4
    assert fits == "8"
    # Runs that take longer than it takes the driver's meter to look twice.
    slow = {**HELD, "train": {"epochs": int(4 * SAMPLE_S)}}
    options = ["--gpus", "0.5", "--accelerator", "A10G", "--wait-nodes", "1"]
    sweep = growing.sweep(tmp_path / "g", data_dir, *options, base=slow)
    with growing.watching() as until:
        until(lambda nodes: len(nodes) == 1)
    out, err = sweep.communicate(timeout=TIMEOUT)
    assert sweep.returncode == 0, (out, err)
    assert "0 nodes of 1 with room for a run; waiting since" in out
    assert "1 node of 1" in out
    (usage,) = read_usage([Store(tmp_path / "g" / "store").sweep("grows")])
    # Both runs share one of its GPUs.
    (stay,) = usage.nodes
    assert (stay.has, stay.accelerator) == ({"gpu": 2.0, "cpu": 4.0}, "A10G")
    assert 0 < stay.held["gpu"] <= stay.end - stay.start
    assert "Runs held" in out
