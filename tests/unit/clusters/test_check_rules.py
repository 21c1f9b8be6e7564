"""Rules on cluster files that depend on what is asked, and on what is installed."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters.check import check_file, cloud, kuberay, slurm
from rt_scale.clusters.check.document import Asked
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec
from tests.unit.clusters.broken import GOOD, asked, check_changed, crds, told

SWEEP = """\
name: mine
base: {data: {name: digits}, encoder: {name: convnet_32_3}, train: {epochs: 1}}
launch: {cpus: 64}
"""


def for_runs(name: str, **launch: object) -> Asked:
    return dataclasses.replace(asked(name), launches={"mine": LaunchSpec(**launch)})


def line_of(name: str, text: str) -> int:
    return next(number for number, line in enumerate((GOOD / name).read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("name", "at", "kind"),
    [
        ("aws.yaml", "available_node_types:", "  spot:"),
        ("gcp.yaml", "available_node_types:", "  spot:"),
        ("kuberay.yaml", "workerGroupSpecs:", "groupName: spot"),
        ("slurm.sh", "--cpus-per-task", "--cpus-per-task"),
        ("sky.yaml", "resources:", "resources:"),
    ],
)
def test_runs_that_fit_and_runs_that_do_not(name: str, at: str, kind: str) -> None:
    assert told(check_file(GOOD / name, for_runs(name, cpus=4, gpus=1))) == ""
    found = check_file(GOOD / name, for_runs(name, cpus=4, gpus=2))
    assert [(each.line, each.field) for each in found.problems if "2 GPUs" in each.text] == [
        (line_of(name, at), "sweep mine")
    ]
    assert [each.line for each in found.problems if "no run of the sweeps" in each.text] == [line_of(name, kind)]
    many = check_file(GOOD / name, for_runs(name, cpus=4, gpus=1, workers=9))
    assert "9 workers" in told(many)


def test_memory_that_runs_ask_for(tmp_path: Path) -> None:
    name = "kuberay.yaml"
    assert told(check_file(GOOD / name, for_runs(name, cpus=1, memory=16.0))) == ""
    assert "17 GiB of memory" in told(check_file(GOOD / name, for_runs(name, cpus=1, memory=17.0)))
    unknown = check_file(GOOD / "aws.yaml", for_runs("aws.yaml", cpus=1, memory=17.0))
    assert told(unknown) == ""
    assert any("memory" in each for each in unknown.unchecked)


def test_kinds_whose_resources_only_the_cloud_knows(tmp_path: Path) -> None:
    found, _ = check_changed(tmp_path, "aws.yaml", '{"CPU": 4, "GPU": 1}', "{}", for_runs("aws.yaml", cpus=999))
    assert told(found) == ""
    assert any("spot" in each and "only AWS knows" in each for each in found.unchecked)


@pytest.mark.parametrize(
    ("name", "store", "words"),
    [
        ("aws.yaml", "/root/runs", "a folder of one machine"),
        ("aws.yaml", "s3://b/x?endpoint_override=http://localhost:9000", "this machine alone"),
        ("aws.yaml", "s4://b/x", "kind of store"),
        ("aws.yaml", "gs://b/x", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("gcp.yaml", "s3://b/x", "AWS_ACCESS_KEY_ID"),
        ("kuberay.yaml", "/shared/runs", "in no volume that pods share"),
        ("slurm.sh", "/tmp/runs", "each node has for itself"),
        ("sky.yaml", "rt-store", "a folder of one machine"),
    ],
)
def test_stores_that_nodes_cannot_reach(name: str, store: str, words: str) -> None:
    found = check_file(GOOD / name, dataclasses.replace(asked(name), store=store))
    assert words in told(found)


def test_the_store_is_the_files_unless_one_is_given(tmp_path: Path) -> None:
    found, line = check_changed(tmp_path, "slurm.sh", "--store /shared/store", "--store /dev/shm/store", Asked())
    assert [each.line for each in found.problems if "for itself" in each.text] == [line]
    found, _ = check_changed(tmp_path, "slurm.sh", "--store /shared/store", "", Asked())
    assert any("none is named" in each for each in found.unchecked)


def test_pods_reach_a_folder_in_a_shared_volume(tmp_path: Path) -> None:
    text = (GOOD / "kuberay.yaml").read_text()
    claim = "{name: s, persistentVolumeClaim: {claimName: s}}"
    worker = text.replace("- name: shm\n", f"- {claim}\n              - name: shm\n").replace(
        "- {name: shm, ", "- {name: s, mountPath: /shared}\n                  - {name: shm, "
    )
    head = worker.replace(
        "            - name: ray-head\n",
        "            - name: ray-head\n              volumeMounts: [{name: s, mountPath: /shared}]\n",
    ).replace(
        "          containers:\n            - name: ray-head",
        f"          volumes: [{claim}]\n          containers:\n            - name: ray-head",
    )
    file = tmp_path / "kuberay.yaml"
    given = dataclasses.replace(asked("kuberay.yaml"), store="/shared/runs")
    file.write_text(head.replace("s3://bucket/x", "/shared/runs"))
    assert told(check_file(file, given)) == ""
    file.write_text(worker)
    assert "headGroupSpec" in told(check_file(file, given))


@pytest.mark.parametrize("group", ["ray-head", "ray-worker"])
def test_pods_without_credentials(tmp_path: Path, group: str) -> None:
    before, after = (GOOD / "kuberay.yaml").read_text().split(f"- name: {group}")
    cut = before.rindex(
        "            serviceAccountName: rt-scale\n" if "worker" in group else "          serviceAccountName"
    )
    rest = before[cut:].split("\n", 1)[1]
    file = tmp_path / "kuberay.yaml"
    file.write_text(f"{before[:cut]}{rest}- name: {group}{after}")
    (problem,) = check_file(file, asked("kuberay.yaml")).problems
    assert "no credentials for s3://" in problem.text
    assert ("headGroupSpec" in problem.field) == (group == "ray-head")
    secret = "              envFrom: [{secretRef: {name: keys}}]\n"
    image = after.index("\n") + 1
    pad = "  " if "worker" in group else ""
    file.write_text(f"{before[:cut]}{rest}- name: {group}{after[:image]}{pad}{secret}{after[image:]}")
    assert told(check_file(file, asked("kuberay.yaml"))) == ""


def test_a_head_that_takes_runs(tmp_path: Path) -> None:
    text = (GOOD / "aws.yaml").read_text().replace("--num-cpus=0 ", "")
    file = tmp_path / "aws.yaml"
    file.write_text(text)
    assert told(check_file(file, asked("aws.yaml"))) == ""
    file.write_text(text.replace('resources: {"CPU": 0}', "resources: {}"))
    assert "the head takes runs" in told(check_file(file, asked("aws.yaml")))


def test_rays_own_provider_opens_ssh(tmp_path: Path) -> None:
    text = (GOOD / "aws.yaml").read_text()
    module = "type: external\n  module: rt_scale.ray_backend.spot_first.SpotFirstAws"
    text = text.replace(module, "type: aws").replace("  ssh_from: 203.0.113.7/32 # edit: your address\n", "")
    file = tmp_path / "aws.yaml"
    file.write_text(text)
    shown = told(check_file(file, asked("aws.yaml")))
    assert shown.count("opens SSH to the whole world") == 2
    file.write_text(text.replace("KeyName: rt\n", "KeyName: rt\n      SecurityGroupIds: [sg-1]\n"))
    assert told(check_file(file, asked("aws.yaml"))) == ""


def test_a_provider_of_someone_else_is_not_imported(tmp_path: Path) -> None:
    found, _ = check_changed(tmp_path, "aws.yaml", "rt_scale.ray_backend.spot_first.SpotFirstAws", "os.path.Provider")
    assert told(found) == ""
    assert any("os.path.Provider" in each for each in found.unchecked)


def test_what_an_external_provider_lacks_is_all_named(tmp_path: Path) -> None:
    text = (GOOD / "aws.yaml").read_text()
    for line in ("head_setup_commands: []\n", "worker_setup_commands: []\n"):
        text = text.replace(line, "")
    file = tmp_path / "aws.yaml"
    file.write_text(text)
    shown = told(check_file(file, asked("aws.yaml")))
    assert "head_setup_commands: missing" in shown
    assert "worker_setup_commands: missing" in shown


def test_without_googles_package_its_part_is_said_to_be_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "googleapi" in name else find(name))
    cloud._gcp_schema.cache_clear()
    try:
        found = check_file(GOOD / "gcp.yaml", asked("gcp.yaml"))
        assert any("pip install google-api-python-client" in each for each in found.unchecked)
        assert not any("Google" in each for each in found.checked)
    finally:
        cloud._gcp_schema.cache_clear()


def program(folder: Path, name: str, text: str) -> None:
    file = folder / name
    file.write_text(f"#!/bin/bash\n{text}\n")
    file.chmod(0o755)


def test_definitions_of_kuberay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the folder given, the variable, the cluster that kubectl reaches, or said to be missing."""
    monkeypatch.delenv(kuberay.CRDS, raising=False)
    text = (GOOD / "kuberay.yaml").read_text()
    file = tmp_path / "kuberay.yaml"
    file.write_text(text.replace("tolerations:", "toleration:"))
    monkeypatch.setattr(kuberay, "_from_cluster", lambda kind: "")
    kuberay._definition.cache_clear()
    found = check_file(file, Asked())
    assert told(found) == ""
    assert any("--crds" in each for each in found.unchecked)
    with pytest.raises(InputError, match=r"no ray\.io_rayjobs.yaml"):
        check_file(file, Asked(crds=tmp_path))
    monkeypatch.setenv(kuberay.CRDS, str(crds()))
    assert "'toleration'; did you mean 'tolerations'" in told(check_file(file, Asked()))
    monkeypatch.undo()
    monkeypatch.delenv(kuberay.CRDS, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program(tmp_path, "kubectl", f'[ "$3" = rayjobs.ray.io ] && xz -dc {crds()}/ray.io_rayjobs.yaml.xz')
    kuberay._definition.cache_clear()
    assert "'toleration'; did you mean 'tolerations'" in told(check_file(file, Asked()))
    kuberay._definition.cache_clear()


def test_slurm_itself_is_asked_where_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program(
        tmp_path, "sbatch", '[ "$1" = --test-only ] && echo "sbatch: error: invalid partition specified: x" >&2; exit 1'
    )
    assert "invalid partition specified: x" in told(check_file(GOOD / "slurm.sh", asked("slurm.sh")))
    program(tmp_path, "sbatch", 'echo "sbatch: Job 1 to start at 2026" >&2')
    found = check_file(GOOD / "slurm.sh", asked("slurm.sh"))
    assert told(found) == ""
    assert "sbatch --test-only" in found.checked
    program(
        tmp_path, "sbatch", 'echo "sbatch: error: Unable to contact slurm controller (connect failure)" >&2; exit 1'
    )
    found = check_file(GOOD / "slurm.sh", asked("slurm.sh"))
    assert told(found) == ""
    assert any("no controller" in each for each in found.unchecked)


def test_options_of_sbatch_in_all_their_forms() -> None:
    found = check_file(GOOD / "slurm.sh", asked("slurm.sh"))
    given = slurm._check_directives(
        "#!/bin/bash\n#SBATCH -N 2 -c4 --mem 16G  # note\n#SBATCH --exclusive -J 'a b'\n", found
    )
    assert {name: value for name, (value, _) in given.items()} == {
        "nodes": "2", "cpus-per-task": "4", "mem": "16G", "exclusive": "", "job-name": "a b",
    }  # fmt: skip
    assert told(found) == ""


@pytest.mark.parametrize(
    ("text", "amount"), [("4", 4.0), ("500m", 0.5), ("16Gi", 2**34), ("1.5G", 1.5e9), ("4GB", None)]
)
def test_amounts_of_kubernetes(text: str, amount: float | None) -> None:
    assert kuberay.quantity(text) == amount


def test_the_command(tmp_path: Path) -> None:
    """All problems at once, each as FILE:LINE, on standard output; then an error with exit code 2."""
    file, sweep = tmp_path / "aws.yaml", tmp_path / "sweep.yaml"
    sweep.write_text(SWEEP)
    file.write_text(
        (GOOD / "aws.yaml").read_text().replace("g5.xlarge", "g5.xlarg").replace("max_workers: 8", "max_worker: 8")
    )
    result = CliRunner().invoke(app, ["cluster", "check", str(file), str(sweep), "--store", "/root/runs"])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    lines = [line for line in result.output.splitlines() if line.startswith(f"{file}:")]
    assert f"{file} has {len(lines)} problems" in str(result.exception)
    assert any("did you mean 'g5.xlarge'" in line for line in lines)
    assert any(line.startswith(f"{file}:3: max_worker:") for line in lines)
    assert any("/root/runs" in line for line in lines)
    assert lines == sorted(lines, key=lambda line: int(line.split(":")[1]))
    file.write_text((GOOD / "aws.yaml").read_text())
    words = ["cluster", "check", str(file), str(sweep), "--set", "seeds=1", "--store", "s3://b/x"]
    assert "64 CPUs" in CliRunner().invoke(app, words).output
    result = CliRunner().invoke(app, ["cluster", "check", str(file), "--store", "s3://b/x"])
    assert result.exception is None
    assert "Nothing is wrong" in result.output
    assert "Not checked: whether AWS has" in result.output
    manifest = ["cluster", "check", str(GOOD / "kuberay.yaml"), "--store", "s3://b/x", "--crds", str(tmp_path)]
    assert "ray.io_rayjobs.yaml" in str(CliRunner().invoke(app, manifest).exception)
