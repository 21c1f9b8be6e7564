"""One run on several data-parallel workers, with Ray Train.

Ray ends all workers if one dies; restarted workers resume from the run directory, which only rank 0 writes.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.constants import ENV_VARS_TO_PROPAGATE

from rt_scale.plugins import Plugin
from rt_scale.ray_backend.cluster import connect
from rt_scale.ray_backend.control import ControlActor, ControlClient
from rt_scale.ray_backend.losses import living_ids, lost_node
from rt_scale.ray_backend.resources import bundle, refuse_mig
from rt_scale.ray_backend.trial import TrialConfig
from rt_scale.scheduler.job import RunReport
from rt_scale.spec.errors import InputError, RtScaleError, RunError, StoreUnavailable, WorkersDied
from rt_scale.spec.run import all_runs
from rt_scale.spec.stopping import Stopped
from rt_scale.store.objects.store import open_place
from rt_scale.store.results import RunResult
from rt_scale.store.run_dir import RunDir

PATIENCE_S = 12 * 3600
"""Seconds a rank waits for another, mostly for rank 0's classifiers. A dead rank is noticed at once."""
NEWS_S = 0.5
"""Seconds between two polls of the control actor."""


def run_on_ray(
    config: TrialConfig,
    show: Callable[[RunReport], None],
    stopping: Callable[[], bool],
    address: str | None = None,
) -> RunResult:
    """Compute a run with several workers on a local Ray or on the cluster at ``address``, as ``connect`` takes it.

    Workers that died are restarted a few times. ``show`` receives the run's reports; once ``stopping`` returns True,
    the run writes a checkpoint and stops.

    Raises:
        InputError, RunError, Stopped: as :func:`run_with_workers`.
    """
    result: Future[RunResult] = Future()

    def work() -> None:
        try:
            result.set_result(_run_with_retries(config))
        except BaseException as error:  # raised in the caller's thread
            result.set_exception(error)

    plugins = [Plugin(*found) for spec in all_runs(config.specs) for found in spec.plugins.items()]
    with connect(address, train=True, plugins=plugins) as cluster:
        cluster.refuse_impossible(config.launch)
        with ControlActor() as control:
            # In the main thread Ray Train would handle Ctrl-C itself.
            worker = threading.Thread(target=work, name="workers", daemon=True)
            worker.start()
            asked = False
            while worker.is_alive():
                worker.join(NEWS_S)
                for report in control.news().values():
                    show(report)
                if stopping() and not asked:
                    asked = True
                    control.stop("it was asked to stop")
    return result.result()


def _run_with_retries(config: TrialConfig) -> RunResult:
    spec, retries = config.specs[0], config.launch.retries
    client = ControlClient(spec.name, config.where())
    died: WorkersDied | None = None
    for _ in range(retries + 1):
        try:
            return run_with_workers(config, client)
        except WorkersDied as error:
            died = error
    again = "run it again to resume from its last checkpoint"
    raise RunError(f"Run {spec.name}: {died}, {retries + 1} times; {again}.") from died


def run_with_workers(config: TrialConfig, client: ControlClient) -> RunResult:
    """Compute a run with ``launch.workers`` processes on the Ray that this process is connected to.

    The batch size of the spec is the total over workers, and all workers reach store and data.

    Raises:
        InputError: if the run cannot be executed.
        RunError: if it failed.
        WorkersDied: if it can be retried from its last checkpoint.
        Stopped: if it was asked to stop; ``client.stop_request`` holds the reason.
    """
    store, workers = open_place(config.store), config.launch.workers
    run_dir = store.run(config.specs[0])
    run_dir.refresh()
    before = run_dir.failure()
    client.begin()
    client.stage(f"starting {workers} workers")
    client.pass_on()
    there = living_ids()
    with store.scratch() as scratch:  # Ray Train needs a folder that all workers see
        error = _fit(config, scratch)
    run_dir.refresh()
    finished = run_dir.result()
    if finished is not None:
        return finished
    client.stop_request, refused, nodes = client.outcome()
    if refused is not None:
        _record(refused, run_dir)
        raise refused
    failure = run_dir.failure()
    if failure is not None and failure != before:
        raise RunError(str(failure["reason"]))
    if client.stop_request:
        raise Stopped
    # A worker that was to start on a node that was gone, though Ray did not know yet, has told nobody where it was.
    if lost := next(filter(None, map(lost_node, [*nodes, *there])), ""):
        raise WorkersDied(lost, with_node=True)
    raise WorkersDied(f"a worker of its {workers} died" + (f" ({error})" if error else ""))


def _record(error: RtScaleError, run_dir: RunDir) -> None:
    """Record the error of a worker other than rank 0, which holds no lease, in the run's directory."""
    if type(error) is RunError:
        with suppress(InputError), run_dir.acquire():  # another process may execute the run by now
            run_dir.fail({"reason": str(error), "time": time.time()})


def _fit(config: TrialConfig, scratch: str) -> str:
    launch = config.launch
    backend = "nccl" if launch.gpus and config.device != "cpu" else "gloo"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"run": config.model_dump_json()},
        torch_config=TorchConfig(backend=backend, timeout_s=PATIENCE_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=launch.workers,
            use_gpu=launch.gpus > 0,
            resources_per_worker=bundle(launch),
        ),
        run_config=ray.train.RunConfig(storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=0)),
    )
    try:
        with _address_for_train():
            trainer.fit()
    except Exception as error:  # Ray's classes differ by what died; the run directory holds the outcome
        return " ".join(str(error).split())[:300]
    return ""


@contextmanager
def _address_for_train() -> Iterator[None]:
    """Tell the processes of Ray Train to which Ray they belong.

    Its cleaner, which frees the CPUs and GPUs of a training that was killed, asks Ray's State API without an address:
    where the machine has or had another Ray, it would ask that one, and free nothing.
    """
    before = os.environ.get("RAY_ADDRESS")
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    ENV_VARS_TO_PROPAGATE.add("RAY_ADDRESS")
    try:
        yield
    finally:
        os.environ.pop("RAY_ADDRESS")
        if before is not None:
            os.environ["RAY_ADDRESS"] = before


def _worker(given: Mapping[str, str]) -> None:
    # Imported here: the driver never needs torch.
    from rt_scale.experiments.runner import run
    from rt_scale.training.distributed import Group

    config, group = TrialConfig.model_validate_json(given["run"]), Group.current()
    device = config.device if config.launch.gpus else "cpu"
    client = ControlClient(config.specs[0].name, f"{group.world} workers, {device}", shown=group.leads)
    options = replace(config.options(client), device=device, group=group)
    try:
        refuse_mig(config.launch, map(str, ray.get_gpu_ids()), f"node {ray.util.get_node_ip_address()}")
        with client.reporting():
            run(config.specs[0], options)
    except Stopped:
        return
    except (InputError, StoreUnavailable) as error:
        # A refusal leaves no trace in a run's directory.
        if group.leads:
            client.refuse(error)
    except RunError as error:
        # Rank 0 records its own error; another rank's ends the group before rank 0 learns of it.
        if not group.leads and type(error) is RunError:
            client.refuse(error)
        raise
