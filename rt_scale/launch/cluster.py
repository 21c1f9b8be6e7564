"""A Ray of our own on this machine, and what it has room for."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import LaunchSpec

# Read by Ray when it is imported; what a user has set stands.
for _name, _value in {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402

TRIAL = "rt-scale-trial"
"""What a trial holds whose workers are elsewhere: Tune refuses a trial of nothing, and a CPU's hundredth would be
missing where the workers need all CPUs there are."""
TRIALS = 1000


@contextmanager
def local_ray(nested: bool = False) -> Iterator[None]:
    """A Ray of our own on this machine, quiet, on localhost, gone afterwards.

    Args:
        nested: whether Ray Train is used on it, which wants the dashboard's State API: without it, placement groups
            of trainings that were ended stay for ever.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ray.init(
            address="local",
            num_cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            resources={TRIAL: TRIALS} if nested else None,
            include_dashboard=nested,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=True,
        )
        # Ray puts its own handler in place of ours, which ends a sweep as Ctrl-C does.
        if on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
        try:
            yield
        finally:
            ray.shutdown()


def refuse_impossible(launch: LaunchSpec) -> None:
    """Refuse resources of a run that this Ray can never hold (InputError)."""
    has = ray.cluster_resources()
    if launch.workers > 1:
        check_workers(launch.workers, launch.cpus, launch.gpus, has)
    for name, wanted, key in (("cpus", launch.cpus, "CPU"), ("gpus", launch.gpus, "GPU")):
        if wanted > has.get(key, 0):
            raise InputError(
                f"launch.{name} asks for {wanted:g} a run, but this machine has {has.get(key, 0):g}. "
                f"Lower it in the sweep file, or run where there are more."
            )


def check_workers(workers: int, cpus: int, gpus: float, resources: Mapping[str, float]) -> None:
    """Refuse workers that a cluster can never hold together, or that would share a GPU (InputError).

    Args:
        workers: processes that train together.
        cpus: cores a worker.
        gpus: GPUs a worker.
        resources: of the cluster, as ``ray.cluster_resources`` gives them.
    """
    if workers > 1 and gpus % 1:
        raise InputError(
            f"launch.gpus is {gpus:g} with {workers} workers: two workers of one run would share a GPU, which NCCL "
            "rejects. Give whole GPUs a worker, or one worker."
        )
    for name, wanted, key in (("cpus", cpus, "CPU"), ("gpus", gpus, "GPU")):
        if workers * wanted > resources.get(key, 0):
            raise InputError(
                f"{workers} workers of {wanted:g} {name} each need {workers * wanted:g}, but there are "
                f"{resources.get(key, 0):g}. Lower launch.workers or launch.{name}, or run where there are more."
            )


def at_once(launch: LaunchSpec) -> int:
    """How many runs of several workers the cluster holds together."""
    has, runs = ray.cluster_resources(), [TRIALS]
    for wanted, key in ((launch.cpus, "CPU"), (launch.gpus, "GPU")):
        if wanted:
            runs.append(int(has.get(key, 0) // (launch.workers * wanted)))
    return max(1, min(runs))
