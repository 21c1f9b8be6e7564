"""The files that `rt-scale cluster write` makes pass `rt-scale cluster check`; broken, each is named in its line."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters.check import check_file
from rt_scale.clusters.check.document import Asked
from rt_scale.clusters.write import KINDS
from rt_scale.spec.sweep import LaunchSpec
from tests.integration.conftest import PROGRAM
from tests.unit.clusters.broken import change, crds, told

CLUSTER = Path(__file__).parents[2] / "cluster"
STORES = {
    "gcp": "gs://bucket/runs",
    "hosts": "/shared/runs",
    "slurm_array": "/shared/runs",
    "slurm_nodes": "/shared/runs",
}
RUNS = {
    "cpu": {"cpus": 2},
    "gpu": {"cpus": 4, "gpus": 1},
    "several": {"cpus": 2, "gpus": 1, "workers": 2},
    "shared": {"cpus": 1, "gpus": 0.5},
}
SWEEP = {
    "name": "mine",
    "base": {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_3"}, "train": {"epochs": 1}},
}
Write = Callable[..., Path]


def example(kind: str) -> str:
    """The name of the kind's file in cluster/."""
    return KINDS[kind].template.removesuffix(".j2")


def asked(kind: str, **launch: object) -> Asked:
    launches = {"mine": LaunchSpec(**launch)} if launch else {}
    return Asked(STORES.get(kind, "s3://bucket/runs"), launches, crds() if kind == "kuberay" else None)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """`rt-scale cluster write KIND` for a sweep with the launch section given; returns the file."""
    monkeypatch.chdir(tmp_path)

    def call(kind: str, *options: str, **launch: object) -> Path:
        Path("sweep.yaml").write_text(yaml.safe_dump({**SWEEP, "launch": launch}))
        store = STORES.get(kind, "s3://bucket/runs")
        words = ["cluster", "write", kind, "sweep.yaml", "--store", store, "--out", kind, "--max", "4", *options]
        result = CliRunner().invoke(app, words)
        assert result.exception is None, result.output
        return Path(kind)

    return call


@pytest.mark.parametrize("spot", ["--spot", "--no-spot"])
@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_has_no_problem(write: Write, kind: str, runs: str, spot: str) -> None:
    file = write(kind, spot, **RUNS[runs])
    assert told(check_file(file, asked(kind, **RUNS[runs]))) == ""


@pytest.mark.parametrize(
    ("kind", "name"), [*((kind, example(kind)) for kind in KINDS), ("kuberay", "kuberay_gpu.yaml")]
)
def test_the_files_in_cluster_have_no_problem(kind: str, name: str) -> None:
    found = check_file(CLUSTER / name, dataclasses.replace(asked(kind), store=None))
    assert told(found) == ""


def test_the_command_as_a_user_types_it(write: Write) -> None:
    words = [PROGRAM, "cluster", "check", str(write("kuberay")), "sweep.yaml", "--crds", str(crds())]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "Nothing is wrong with kuberay." in done.stdout
    text, line = change(Path("kuberay").read_text(), "medium: Memory", "medum: Memory")
    Path("kuberay").write_text(text)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"kuberay:{line}: spec.rayClusterSpec.headGroupSpec" in done.stdout
    assert "emptyDir.medum: unknown field" in done.stdout
    assert done.stderr == "rt-scale: kuberay has 1 problem; correct the lines named above.\n"


FREE = ("file_mounts", "envs", "nodeSelector", "data", "accelerators")
"""Mappings whose keys a user chooses."""


def keys_of(node: yaml.Node, inside: str = "") -> list[yaml.Node]:
    """Every key of a document that its format decides."""
    if isinstance(node, yaml.SequenceNode):
        return [each for value in node.value for each in keys_of(value, inside)]
    if not isinstance(node, yaml.MappingNode):
        return []
    chosen = inside == "available_node_types"
    mine = [key for key, _ in node.value if not chosen and not key.value.startswith("accelerator_type:")]
    deeper = [each for key, value in node.value if key.value not in FREE for each in keys_of(value, key.value)]
    return [*mine, *deeper]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("slurm")])
def test_a_slip_in_any_key_is_found_in_its_line(write: Write, kind: str) -> None:
    file = write(kind, **RUNS["gpu"])
    text = file.read_text()
    lines, missed, count = text.splitlines(keepends=True), [], 0
    for node in yaml.compose_all(text, Loader=yaml.SafeLoader):
        # A manifest says much several times, and each check of it takes a while.
        for key in keys_of(node)[:: 3 if kind == "kuberay" else 1] if node is not None else ():
            row, column = key.start_mark.line, key.start_mark.column
            word = key.value
            slip = word[:-1] if word[-1] == word[-2] else word[:-2] + word[-1] + word[-2]
            broken = lines[row][:column] + lines[row][column:].replace(word, slip, 1)
            file.write_text("".join([*lines[:row], broken, *lines[row + 1 :]]))
            count += 1
            if row + 1 not in [problem.line for problem in check_file(file, asked(kind)).problems]:
                missed.append(broken)
    assert count >= 8
    assert missed == []


BROKEN = {
    "aws": [
        ("InstanceType: m7i.large", "InstanceType: m7i.larg", "did you mean 'm7i.large'"),
        ("HttpTokens: required", "HttpTokens: require", "did you mean 'required'"),
        ("VolumeSize: 60", "VolumeSize: 60GB", "allowed: a whole number"),
        ("MarketType: spot", "MarketTyp: spot", "did you mean 'MarketType'"),
        ("ssh_from: 203.0.113.7/32", "ssh_from: 0.0.0.0/0", "open to the whole world"),
        ("IamInstanceProfile: {Name: rt-scale-runs}", "EbsOptimized: true", "no credentials for s3://bucket/runs"),
        ("module: rt_scale.ray_backend.spot_first.SpotFirstAws", "module: rt_scale.ray_backend.spot.SpotFirstAws",
         "did you mean 'rt_scale.ray_backend.spot_first.SpotFirstAws'"),
        ("idle_timeout_minutes: 5\n", "", "never given back"),
        ("max_workers: 4\nupscaling", "max_workers: 0\nupscaling", "never gets a worker"),
        ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "runs any code"),
        ("RAY_AUTH_MODE=token", "", "RAY_AUTH_MODE=token on every node"),
        ("head_node_type: head", "head_node_type: heat", "did you mean 'head'"),
        ("resources: {CPU: 0}", 'resources: {CPU: "0"}', "without quotes"),
        ("region: us-west-2", "region: us-wets-2", "did you mean 'us-west-2'"),
    ],
    "gcp": [
        ("machineType: n2", "machinetype: n2", "did you mean 'machineType'"),
        ("provisioningModel: SPOT", "provisioningModel: SPOTTED", "did you mean 'SPOT'"),
        ("diskSizeGb: 60", "diskSizeGb: {}", "allowed: text or a whole number"),
        ("serviceAccounts:", "serviceAccount:", "did you mean 'serviceAccounts'"),
        ("availability_zone: us-central1-a", "availability_zone: us-west1-a", "is no zone of region"),
        ("project_id: my-project", "projekt_id: my-project", "did you mean 'project_id'"),
    ],
    "kuberay": [
        ("backoffLimit: 3", "backofLimit: 3", "did you mean 'backoffLimit'"),
        ("tolerations:", "toleration:", "did you mean 'tolerations'"),
        ("mode: token", "mode: disabled", "no token authentication"),
        ('rayVersion: "', 'rayVersion: "1', "but this machine has"),
        ("minReplicas: 0", "minReplicas: zero", "allowed: a whole number"),
        ('num-cpus: "0"', 'num-cpus: "4"', "the head takes runs"),
        ("terminationGracePeriodSeconds: 15", "terminationGracePeriodSeconds: 10", "killed while it drains"),
        ("medium: Memory", "medium: true", "in quotes"),
        ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "is paid for"),
        ("version: v2", "version: v3", "not allowed"),
        ("  name: rt-mine\nspec", "  name: 7-mine\nspec", "a letter first"),
    ],
    "slurm_array": [
        ("--cpus-per-task=4", "--cpu-per-task=4", "did you mean '--cpus-per-task'"),
        ("--time=24:00:00", "--time=24h", "days-hours"),
        ("--array=1-4", "--array=1..4", "e.g. 0-9"),
        ("set -uo pipefail\n", "set -uo pipefail\nif true; then\n", "syntax error"),
        ("#SBATCH --requeue", "# SBATCH --requeue", "takes it for a comment"),
    ],
    "hosts": [
        ("head: 192.0.2.1", "haed: 192.0.2.1", "head"),
        ("folder: rt-scale", "folders: rt-scale", "folder"),
        ("environment: []", "environment: [no-name]", "no name of a variable"),
    ],
    "sky": [
        ("use_spot: true", "use_spots: true", "did you mean 'use_spot'"),
        ("disk_size: 100", "disk_size: [100]", "[100] was given"),
    ],
}  # fmt: skip
NAMED = {
    "no credentials for s3://bucket/runs": "node_config:", "RAY_AUTH_MODE=token on every node": "ray start --head",
    "no token authentication": "authOptions:", "the head takes runs": "rayStartParams:",
    "killed while it drains": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "syntax error": "exit ",
}  # fmt: skip
"""Words of a problem that another line is to blame for -> what that line says."""
VARIANTS = [(kind, *variant) for kind, variants in BROKEN.items() for variant in variants]


@pytest.mark.parametrize(
    ("kind", "old", "new", "words"), VARIANTS, ids=[f"{each[0]} {each[2][:30]}" for each in VARIANTS]
)
def test_a_broken_file_is_named_in_its_line(write: Write, kind: str, old: str, new: str, words: str) -> None:
    file = write(kind, **RUNS["gpu"])
    text, line = change(file.read_text(), old, new)
    file.write_text(text)
    found = check_file(file, asked(kind))
    at = [each.line for each in found.problems if words in each.text]
    assert at, told(found)
    if new:
        there = range(line, line + new.rstrip("\n").count("\n") + 1)
        lines = text.splitlines()
        assert any(row in there or NAMED.get(words, "\0") in lines[row - 1] for row in at), told(found)
