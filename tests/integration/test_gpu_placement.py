"""Where runs are placed on nodes of several kinds with pretended GPUs, and which GPUs their processes see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.store.store import Store
from tests.integration.conftest import PROGRAM, TIMEOUT
from tests.integration.several_nodes import Nodes

Start = Callable[..., subprocess.Popen[str]]
KINDS: dict[str, dict[str, Any]] = {
    "a100": {"num_cpus": 3, "num_gpus": 4, "resources": {"accelerator_type:A100": 1}},
    "l4": {"num_cpus": 2, "num_gpus": 1, "resources": {"accelerator_type:L4": 1}},
    "plain": {"num_cpus": 2},
}
LAUNCHES: dict[str, dict[str, Any]] = {
    "one": {"gpus": 1, "accelerator": "A100"},
    "two": {"gpus": 2},
    "half": {"gpus": 0.5, "accelerator": "L4"},
    "none": {"gpus": 0},
    "ranks": {"gpus": 1, "workers": 2},
}
NET = """
import json, os, pathlib, uuid
import ray
from torch import nn
class Tells(nn.Sequential):
    def __init__(self, channels, folder, name):
        super().__init__(nn.Conv2d(channels, 4, 3, 2), nn.ReLU(), nn.Flatten())
        told = {
            "name": name,
            "rank": int(os.environ.get("RANK", "0")),
            "group": os.environ.get("MASTER_PORT", ""),
            "sees": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "has": sorted(map(str, ray.get_gpu_ids())),
            "node": ray.get_runtime_context().get_node_id(),
        }
        pathlib.Path(folder, f"{uuid.uuid4()}.json").write_text(json.dumps(told))
"""
TELLS = """
import os, pathlib, threading, time
def tell(last=None):
    while True:
        title = pathlib.Path("/proc/self/cmdline").read_text().partition("\\0")[0].partition(".")[0]
        now = (title, os.environ.get("CUDA_VISIBLE_DEVICES"))
        if now != last and title.startswith("ray::"):
            with open(f"{folder}/process-{os.getpid()}", "a") as file:
                print(*now, sep=" ", file=file)
        last = now
        time.sleep(0.2)
threading.Thread(target=tell, daemon=True).start()
"""
"""Every Python process of the cluster begins with this: what Ray calls it, and what it sees."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which all processes of the cluster tell what they see."""
    folder = tmp_path_factory.mktemp("told")
    (folder / "sitecustomize.py").write_text(f"folder = {str(folder)!r}{TELLS}")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


def test_every_process_sees_the_gpus_of_its_run_and_no_other(
    told: Path, nodes: Nodes, start: Start, tmp_path: Path, data_dir: Path
) -> None:
    kinds = {nodes("add", json.dumps(each)): kind for kind, each in KINDS.items()}
    (tmp_path / "telling.py").write_text(NET)
    for name, launch in LAUNCHES.items():
        document = {
            "name": name,
            "import": "telling",
            "base": {
                "data": {"name": "digits", "samples": 64},
                "encoder": {"name": "Tells", "args": {"folder": str(told), "name": name}},
                "projector": {"hidden": [8], "bottleneck": 4, "out_dim": 8},
                "train": {"epochs": 1, "batch_size": 32},
                "probe": {"epochs": 1, "standardized": False},
            },
            "launch": launch,
            "seeds": 2 if name in ("half", "ranks") else 1,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    files = [f"{name}.yaml" for name in LAUNCHES]
    where = ["--store", tmp_path / "store", "--data-dir", data_dir, "--address", nodes.address, "--device", "cpu"]
    process = start("sweep", *files, *where, program=[PROGRAM], cwd=tmp_path, env=nodes.environment)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, (out, err)
    seen: dict[str, set[tuple[str, int, tuple[str, ...]]]] = {name: set() for name in LAUNCHES}
    groups: dict[str, set[tuple[str, str]]] = {}  # of the workers of a run, by the port where they meet
    for path in told.glob("*.json"):
        each = json.loads(path.read_text())
        sees = sorted(filter(None, each["sees"].split(",")))
        assert sees == each["has"], each
        seen[each["name"]].add((kinds[each["node"]], each["rank"], tuple(sees)))
        if each["name"] == "ranks":
            groups.setdefault(each["group"], set()).add((each["node"], each["sees"]))
    ((one, _, sees),) = seen["one"]
    assert (one, len(sees)) == ("a100", 1)
    ((two, _, sees),) = seen["two"]
    assert (two, len(sees)) == ("a100", 2)
    assert seen["half"] == {("l4", 0, ("0",))}
    assert {sees for _, _, sees in seen["none"]} == {()}
    assert {rank for _, rank, _ in seen["ranks"]} == {0, 1}
    assert {len(sees) for _, _, sees in seen["ranks"]} == {1}
    assert [len(gpus) for gpus in groups.values()] == [2, 2]  # each worker has one of its own
    # Two runs, of two workers each, and GPUs for one of them at first: neither holds what the other waits for.
    records = {run_dir.path.name: run_dir.record() for run_dir in Store(tmp_path / "store")}
    attempts = {name: record.attempts for name, record in records.items() if record is not None}
    ranks = [[(each.workers, each.threads) for each in those] for those in attempts.values() if those[-1].workers > 1]
    assert ranks == [[(2, 1)]] * 2
    values: dict[str, set[str]] = {name: set() for name in ("_Control", "TrainController", "RayTrainWorker")}
    for path in told.glob("process-*"):
        title, value = path.read_text().splitlines()[-1].split(" ")
        values.setdefault(title.removeprefix("ray::").partition("(")[0], set()).add(value)
    # The control actor, and what starts the workers of a run, see none; a trial (ImplicitFunc) those of its run.
    assert values["_Control"] == values["TrainController"] == {""}
    assert values["ImplicitFunc"] >= {"", "0"}
    assert {(gpu,) for gpu in values["RayTrainWorker"]} == {sees for _, _, sees in seen["ranks"]}
