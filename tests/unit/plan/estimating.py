"""Estimates of runs of one small network, for tests: finished ones to measure, and a device of given rates."""

from __future__ import annotations

from typing import Any

from rt_scale.data.catalogue import DATASETS
from rt_scale.data.prepared import KnownData
from rt_scale.experiments.flops import Rates, count_run, run_length
from rt_scale.plan.estimate import Estimator, measured_runs
from rt_scale.scheduler.job import Job
from rt_scale.spec.document import set_dotted
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.store import Store
from tests.records import run_record, run_result

BASE: dict[str, Any] = {
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_8_2"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 10},
}
DIGITS = KnownData({"digits": DATASETS["digits"]})


def spec(**changes: Any) -> RunSpec:
    """BASE with dotted fields changed, whose dots are written as two underscores."""
    document: dict[str, Any] = BASE
    for key, value in changes.items():
        document = set_dotted(document, key.replace("__", "."), value)
    return RunSpec.model_validate(document)


def job(run: RunSpec, gpus: float = 0, cpus: int = 1, workers: int = 1) -> Job:
    return Job(run.name, run, LaunchSpec(gpus=gpus, cpus=cpus, workers=workers))


def finish(
    store: Store, run: RunSpec, seconds: float, device: str = "cpu", threads: int = 1, name: str = "a chip",
    workers: int | None = None, pack: int | None = None, measured: bool = False,
) -> None:  # fmt: skip
    run_dir = store.run(run)
    with run_dir.acquire():
        run_dir.write_spec(run)
        execution: dict[str, Any] = {"device": device, "threads": threads}
        execution |= {} if workers is None else {"workers": workers}
        attempt: dict[str, Any] = {"device": name}
        if pack is not None:
            execution["pack"] = pack
            attempt["packing"] = {"size": pack, "seconds": {"1": 0.5} if measured else {}}
        run_dir.write_record(run_record(attempt, execution=execution))
        run_dir.complete(run_result(seconds=seconds, steps=60))


FIXED = Rates(1e9, 1e9, float("inf"), 0.0, False, "fixed")
ASKED: list[tuple[Any, ...]] = []


def fixed_rates(make: Any, precision: str, device: Any, threads: int) -> Rates:
    """In place of a measurement: a FLOP a nanosecond, all else for free."""
    ASKED.append((precision, str(device), threads))
    return FIXED


def by_flops(run: RunSpec, workers: int = 1) -> float:
    """Seconds of a run on digits at fixed rates."""
    info = DATASETS["digits"]
    return count_run(run, info, {}).seconds(FIXED, run_length(run, info.train), workers)


def estimator(
    store: Store, *runs: RunSpec, teraflops: float | None = None, steps: dict[str, int] | None = None
) -> Estimator:
    return Estimator(measured_runs(store, {run.shape for run in runs}), DIGITS, teraflops, steps)
