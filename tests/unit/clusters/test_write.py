"""`rt-scale cluster write`: files of clusters, filled from sweeps."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters.check import check_file
from rt_scale.clusters.check.document import Asked
from rt_scale.clusters.shape import NodeShape, suitable
from rt_scale.clusters.write import is_edited, yaml_block, yaml_scalar
from rt_scale.spec.document import build
from rt_scale.spec.errors import InputError, StoreUnavailable
from rt_scale.spec.sweep import LaunchSpec, load_sweep
from rt_scale.store.store import Store
from tests.unit.clusters.broken import told
from tests.unit.plan.planning import every_run_takes, sheet

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

    def call(*arguments: object, store: str = "s3://bucket/runs", most: int | None = 4) -> Result:
        words = ["cluster", "write", *map(str, arguments), "--store", store]
        words += [] if most is None or "--max" in words else ["--max", str(most)]
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
    assert yaml.safe_load("top:\n" + yaml_block({"a.yaml": text, "b": "c"}, 2)) == {"top": {"a.yaml": text, "b": "c"}}


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


def prices(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text(sheet(*rows).model_dump_json())
    return path


GPU_ROWS = (
    {"name": "small", "provider": "aws", "gpus": 1, "accelerator": "T4", "cpus": 4, "on_demand": 1.0, "spot": 0.5},
    {"name": "large", "provider": "aws", "gpus": 4, "accelerator": "T4", "cpus": 16, "on_demand": 3.0, "spot": 2.8},
    {"name": "other", "provider": "gcp", "gpus": 1, "accelerator": "L4", "cpus": 4, "on_demand": 0.9, "spot": 0.8},
    {"name": "secret", "gpus": 1, "accelerator": "L4", "cpus": 8, "on_demand": None, "spot": None, "memory": 16},
    {"name": "cores", "gpus": 0, "cpus": 16, "on_demand": 0.1, "spot": 0.05},
)


@pytest.mark.parametrize(
    ("launch", "provider", "spot", "names"),
    [
        ({"gpus": 1}, "aws", True, ["small", "large"]),
        ({"gpus": 1}, "aws", False, ["large", "small"]),
        ({"gpus": 1}, None, True, ["small", "large", "other", "secret"]),
        ({"gpus": 1, "accelerator": "L4"}, None, True, ["other", "secret"]),
        ({"gpus": 0.25, "cpus": 2}, None, True, ["large", "secret"]),
        ({"gpus": 1, "memory": 17, "accelerator": "L4"}, None, True, ["other"]),
        ({"gpus": 2}, None, True, ["large"]),
        ({"cpus": 4}, None, True, ["cores"]),
        ({"cpus": 17}, None, True, []),
    ],
)
def test_the_cheapest_machine_for_a_worker_comes_first(
    launch: dict[str, object], provider: str | None, spot: bool, names: list[str]
) -> None:
    shape = NodeShape(build(LaunchSpec, launch, "a test"))
    assert [price.name for price in suitable(sheet(*GPU_ROWS).prices, shape, provider, spot=spot)] == names


def test_a_machine_is_no_cheaper_for_room_that_no_run_takes() -> None:
    shape, rows = NodeShape(build(LaunchSpec, {"gpus": 1}, "a test")), sheet(*GPU_ROWS).prices
    assert [price.name for price in suitable(rows, shape, "aws", spot=False, runs=2)] == ["small", "large"]
    assert [price.name for price in suitable(rows, shape, "aws", spot=False, runs=3)] == ["small", "large"]
    assert [price.name for price in suitable(rows, shape, "aws", spot=False, runs=4)] == ["large", "small"]


def test_the_machine_of_a_price_sheet_is_rented(write: Write) -> None:
    rows = [{**row, "region": "eu-north-1"} for row in GPU_ROWS]
    rows[2] |= {"name": "a2-highgpu-1g", "accelerator": "A100-40G"}
    offered, file = prices(Path("prices.yaml"), *rows), sweep_file(Path("s.yaml"), launch={"gpus": 1})
    for kind, machine in (("aws", "small"), ("gcp", "a2-highgpu-1g")):
        assert write(kind, file, "--price", offered).exit_code == 0
        found = yaml.safe_load(Path(f"{kind}.yaml").read_text())
        runs = found["available_node_types"]["runs"]
        assert machine in (runs["node_config"].get("InstanceType"), runs["node_config"].get("machineType"))
        assert runs["resources"]["CPU"] == 4
        assert found["provider"]["region"] == "eu-north-1"
        assert "us-" not in found["provider"]["availability_zone"]
    assert write("sky", file, "--price", offered).exit_code == 0
    assert yaml.safe_load(Path("sky.yaml").read_text())["resources"]["accelerators"] == {"T4": 1}


def test_a_node_for_whole_runs_has_all_their_workers() -> None:
    launch = build(LaunchSpec, {"workers": 3, "gpus": 2, "cpus": 4, "memory": 1.5}, "a test")
    whole, one = NodeShape(launch, whole=True), NodeShape(launch)
    assert (whole.cpus, whole.gpus, whole.memory) == (12, 6, 5)
    assert (one.cpus, one.gpus, one.memory) == (4, 2, 2)


def test_the_plan_says_how_many_nodes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, 3600.0)
    file = sweep_file(Path("s.yaml"), seeds=4, launch={"gpus": 1})
    offered = prices(Path("prices.yaml"), *GPU_ROWS)
    ended = write("slurm_array", file, "--deadline", 4.5, store="runs", most=None)
    assert ended.exit_code == 0, ended.output
    assert "Up to 2 x node: the fewest that keep the deadline of 4.5 h" in ended.output
    assert "--array=1-2 " in Path("slurm_array.sh").read_text()
    ended = write("slurm_array", file, "--price", offered, "--budget", 5, "--out", "b.sh", store="runs", most=None)
    assert ended.exit_code == 0, ended.output
    assert "small" in ended.output
    assert "the fastest within the budget of 5.00 EUR" in ended.output
    late = ("slurm_array", file, "--deadline", 0.1, "--out", "c.sh")
    assert "3 nodes, and no more are allowed" in refused(write(*late, store="runs", most=3))
    assert "8 nodes, and more would not be quicker" in refused(write(*late, store="runs", most=None))


def test_a_budget_needs_a_machine_with_a_price(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    every_run_takes(monkeypatch, 3600.0)
    file = sweep_file(Path("s.yaml"), launch={"gpus": 1})
    assert "--price" in refused(write("slurm_array", file, "--budget", 5, store="runs"))
    cores = prices(Path("cores.yaml"), GPU_ROWS[4])
    assert "1 CPUs, 1 GPUs are needed on one" in refused(write("kuberay", file, "--price", cores))
    unknown = prices(Path("unknown.yaml"), GPU_ROWS[3])
    assert "secret" in refused(write("slurm_array", file, "--price", unknown, "--budget", 5, store="runs"))


def test_a_plan_without_its_store_says_how_to_do_without(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(store: Store, *, curves: bool = True) -> None:
        raise StoreUnavailable("The store does not answer.")

    monkeypatch.setattr(Store, "refresh", away, raising=False)
    message = refused(write("slurm_array", sweep_file(Path("s.yaml")), store="runs", most=None))
    assert "--max alone" in message


def test_several_workers_need_several_nodes(write: Write) -> None:
    file = sweep_file(Path("s.yaml"), launch={"workers": 3})
    assert "--max 2 is too few" in refused(write("kuberay", file, "--max", 2))
    assert write("kuberay", file, "--max", 3).exit_code == 0
    assert write("sky", file, "--max", 2).exit_code == 0
    assert yaml.safe_load(Path("sky.yaml").read_text())["resources"]["cpus"] == "3+"


def test_each_sky_job_is_a_driver_of_its_own(write: Write) -> None:
    file = sweep_file(Path("s.yaml"), launch={"gpus": 1, "accelerator": "A100-80G", "memory": 30})
    ended = write("sky", file, "--max", 3, "--data-origin", "s3://bucket/sets")
    assert "$(seq 3)" in ended.output.splitlines()[-1]
    task = yaml.safe_load(Path("sky.yaml").read_text())
    assert task["resources"]["accelerators"] == {"A100-80GB": 1}
    assert task["resources"]["memory"] == "30+"
    # Ray finds out of itself that it is an A100, and nothing of its memory.
    assert "--accelerator A100 --leave-others" in task["run"]
    asked = Asked("s3://bucket/runs", {"mine": load_sweep(file)[0].launch})
    assert told(check_file(Path("sky.yaml"), asked)) == ""
    assert task["envs"] == {"RT_SCALE_DATA_ORIGIN": "s3://bucket/sets"}
    for code, expected in ((0, 0), (4, 0), (1, 1), (3, 3)):
        script = f"rt() {{ return {code}; }}\n" + task["run"].replace(".venv/bin/rt-scale", "rt")
        assert subprocess.run(["bash", "-euc", script], check=False).returncode == expected
