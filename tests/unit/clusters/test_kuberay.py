"""Manifests for KubeRay, as its definitions, the checker and Ray's autoscaler see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters.check import check_file
from rt_scale.clusters.check.document import Asked
from rt_scale.spec.document import build
from rt_scale.spec.sweep import LaunchSpec
from tests.unit.clusters.broken import crds, told
from tests.unit.plan.planning import every_run_takes

BASE = {"data": {"name": "digits"}, "encoder": {"name": "convnet_32_3"}, "train": {"epochs": 1}}
LAUNCHES: list[dict[str, Any]] = [
    {"cpus": 2},
    {"cpus": 2, "memory": 3.5},
    {"gpus": 1, "accelerator": "H100"},
    {"gpus": 0.25, "cpus": 2, "memory": 4},
    {"gpus": 2, "workers": 3, "accelerator": "A100-80G"},
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(launch: dict[str, Any], *options: str, store: str = "s3://bucket/runs") -> dict[str, Any]:
    """The RayJob of a manifest that is written here, with its sweep."""
    Path("s.yaml").write_text(yaml.safe_dump({"name": "mine", "base": BASE, "seeds": 2, "launch": launch}))
    words = ["cluster", "write", "kuberay", "s.yaml", "--store", store, "--max", "5", *options]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    (_, job) = yaml.safe_load_all(Path("kuberay.yaml").read_text())
    return dict(job)


def seen_by_ray(job: dict[str, Any]) -> dict[str, Any]:
    """The kinds of node that Ray's autoscaler finds in the cluster's object."""
    cluster = {"metadata": {"name": "mine", "namespace": "default"}, "spec": job["spec"]["rayClusterSpec"]}
    return dict(autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"])


@pytest.mark.parametrize("launch", LAUNCHES)
@pytest.mark.parametrize("options", [(), ("--no-spot", "--data-origin", "gs://bucket/it's sets")])
@pytest.mark.parametrize("store", ["s3://bucket/runs", "gs://bucket/runs"])
def test_nothing_is_wrong_with_one(launch: dict[str, Any], options: tuple[str, ...], store: str) -> None:
    written(launch, *options, store=store)
    asked = Asked(store, {"mine": build(LaunchSpec, launch, "a test")}, crds())
    found = check_file(Path("kuberay.yaml"), asked)
    assert told(found) == ""
    assert any("definition of RayJob" in each for each in found.checked)


@pytest.mark.parametrize(
    ("launch", "resources"),
    [
        (LAUNCHES[0], {"CPU": 2, "memory": 8}),
        (LAUNCHES[1], {"CPU": 2, "memory": 6}),
        (LAUNCHES[2], {"CPU": 1, "memory": 24, "GPU": 1, "accelerator_type:H100": 1}),
        (LAUNCHES[3], {"CPU": 8, "memory": 18, "GPU": 1}),
        (LAUNCHES[4], {"CPU": 1, "memory": 24, "GPU": 2, "accelerator_type:A100-80G": 1, "accelerator_type:A100": 1}),
    ],
)
def test_ray_knows_what_the_pods_have(launch: dict[str, Any], resources: dict[str, float]) -> None:
    kinds = seen_by_ray(written(launch))
    assert kinds["headgroup"]["resources"]["CPU"] == 0
    assert kinds["headgroup"]["max_workers"] == 0
    assert set(kinds) == {"headgroup", "spot", "on-demand"}
    assert kinds["spot"]["priority"] > kinds["on-demand"]["priority"]
    for name in ("spot", "on-demand"):
        assert kinds[name]["resources"] == {**resources, "memory": resources["memory"] * 2**30}
        assert (kinds[name]["min_workers"], kinds[name]["max_workers"]) == (0, 5)


def test_pods_checkpoint_before_they_are_killed_and_only_spot_ones_are_taken_away() -> None:
    cluster = written({"gpus": 1})["spec"]["rayClusterSpec"]
    spot, lasting = cluster["workerGroupSpecs"]
    for group in (cluster["headGroupSpec"], spot, lasting):
        pod = group["template"]["spec"]
        drain = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert int(drain["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]
        assert ("affinity" in pod) == (group is not spot)
    assert spot["template"]["spec"]["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert spot["template"]["spec"]["terminationGracePeriodSeconds"] == 15
    # Pods of spot machines that never come give way to others: Ray gives them up after this time.
    (waiting,) = cluster["autoscalerOptions"]["env"]
    assert waiting["name"] == "RAY_AUTOSCALER_RECONCILE_ALLOCATE_STATUS_TIMEOUT_S"


def test_a_deadline_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "activeDeadlineSeconds" not in written({})["spec"]
    monkeypatch.setattr("rt_scale.cli.cluster._refresh", lambda store: None)
    every_run_takes(monkeypatch, 3600.0)
    spec = written({}, "--deadline", "1.5")["spec"]
    assert spec["entrypoint"].endswith("--max-nodes 2 --deadline 1.5h")
    assert spec["activeDeadlineSeconds"] == 1.5 * 3600 + 1800


def test_the_store_is_opened_by_a_secret_or_an_account() -> None:
    pod = written({})["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "rt-scale-store"}}]
    pod = written({}, store="gs://bucket/runs")["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["serviceAccountName"] == "rt-scale"
    assert "envFrom" not in pod["containers"][0]
