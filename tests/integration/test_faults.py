"""A sweep on a Ray of several nodes that lose nodes, notices, heads and processes: each run ends as if undisturbed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.ray_backend.control import LOOK
from rt_scale.spec.errors import ExitCode
from rt_scale.store.run_dir import RunDir
from rt_scale.store.store import Store
from tests.integration.chaos import TRIAL
from tests.integration.several_nodes import Clusters, Nodes
from tests.integration.sweeping import SWEEP, Place, paused, training, until, workers
from tests.receiver import receiving

Start = Callable[..., subprocess.Popen[str]]
TIMEOUT = 480
PRICES = Path(__file__).parents[2] / "cluster" / "prices.yaml"
RUNS: dict[str, Any] = {
    "axes": {"projector.out_dim": [64]},
    "zip": [{"train.epochs": [150, 3, 3], "student.alpha": [1e-10, 1.0, 0.5]}],
}
"""One that is long enough to be hit, some ten seconds, and what comes after it."""


def place_of(folder: Path, data_dir: Path) -> Place:
    place = Place(folder, data_dir)
    place.change(RUNS)
    return place


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Place:
    """The sweep's runs, one after the other in this process."""
    place = place_of(tmp_path_factory.mktemp("alone"), data_dir)
    for point in place.points:
        run(point.spec, Options(store=place.store, data_dir=data_dir, device="cpu", threads=1))
    return place


def same(place: Place, undisturbed: Place) -> None:
    assert [place.outcome(point) for point in place.points] == [undisturbed.outcome(point) for point in place.points]


def begin(start: Start, place: Place, nodes: Nodes, *more: object) -> subprocess.Popen[str]:
    return start(*place.command, "--address", nodes.address, *more, env=nodes.environment)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (0, ""), (process.returncode, out, err)
    return out


def attempts(place: Place) -> dict[str, int]:
    return {point.label: place.store.run(point.spec).status().attempts for point in place.points}


def test_a_node_is_lost_and_then_the_head(
    tmp_path: Path, data_dir: Path, start: Start, clusters: Clusters, nodes: Nodes, undisturbed: Place, wait_for: Any
) -> None:
    place = place_of(tmp_path, data_dir)
    lost = nodes("add", 1)
    with receiving() as got:
        process = begin(start, place, nodes, "--budget", "1e9", "--price", PRICES, "--notify", got.url)
        wait_for(lambda: training(place), process)
        (hit,) = workers(place).values()
        point = next(point for point in place.points if place.store.run(point.spec).path == hit)
        run_dir = place.store.run(point.spec)
        assert run_dir.status().attempts == 1
        nodes("remove", lost)
        nodes("add", 1)
        saved = run_dir.checkpoints.steps()[-1]
        wait_for(lambda: run_dir.status().attempts == 2 and run_dir.checkpoints.steps()[-1] > saved, process)
        nodes("behead")
        out, err = process.communicate(timeout=TIMEOUT)
    assert f"preempted {point.label}: its node {nodes.address.partition(':')[0]} was lost; it continues" in out
    assert "try 2 of 4" not in out
    assert place.store.sweep("small").preemptions()[hit.name].times == 1
    assert f"Ray at {nodes.address}: 2 nodes, 1 CPU" in out
    # Asked for what it has before it was joined to run anything.
    assert "Within the budget:" in out
    assert "(its cores and GPUs taken to be as fast as those here)" in out
    assert process.returncode == ExitCode.CLUSTER_LOST, (out, err)
    assert [document["event"] for document in got.documents] == ["sweep_stopped"]
    assert "head does not answer" in got.documents[0]["reason"]
    assert err.startswith(f"rt-scale: the Ray cluster at {nodes.address} is lost: its head does not answer, since ")
    until(lambda: not workers(place))
    again = clusters()
    again("add", 1)
    finish(begin(start, place, again))
    same(place, undisturbed)


def test_a_node_that_is_preempted_is_left_with_a_checkpoint(
    tmp_path: Path, data_dir: Path, start: Start, nodes: Nodes, wait_for: Any
) -> None:
    place, alone = Place(tmp_path, data_dir), Place(tmp_path / "alone", data_dir)
    # Evaluated at its start and its end alone: of itself it writes no checkpoint in between.
    base = {**SWEEP["base"], "train": {"epochs": 150, "batch_size": 128}}
    base["probe"] = {"every": None, "epochs": 2, "standardized": False}
    for each in (place, alone):
        each.change({"base": base, "axes": {"projector.out_dim": [64]}})
    going = nodes("add", 1)
    process = begin(start, place, nodes)
    (point,) = place.points
    run_dir = place.store.run(point.spec)
    wait_for(
        lambda: (
            run_dir.checkpoints.steps()
            and any(b"train/kl" in curves.read_bytes() for curves in run_dir.path.glob("events.out.tfevents.2-*"))
        ),
        process,
    )
    with paused(place) as held:
        ((pid, path),) = held.items()
        assert path == run_dir.path
        assert run_dir.checkpoints.steps() == [0]
        assert nodes("drain", going) == "done"
        time.sleep(LOOK)  # the control actor looks again before it answers
    wait_for(lambda: pid not in workers(place), process)
    assert run_dir.result() is None
    assert run_dir.checkpoints.steps()[-1] > 0
    nodes("add", 1)
    assert f"preempted {point.label}: its node {nodes.address.partition(':')[0]} was preempted; " in finish(process)
    run(point.spec, Options(store=alone.store, data_dir=data_dir, device="cpu", threads=1))
    same(place, alone)


def test_of_two_drivers_that_share_a_sweep_one_is_killed(
    tmp_path: Path, data_dir: Path, start: Start, nodes: Nodes, undisturbed: Place, wait_for: Any
) -> None:
    place = place_of(tmp_path, data_dir)
    for _ in range(2):
        nodes("add", 1)
    killed = begin(start, place, nodes, "--concurrency", 1)
    wait_for(lambda: training(place), killed)
    with paused(place) as held:
        (hit,) = held.values()
        # As inside a Ray job, the environment alone says where the cluster is.
        other = start(*place.command, "--concurrency", 1, env={**nodes.environment, "RAY_ADDRESS": nodes.address})
        wait_for(lambda: any(run_dir.result() for run_dir in place.store), other)  # of what the first leaves to it
        killed.kill()
        killed.wait()
    finish(other)  # that run ended with its driver, and goes on
    same(place, undisturbed)
    assert sorted(attempts(place).values()) == [1, 1, 2]
    assert RunDir(hit).status().attempts == 2


TOGETHER: dict[str, Any] = {
    "data": {"name": "digits", "samples": 512},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 40, "batch_size": 64},
    "probe": {"every": "2ep", "epochs": 1, "standardized": False},
    "precision": "float64",
}


def test_workers_and_nodes_of_a_run_of_several_are_lost_and_preempted(
    tmp_path: Path, data_dir: Path, start: Start, nodes: Nodes, wait_for: Any
) -> None:
    place = Place(tmp_path, data_dir)
    place.change({"base": TOGETHER, "axes": {}, "launch": {"workers": 2}})
    first, _ = nodes("add", 1), nodes("add", 1)
    process = begin(start, place, nodes)
    (point,) = place.points
    run_dir = place.store.run(point.spec)

    def resumed(times: int) -> bool:
        """Whether an attempt is under way that has saved something of its own."""
        before = lost[-1] if lost else 0
        return run_dir.status().attempts == times and run_dir.checkpoints.steps()[-1:] > [before]

    lost: list[int] = []
    wait_for(lambda: resumed(1), process)
    lost += run_dir.checkpoints.steps()[-1:]
    os.kill(next(iter(workers(place))), signal.SIGKILL)  # rank 0
    wait_for(lambda: resumed(2), process)
    lost += run_dir.checkpoints.steps()[-1:]
    (trial,) = (
        each
        for each in psutil.process_iter(["cmdline", "environ"])
        if re.match(TRIAL, " ".join(each.info["cmdline"] or ()))
        and (each.info["environ"] or {}).get("RAY_TMPDIR") == nodes.environment["RAY_TMPDIR"]
    )
    trial.kill()  # it started the workers, and cannot free their cores any more
    wait_for(lambda: resumed(3), process)
    lost += run_dir.checkpoints.steps()[-1:]
    with paused(place):  # rank 0, and so all
        third = nodes("add", 1)
        assert nodes("drain", first) == "done"
        time.sleep(LOOK)  # the control actor looks again before it answers
    wait_for(lambda: resumed(4), process)
    lost += run_dir.checkpoints.steps()[-1:]
    with paused(place):
        nodes("add", 1)
        nodes("remove", third)
    out = finish(process)
    assert "a worker of its 2 died" in out
    # Once more for each that begins on the removed node before the head knows that it is gone.
    assert run_dir.status().attempts >= 5
    ip = nodes.address.partition(":")[0]
    assert f"preempted base,seed=0: its node {ip} was preempted" in out
    assert f"preempted base,seed=0: its node {ip} was lost" in out
    alone = run(point.spec, Options(store=Store(tmp_path / "one"), data_dir=data_dir, device="cpu", threads=1))
    result = run_dir.result()
    assert result is not None
    assert result.last == pytest.approx(alone.last, rel=1e-9, abs=1e-9)
