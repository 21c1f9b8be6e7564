"""Sweeps under a real Slurm: the scripts of `rt-scale cluster write`, preempted, requeued and finished."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.store.run_dir import RunDir
from tests.integration.slurm import CORES, Slurm, slurm, until
from tests.integration.sweeping import SLOW, SWEEP, Place, slow_down

LONG = {**SLOW, "probe": {"every": None, "epochs": 2, "standardized": False}}
"""Evaluated at its start and its end alone: of itself a run writes no checkpoint in between."""
STEPS = 12 * 11
"""Of such a run, on 1,437 training images."""


@pytest.fixture(scope="module")
def site(data_dir: Path) -> Iterator[Slurm]:
    with slurm() as made, pytest.MonkeyPatch.context() as patch:
        shutil.copytree(data_dir, made.shared / "data")
        slow_down(made.shared)
        patch.syspath_prepend(made.shared)
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, data_dir: Path) -> Place:
    """The sweep's runs, each executed alone and to its end."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), data_dir)
    place.change({"base": LONG})
    for point in place.points:
        run(point.spec, Options(store=place.store, data_dir=data_dir, threads=1))
    return place


class Submitted(Place):
    """A sweep in the folder that all nodes see, written to a script, edited as a user does, and submitted."""

    def __init__(self, site: Slurm, kind: str, cli: Any, edits: Mapping[str, str]) -> None:
        super().__init__(site.shared / kind, site.shared / "data")
        self.change({"base": LONG})
        self._site = site
        script = site.shared / f"{kind}.sh"
        written = cli("cluster", "write", kind, self.file, "--store", self.store.root, "--max", 2, "--out", script)
        assert written.out.splitlines()[-1] == f"sbatch {script}", written.err
        edit(script, {"source ": f"source {sys.prefix}/bin/activate", **edits})
        self.slow = slow_down(site.shared)
        held = {"SLOW": str(self.slow), "PYTHONPATH": str(site.shared)}
        self.job = site.submit(script, RT_SCALE_DATA=str(self.data_dir), **held)

    def hosts(self) -> dict[str, list[str]]:
        """Where each run was executed, by attempt."""
        found = {}
        for record in self.store.root.glob("runs/*/environment.json"):
            found[record.parent.name] = [each["host"] for each in json.loads(record.read_text())["attempts"]]
        return found

    def trains_on(self, node: str) -> bool:
        """Whether a run has trained there for an epoch."""
        return any(
            hosts[-1] == node and any(b"train/kl" in file.read_bytes() for file in self.runs[name].glob("*2-scalars*"))
            for name, hosts in self.hosts().items()
        )

    def saved_in_between(self) -> set[str]:
        """The runs that have a checkpoint which a stop request has made, of a step before the last."""
        return {name for name, run in self.runs.items() if {*RunDir(run).checkpoints.steps()} - {0, STEPS}}

    @property
    def runs(self) -> dict[str, Path]:
        """The directories of the runs that were begun."""
        return {path.name: path for path in self.store.root.glob("runs/*")}


def edit(script: Path, changes: Mapping[str, str]) -> None:
    """Replace lines that are marked for it, found by how they begin."""
    lines = script.read_text().splitlines()
    for begin, line in changes.items():
        (at,) = (at for at, each in enumerate(lines) if each.startswith(begin) and "# edit" in each)
        lines[at] = line
    script.write_text("\n".join(lines) + "\n")


def preempted(site: Slurm, place: Submitted, job: str, node: str) -> None:
    """Have the urgent partition take a node away from a job; its runs write checkpoints, and it is queued again."""
    until(lambda: place.trains_on(node))
    before = place.saved_in_between()
    site.preempt(node)
    try:
        until(lambda: site.restarts(job) == 1)
    finally:
        log = (site.shared / f"rt-small-{job}.log").read_text()
        print(log)  # why it was not queued again
    assert place.saved_in_between() - before
    place.slow.unlink()
    # It ended in order, within the grace time: Slurm did not have to end it.
    assert "interrupted; the same command resumes" in log
    assert "DUE TO PREEMPTION" not in log


def test_an_array_shares_a_sweep_and_goes_on_after_preemption(site: Slurm, undisturbed: Place, cli: Any) -> None:
    place = Submitted(site, "slurm_array", cli, {"#SBATCH --cpus": f"#SBATCH --cpus-per-task={CORES}"})
    first, second = (f"{place.job}_{task}" for task in (1, 2))
    until(lambda: site.node(first) and site.node(second))
    assert site.node(first) != site.node(second)
    preempted(site, place, first, site.node(first))
    until(lambda: {site.state(first), site.state(second)} == {"COMPLETED 0:0"})
    assert (site.restarts(first), site.restarts(second)) == (1, 0)
    _same(place, undisturbed)


def test_one_ray_on_several_nodes_goes_on_after_preemption(site: Slurm, undisturbed: Place, cli: Any) -> None:
    place = Submitted(site, "slurm_nodes", cli, {})
    until(lambda: site.node(place.job))
    preempted(site, place, place.job, "s1")
    until(lambda: site.state(place.job) == "COMPLETED 0:0")
    assert site.restarts(place.job) == 1
    _same(place, undisturbed)


ENDS = r"""bash -c '
trap "exit 130" TERM
echo "gpu $CUDA_VISIBLE_DEVICES on $SLURMD_NODENAME"
case $SLURM_ARRAY_TASK_ID in
    5 | 6) sleep 300 & wait ;;
    *) exit $SLURM_ARRAY_TASK_ID ;;
esac' &"""
"""In place of a driver: it ends with the number of its task, or waits to be asked to stop."""
BUSY = """#!/bin/bash
name=$(basename "$0")
mkdir "$(dirname "$0")/$name-$SLURM_JOB_ID" 2>/dev/null || exec /usr/bin/$name "$@"
echo "$name: Unable to contact slurm controller" >&2
exit 1
"""
"""A client whose controller does not answer at a job's first question."""


def test_how_a_driver_ends_decides_what_becomes_of_its_job(site: Slurm, cli: Any, tmp_path: Path) -> None:
    script = site.shared / "ends.sh"
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump({**SWEEP, "launch": {"gpus": 1}}))
    cli("cluster", "write", "slurm_array", sweep, "--store", site.shared / "none", "--max", 6, "--out", script)
    edit(script, {"source ": f"source {sys.prefix}/bin/activate", "#SBATCH --array": "#SBATCH --array=0-6"})
    text = script.read_text()
    (command,) = (line for line in text.splitlines() if line.startswith("rt-scale sweep "))
    busy = site.shared / "busy"
    busy.mkdir()
    for name in ("squeue", "scontrol"):
        (busy / name).write_text(BUSY)
        (busy / name).chmod(0o755)
    script.write_text(text.replace(command, f"PATH={busy}:$PATH\n{ENDS}"))
    job = site.submit(script)
    tasks = {task: f"{job}_{task}" for task in range(7)}
    logs = {task: site.shared / f"rt-small-{tasks[task]}.log" for task in tasks}

    def waits(task: int) -> bool:
        there = logs[task].exists() and "gpu" in logs[task].read_text()
        return there and "notice" in site.steps(tasks[task])

    until(lambda: waits(5) and waits(6))
    site.client("scancel", "--signal=USR1", "--batch", tasks[5])  # as before the time limit
    site.client("scancel", tasks[6])
    for task in (3, 5):
        until(partial(site.restarts, tasks[task]))
        site.client("scancel", tasks[task])
    until(lambda: site.state(tasks[6]).startswith("CANCELLED "))
    expected = {0: "COMPLETED 0:0", 1: "FAILED 1:0", 2: "FAILED 2:0", 4: "COMPLETED 0:0"}
    until(lambda: {task: site.state(tasks[task]) for task in expected} == expected)
    assert not any(site.restarts(tasks[task]) for task in (*expected, 6))
    gpus = {gpu for task in (5, 6) for gpu in re.findall(r"^gpu [01] on s[0-2]$", logs[task].read_text(), re.M)}
    assert len(gpus) == 2


def _same(place: Submitted, undisturbed: Place) -> None:
    """Every run is there once, bit by bit as if nothing had happened."""
    assert len(list(place.store.root.glob("runs/*"))) == len(place.points)
    assert [place.outcome(point) for point in place.points] == [undisturbed.outcome(point) for point in place.points]
