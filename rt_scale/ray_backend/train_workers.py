"""Ray Train for a spec that asks for several workers: one run, distilled by data-parallel training.

Ray starts the workers, joins them in a process group, and ends all where one dies. Nothing of its own state is read
back: workers that are started again go on from the run directory, which rank 0 alone writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from rt_scale.ray_backend.cluster import connect
from rt_scale.ray_backend.control import ControlActor, ControlClient
from rt_scale.ray_backend.resources import bundle
from rt_scale.spec.errors import Held, InputError, RtScaleError, RunError, StoreAway, WorkersDied
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.store.objects.store import open_place
from rt_scale.store.results import RunResult
from rt_scale.store.run_dir import RunDir

PATIENCE_S = 12 * 3600
"""How long a rank waits for another: for rank 0's classifiers above all. A rank that is gone is noticed at once."""
NEWS_S = 0.5
"""Seconds between two looks at the news."""


def run_here(
    spec: RunSpec,
    launch: LaunchSpec,
    *,
    store: str,
    data_dir: Path,
    device: str,
    show: Callable[[Mapping[str, Any]], None],
    stopping: Callable[[], bool],
    address: str | None = None,
) -> RunResult:
    """The result of ``spec``, computed on a Ray of our own on this machine, or on the cluster at ``address``.

    Args:
        spec, launch, store, data_dir, device: as :func:`run_with_workers`.
        show: is told what the run reports.
        stopping: whether the run is to write a checkpoint and stop.
        address: as for ``cluster.connect``.

    Raises:
        InputError, RunError, Stopped: as :func:`run_with_workers`, whose workers are started again a few times.
    """
    found: list[Any] = []

    def work() -> None:
        client = ControlClient(spec.name, f"{launch.workers} workers")
        how: dict[str, Any] = {"store": store, "data_dir": data_dir, "device": device, "client": client}
        for left in reversed(range(launch.retries + 1)):
            try:
                found.append(run_with_workers(spec, launch, **how))
            except WorkersDied as error:
                if left:
                    continue
                again = "run it again to go on from its last checkpoint"
                found.append(RunError(f"Run {spec.name}: {error}, {launch.retries + 1} times; {again}."))
            except BaseException as error:  # whatever it is belongs to the caller's thread
                found.append(error)
            return

    with connect(address, train=True) as cluster:
        cluster.refuse_impossible(launch)
        with ControlActor() as control:
            # Ray Train takes Ctrl-C for itself in the main thread alone.
            worker = threading.Thread(target=work, name="workers", daemon=True)
            worker.start()
            told = False
            while worker.is_alive():
                worker.join(NEWS_S)
                for report in control.news().values():
                    show(report)
                if stopping() and not told:
                    told = True
                    control.stop("it was asked to stop")
    (outcome,) = found
    if isinstance(outcome, BaseException):
        raise outcome
    result: RunResult = outcome
    return result


def run_with_workers(
    spec: RunSpec, launch: LaunchSpec, *, store: str, data_dir: Path, device: str, client: ControlClient
) -> RunResult:
    """The result of ``spec``, computed by ``launch.workers`` processes on the Ray that this process is connected to.

    Args:
        spec: what to run; its batch is that of all workers together.
        launch: how many workers, and what each of them takes.
        store: the store, as ``Store.open`` takes it, which every worker can reach.
        data_dir: where prepared data sets are, for every worker.
        device: as ``Options.device``; the same for all.
        client: tells the control actor, through which workers say what they cannot do.

    Raises:
        InputError: where it cannot be run.
        RunError: where it failed.
        WorkersDied: where it can be tried again, from its last checkpoint.
        Stopped: where it was asked to stop; ``client.told`` says why.
    """
    from rt_scale.training.loop import Stopped

    place = open_place(store)
    run_dir = place.run(spec)
    config = {
        "spec": spec.model_dump(mode="json"), "store": store, "data_dir": str(data_dir.absolute()),
        "device": device if launch.gpus else "cpu", "threads": launch.cpus, "loader": launch.loader,
        "gpus": launch.gpus,
    }  # fmt: skip
    run_dir.refresh()
    before = run_dir.failure()
    client.begin()
    client.stage(f"starting {launch.workers} workers")
    client.pass_on()
    with place.scratch() as scratch:  # Ray Train wants one that all workers see
        error = _fit(config, launch, scratch)
    run_dir.refresh()
    finished = run_dir.result()
    if finished is not None:
        return finished
    client.told, refused = client.outcome()
    if refused:
        raise _recorded(_as_error(*refused), run_dir)
    failure = run_dir.failure()
    if failure is not None and failure != before:
        raise RunError(str(failure["reason"]))
    if client.told:
        raise Stopped
    raise WorkersDied(f"a worker of its {launch.workers} died" + (f" ({error})" if error else ""))


def _as_error(kind: str, text: str) -> RtScaleError:
    return {"Held": Held, "StoreAway": StoreAway, "RunError": RunError}.get(kind, InputError)(text)


def _recorded(error: RtScaleError, run_dir: RunDir) -> RtScaleError:
    """The error; one of a worker that holds no lease is kept in the run's directory, as rank 0's are by itself."""
    if type(error) is RunError:
        with suppress(InputError), run_dir.acquire():  # where somebody else executes it by now, it is told of alone
            run_dir.fail({"reason": str(error), "time": time.time()})
    return error


def _fit(config: dict[str, Any], launch: LaunchSpec, scratch: str) -> str:
    """Train once; why Ray says that it ended, empty where it ended well."""
    trainer = TorchTrainer(
        _worker,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if launch.gpus else "gloo", timeout_s=PATIENCE_S),
        scaling_config=ray.train.ScalingConfig(
            num_workers=launch.workers,
            use_gpu=launch.gpus > 0,
            resources_per_worker=bundle(launch),
        ),
        run_config=ray.train.RunConfig(storage_path=scratch, failure_config=ray.train.FailureConfig(max_failures=0)),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray's classes differ by what died; the run directory says what became of the run
        return " ".join(str(error).split())[:300]
    return ""


def _worker(config: Mapping[str, Any]) -> None:
    # Imported here: the driver never needs torch.
    from rt_scale.experiments.options import Options
    from rt_scale.experiments.runner import run
    from rt_scale.training.distributed import Group
    from rt_scale.training.loop import Stopped

    group, spec = Group.current(), RunSpec.model_validate(config["spec"])
    client = ControlClient(spec.name, f"{group.world} workers, {config['device']}", shown=group.leads)
    settings = Options(
        store=open_place(config["store"]),
        data_dir=Path(config["data_dir"]),
        device=config["device"],
        threads=config["threads"],
        loader=config["loader"],
        observer=client,
        gpus=config["gpus"] or 1.0,
        group=group,
        stop=client.stop,
    )
    try:
        with client.reporting():
            run(spec, settings)
    except Stopped:
        return
    except (InputError, StoreAway) as error:
        # A refusal leaves no trace in a run's directory.
        if not group.leads:
            return
        client.refuse(error)
    except RunError as error:
        # Rank 0 records its own; another one's ends the group before rank 0 could learn why.
        if not group.leads and type(error) is RunError:
            client.refuse(error)
        raise
