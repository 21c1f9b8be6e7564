"""cluster/aws.yaml and cluster/gcp.yaml: what `rt-scale cluster write` fills in."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from moto.ec2.models.instance_types import INSTANCE_TYPES
from typer.testing import CliRunner

from rt_scale.cli import app

PROJECT = Path(__file__).parents[3]
STORES = {"aws": "s3://mine/runs", "gcp": "gs://mine/runs"}


def written(
    kind: str, launch: dict[str, Any], *options: str, most: int = 4, store: str | None = None
) -> dict[str, Any]:
    """The launcher file for a sweep with this launch section; the sweep is written here."""
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}, "train": {"epochs": 1}}
    sweep = {"name": "mine", "base": base, "axes": {"student.alpha": [0.5]}, "launch": launch}
    Path("mine.yaml").write_text(yaml.safe_dump(sweep))
    words = ["cluster", "write", kind, "mine.yaml", "--store", store or STORES[kind], "--out", "out.yaml", *options]
    words += ["--max", str(most)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, (done.output, done.exception)
    return dict(yaml.safe_load(Path("out.yaml").read_text()))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


GPUS = ["T4", "L4", "A10G", "L40S", "A100", "H100"]


@pytest.mark.parametrize("launch", [{"gpus": 1, "accelerator": name} for name in GPUS])
@pytest.mark.parametrize("count", [1, 4, 8])
def test_aws_machines_are_what_amazon_says_they_are(launch: dict[str, Any], count: int) -> None:
    kind = written("aws", {**launch, "gpus": count})["available_node_types"]["runs"]
    machine = INSTANCE_TYPES[kind["node_config"]["InstanceType"]]
    gpus = machine["GpuInfo"]["Gpus"][0]
    assert gpus["Name"].replace(" ", "").startswith(launch["accelerator"])
    assert kind["resources"] == {
        "CPU": machine["VCpuInfo"]["DefaultVCpus"],
        "GPU": gpus["Count"],
        f"accelerator_type:{launch['accelerator']}": 1,
    }
    assert gpus["Count"] >= count


@pytest.mark.parametrize(("kind", "machine"), [("aws", "p4de.24xlarge"), ("gcp", "a2-ultragpu-1g")])
def test_a_type_with_its_memory_is_one_of_its_own(kind: str, machine: str) -> None:
    found = written(kind, {"gpus": 1, "accelerator": "A100-80G"})["available_node_types"]["runs"]
    assert machine in (found["node_config"].get("InstanceType"), found["node_config"].get("machineType"))
    assert found["resources"]["accelerator_type:A100-80G"] == 1


@pytest.mark.parametrize(
    ("launch", "machine"),
    [
        ({"cpus": 1}, "m7i.large"),
        ({"cpus": 5}, "m7i.2xlarge"),
        ({"cpus": 2, "memory": 100}, "m7i.8xlarge"),
        ({"gpus": 0.25, "accelerator": "L4", "cpus": 3}, "g6.4xlarge"),
        ({"gpus": 1, "accelerator": "L4", "memory": 60}, "g6.4xlarge"),
    ],
)
def test_the_smallest_machine_that_holds_a_worker_is_taken(launch: dict[str, Any], machine: str) -> None:
    assert written("aws", launch)["available_node_types"]["runs"]["node_config"]["InstanceType"] == machine


@pytest.mark.parametrize(
    ("launch", "machine", "extra"),
    [
        ({"cpus": 3}, "n2-standard-4", None),
        ({"gpus": 2, "accelerator": "L4"}, "g2-standard-24", None),
        ({"gpus": 1, "accelerator": "T4", "cpus": 2}, "n1-standard-4", "nvidia-tesla-t4"),
        ({"gpus": 8, "accelerator": "H100"}, "a3-highgpu-8g", None),
    ],
)
def test_gcp_machines(launch: dict[str, Any], machine: str, extra: str | None) -> None:
    found = written("gcp", launch)["available_node_types"]["runs"]["node_config"]
    assert found["machineType"] == machine
    assert [each["acceleratorType"] for each in found.get("guestAccelerators", [])] == ([extra] if extra else [])


@pytest.mark.parametrize("kind", STORES)
def test_spot_machines_are_asked_for_unless_they_are_not_wanted(kind: str) -> None:
    market = {"aws": "InstanceMarketOptions", "gcp": "scheduling"}[kind]
    file = written(kind, {"cpus": 2}, most=7)
    spot, head = (file["available_node_types"][name]["node_config"] for name in ("runs", "head"))
    assert market in spot
    assert market not in head
    assert file["max_workers"] == file["available_node_types"]["runs"]["max_workers"] == 7
    assert market not in written(kind, {"cpus": 2}, "--no-spot")["available_node_types"]["runs"]["node_config"]


@pytest.mark.parametrize("kind", STORES)
def test_nothing_is_open_and_no_run_is_on_the_head(kind: str) -> None:
    file = written(kind, {"cpus": 2})
    head, workers = (" ".join(file[f"{who}_start_ray_commands"]) for who in ("head", "worker"))
    assert "0.0.0.0" not in Path("out.yaml").read_text()
    assert "--dashboard-host=127.0.0.1" in head
    assert "--num-cpus=0" in head
    assert "--block" in head
    assert "--block" in workers
    assert f"rt-scale cluster watch --cloud {kind}" in workers
    assert "cluster watch" not in head
    assert file["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert file["provider"]["cache_stopped_nodes"] is False
    assert file["idle_timeout_minutes"] == 5


def test_variables_reach_every_shell_whatever_the_store_is_called(tmp_path: Path) -> None:
    store = "s3://mine/it's a $HOME `place`"
    file = written("aws", {"cpus": 2}, "--data-origin", "s3://mine/data", store=store)
    (tmp_path / "rt-scale").mkdir()
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    shell = ["bash", "-c", f"touch ~/.bashrc; {'; '.join([*file['setup_commands'][:2]] * 2)}"]
    assert subprocess.run(shell, env=environment).returncode == 0
    assert (tmp_path / ".bashrc").read_text() == ". ~/.rt-scale\n"
    shown = 'printf "%s\\n" "$PWD" "$PATH" "$RAY_AUTH_MODE" "$RT_SCALE_STORE" "$RT_SCALE_DATA_ORIGIN"'
    done = subprocess.run(["bash", "-c", f". ~/.bashrc; {shown}"], env=environment, capture_output=True, text=True)
    folder, path, mode, place, origin = done.stdout.splitlines()
    assert folder == str(tmp_path / "rt-scale")
    assert path.startswith(f"{tmp_path}/rt-scale/.venv/bin:")
    assert (mode, place, origin) == ("token", store, "s3://mine/data")


def test_sweep_files_from_elsewhere_travel_too() -> None:
    assert written("aws", {"cpus": 2})["file_mounts"]["~/rt-scale/mine.yaml"] == "mine.yaml"
