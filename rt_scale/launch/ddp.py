"""Ray Train for a spec that asks for several workers: one run, distilled by data-parallel training.

Ray starts the workers, joins them in a process group, and ends all where one dies. Nothing of its own state is read
back: workers that are started again go on from the run directory, which rank 0 alone writes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rt_scale.launch.cluster import check_workers, local_ray
from rt_scale.spec.errors import InputError, RunError
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

# Read by Ray Train when it is imported, or by its controller; what a user has set stands.
for _name, _value in {
    "RAY_TRAIN_V2_ENABLED": "1",
    # A finished run is noticed after 0.2 s, not 2 s.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
import ray.train  # noqa: E402
from ray.train.torch import TorchConfig, TorchTrainer  # noqa: E402

RESTARTS = 3
"""How often workers are started again after one of them died."""
PATIENCE_S = 12 * 3600
"""How long a rank waits for another: for rank 0's classifiers above all. A rank that is gone is noticed at once."""


def run_here(spec: RunSpec, **how: Any) -> dict[str, Any]:
    """The result of ``spec``, computed on a Ray of our own on this machine; ``how`` as :func:`run_with_workers`."""
    with local_ray(nested=True):
        return run_with_workers(spec, **how)


def run_with_workers(
    spec: RunSpec, *, workers: int, cpus: int, gpus: float, store: str, data_dir: Path, device: str, loader: str
) -> dict[str, Any]:
    """The result of ``spec``, computed by ``workers`` processes on the Ray that this process is connected to.

    Args:
        spec: what to run; its batch is that of all workers together.
        workers: how many.
        cpus: cores a worker, which are also the threads it computes with.
        gpus: GPUs a worker, a whole number.
        store: where runs are kept, as ``Store.open`` takes it; every worker can reach it.
        data_dir: where prepared data sets are, for every worker.
        device: as ``Settings.device``; the same for all.
        loader: as ``Settings.loader``.

    Raises:
        InputError: where it cannot be run.
        RunError: where it failed, or its workers died too often.
    """
    check_workers(workers, cpus, gpus, ray.cluster_resources())
    run_dir = Store.open(store).run(spec)
    scratch = Path(tempfile.mkdtemp(prefix="rt-scale-train-"))
    refusal = scratch / "refusal"
    config = {
        "spec": spec.model_dump(mode="json"), "store": store, "data_dir": str(data_dir.absolute()),
        "device": device if gpus else "cpu", "threads": cpus, "loader": loader, "refusal": str(refusal),
    }  # fmt: skip
    try:
        for _ in range(RESTARTS + 1):
            run_dir.refresh()
            before = run_dir.failure()
            error = _fit(config, workers, cpus, gpus, scratch)
            run_dir.refresh()
            finished = run_dir.result()
            if finished is not None:
                return finished
            if refusal.exists():
                raise InputError(refusal.read_text(encoding="utf-8"))
            failure = run_dir.failure()
            if failure is not None and failure != before:
                raise RunError(str(failure["reason"]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    raise RunError(
        f"The workers of run {spec.name} died {RESTARTS + 1} times ({error}); run it again to go on from its last "
        "checkpoint."
    )


def _fit(config: dict[str, Any], workers: int, cpus: int, gpus: float, scratch: Path) -> str:
    """Train once; why Ray says that it ended, empty where it ended well."""
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo", timeout_s=PATIENCE_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=gpus > 0, resources_per_worker={"CPU": cpus, **({"GPU": gpus} if gpus else {})}
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(scratch), failure_config=ray.train.FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's classes differ by what died; the run directory says what became of the run
        return " ".join(str(error).split())[:300]
    return ""


def _worker(config: Mapping[str, Any]) -> None:
    # Imported here: the driver never needs torch.
    from rt_scale.experiments.run import run
    from rt_scale.experiments.settings import Settings
    from rt_scale.training.dist import Group

    group = Group.current()
    settings = Settings(
        store=Store.open(config["store"]),
        data_dir=Path(config["data_dir"]),
        device=config["device"],
        threads=config["threads"],
        loader=config["loader"],
        group=group,
    )
    try:
        run(RunSpec.model_validate(config["spec"]), settings)
    except InputError as error:
        # A refusal leaves no trace in a run's directory.
        if group.leads:
            Path(config["refusal"]).write_text(str(error), encoding="utf-8")
