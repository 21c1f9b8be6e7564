"""`rt-scale cluster write`: files of clusters, filled from sweeps."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters.write import is_edited, yaml_block, yaml_scalar
from rt_scale.spec.errors import InputError

SWEEP = {
    "name": "mine",
    "base": {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_3"}, "train": {"epochs": 1}},
    "axes": {"student.alpha": [0.5, 1.0]},
}
ODD = ["it's", 'a "b" $c `d`', "a: b # c", "- x", "{{ x }}", "ä\u2028\u0007\U0001f600", "yes", "\\n", "a\nb", " a "]
Write = Callable[..., Result]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, store: str = "s3://bucket/runs") -> Result:
        words = ["cluster", "write", *map(str, arguments), "--store", store]
        return CliRunner().invoke(app, words)

    return call


def sweep_file(path: Path, **changed: object) -> Path:
    path.write_text(yaml.safe_dump(SWEEP | changed))
    return path


def refused(result: Result) -> str:
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def job(path: Path) -> dict:
    (_, found) = yaml.safe_load_all(path.read_text())
    return found["spec"]


def test_an_unknown_kind_is_named_with_the_nearest(write: Write) -> None:
    message = refused(write("kubray", sweep_file(Path("s.yaml"))))
    assert "did you mean 'kuberay'" in message.lower()
    assert not Path("kuberay.yaml").exists()


@pytest.mark.parametrize("kind", ["kuberay", "sky"])
def test_a_folder_is_no_store_for_clouds(write: Write, kind: str, tmp_path: Path) -> None:
    message = refused(write(kind, sweep_file(Path("s.yaml")), store="runs"))
    assert str(tmp_path / "runs") in message
    assert "s3://" in message
    assert "--data-origin" in refused(write(kind, "s.yaml", "--data-origin", "/sets"))


def test_the_last_line_starts_it(write: Write) -> None:
    ended = write("kuberay", sweep_file(Path("s.yaml")), "--out", "it's mine.yaml")
    assert ended.exit_code == 0, ended.output
    assert shlex.split(ended.output.splitlines()[-1]) == ["kubectl", "apply", "-f", "it's mine.yaml"]


def test_only_an_edited_file_is_kept(write: Write) -> None:
    file = sweep_file(Path("s.yaml"))
    out = Path("kuberay.yaml")
    assert write("kuberay", file, "--max", 3).exit_code == 0
    assert write("kuberay", file, "--max", 5).exit_code == 0
    assert job(out)["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] == 5
    out.write_text(out.read_text().replace("registry.example.com", "registry.mine.com"))
    assert "--replace" in refused(write("kuberay", file))
    assert "registry.mine.com" in out.read_text()
    assert write("kuberay", file, "--replace").exit_code == 0
    assert "registry.mine.com" not in out.read_text()
    assert not is_edited(out.read_text())
    out.write_text("mine\n")
    assert "not written by rt-scale" in refused(write("kuberay", file))


@pytest.mark.parametrize("text", ODD)
def test_texts_are_quoted(text: str) -> None:
    assert yaml.safe_load(f"[{yaml_scalar(text)}] # x") == [text]
    assert "\n" not in yaml_scalar(text)
    assert yaml.safe_load("top:\n" + yaml_block({text: text, "b": "c"}, 2)) == {"top": {text: text, "b": "c"}}


def test_a_sweep_travels_in_the_manifest(write: Write) -> None:
    file = sweep_file(Path("it's a \N{SNOWMAN}.yaml"))
    assert write("kuberay", file, "--set", "encoder.width=0.5").exit_code == 0
    (files, _) = yaml.safe_load_all(Path("kuberay.yaml").read_text())
    assert files["data"] == {"mine.yaml": file.read_text()}
    words = shlex.split(job(Path("kuberay.yaml"))["entrypoint"])
    assert words[:3] == ["rt-scale", "sweep", "/etc/rt-scale/sweeps/mine.yaml"]
    assert words[words.index("--store") + 1] == "s3://bucket/runs"
    assert words[words.index("--set") + 1] == "encoder.width=0.5"


def test_a_name_is_valid_everywhere(write: Write) -> None:
    file = sweep_file(Path("s.yaml"), name="My_Sweep.2")
    assert write("kuberay", file).exit_code == 0
    (_, found) = yaml.safe_load_all(Path("kuberay.yaml").read_text())
    assert found["metadata"]["name"] == "rt-my-sweep-2"
    assert "--name" in refused(write("kuberay", file, "--name", "My_Sweep"))
    assert write("kuberay", file, "--name", "other").exit_code == 0


def test_sweeps_of_one_cluster_need_one_kind_of_node(write: Write) -> None:
    cpu = sweep_file(Path("a.yaml"), name="a", launch={"cpus": 2})
    gpu = sweep_file(Path("b.yaml"), name="b", launch={"cpus": 1, "gpus": 0.25})
    more = sweep_file(Path("c.yaml"), name="c", launch={"cpus": 3, "gpus": 1})
    typed = sweep_file(Path("d.yaml"), name="d", launch={"gpus": 1, "accelerator": "H100"})
    assert "GPUs (a: none, b: some)" in refused(write("kuberay", cpu, gpu))
    assert "launch.accelerator (c: any, d: H100)" in refused(write("kuberay", more, typed))
    assert write("kuberay", gpu, more).exit_code == 0
    worker = job(Path("kuberay.yaml"))["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["limits"] == {"cpu": "3", "memory": "24Gi", "nvidia.com/gpu": "1"}
    assert "distinct names" in refused(write("kuberay", cpu, sweep_file(Path("e.yaml"), name="a")))


def test_runs_that_share_a_gpu_have_their_cores(write: Write) -> None:
    assert write("kuberay", sweep_file(Path("s.yaml"), launch={"cpus": 2, "gpus": 0.25})).exit_code == 0
    worker = job(Path("kuberay.yaml"))["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert worker["resources"]["requests"] == {"cpu": "8", "memory": "24Gi", "nvidia.com/gpu": "1"}


def test_without_spot_no_pod_may_be_interrupted(write: Write) -> None:
    file = sweep_file(Path("s.yaml"))
    assert write("kuberay", file, "--no-spot").exit_code == 0
    (group,) = job(Path("kuberay.yaml"))["rayClusterSpec"]["workerGroupSpecs"]
    assert group["groupName"] == "on-demand"
    assert "nodeSelector" not in group["template"]["spec"]
    assert write("sky", file, "--no-spot").exit_code == 0
    assert yaml.safe_load(Path("sky.yaml").read_text())["resources"]["use_spot"] is False
