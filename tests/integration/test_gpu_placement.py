"""Where runs are placed on nodes of several kinds with pretended GPUs, and which GPUs their processes see."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.integration.conftest import TIMEOUT
from tests.integration.several_nodes import Nodes

Start = Callable[..., subprocess.Popen[str]]
KINDS: dict[str, dict[str, Any]] = {
    "a100": {"num_cpus": 5, "num_gpus": 4, "resources": {"accelerator_type:A100": 1}},
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
import json, os, pathlib
import ray
from torch import nn
class Tells(nn.Sequential):
    def __init__(self, channels, folder, name):
        super().__init__(nn.Conv2d(channels, 4, 3, 2), nn.ReLU(), nn.Flatten())
        told = {
            "name": name,
            "rank": int(os.environ.get("RANK", "0")),
            "sees": os.environ.get("CUDA_VISIBLE_DEVICES"),
            "has": sorted(map(str, ray.get_gpu_ids())),
            "node": ray.get_runtime_context().get_node_id(),
        }
        pathlib.Path(folder, f"{name}-{os.getpid()}.json").write_text(json.dumps(told))
"""
DRIVER = """
import sys
from rt_scale.cli import main
try:
    main()
finally:
    print("driver", "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized(), flush=True)
"""


def test_every_process_sees_the_gpus_of_its_run_and_no_other(
    nodes: Nodes, start: Start, tmp_path: Path, data_dir: Path
) -> None:
    kinds = {nodes("add", json.dumps(each)): kind for kind, each in KINDS.items()}
    told = tmp_path / "told"
    told.mkdir()
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
            "seeds": 2 if name in ("half", "none") else 1,
        }
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(document))
    files = [f"{name}.yaml" for name in LAUNCHES]
    where = ["--store", tmp_path / "store", "--data-dir", data_dir, "--address", nodes.address, "--device", "cpu"]
    program = [sys.executable, "-c", DRIVER]
    process = start("sweep", *files, *where, program=program, cwd=tmp_path, env=nodes.environment)
    out, err = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, (out, err)
    found = [json.loads(path.read_text()) for path in told.iterdir()]
    seen: dict[str, list[tuple[str, list[str]]]] = {name: [] for name in LAUNCHES}
    for each in found:
        sees = sorted(each["sees"].split(",")) if each["sees"] else []
        assert sees == each["has"], each
        assert each["sees"] is not None
        seen[each["name"]].append((kinds[each["node"]], sees))
    assert {kind for kind, _ in seen["one"] + seen["two"]} == {"a100"}
    assert [len(sees) for name in ("one", "two") for _, sees in seen[name]] == [1, 2]
    # Parts of a GPU are of one GPU, and what needs none leaves the nodes with GPUs to others.
    assert seen["half"] == [("l4", ["0"])] * 2
    assert seen["none"] == [("plain", [])] * 2
    (first, second) = seen["ranks"]
    assert first[0] != second[0] or first[1] != second[1]
    assert {len(sees) for _, sees in seen["ranks"]} == {1}
    assert out.splitlines()[-1] == "driver False"
