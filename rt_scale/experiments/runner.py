"""Run a spec, in one process or in several: the command line, a Tune trial and a second attempt make the same call.

Rank 0 does what a single process does: it decides, takes the lease and writes. The others train with it, on one order
for every attempt at the run or at a run that it starts from.
"""

from __future__ import annotations

import shlex
import time
import traceback
from typing import Any, NamedTuple

import torch

from rt_scale.experiments.base import Outcome, Sets, check, experiment_of, unfinished
from rt_scale.experiments.context import Context, Follower
from rt_scale.experiments.dependencies import compute_first
from rt_scale.experiments.networks import set_record
from rt_scale.experiments.options import Options, find_device, resolve
from rt_scale.experiments.other_data import refuse_other_data
from rt_scale.experiments.own import sources
from rt_scale.experiments.provenance import attempt_record
from rt_scale.spec.errors import DeviceLost, InputError, RtScaleError, RunError, StoreUnavailable, first_line
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import Stopped, stop_check
from rt_scale.store.lease import Attempt
from rt_scale.store.results import DataRecord, Execution, RunRecord, RunResult
from rt_scale.store.run_dir import METRICS, RunDir
from rt_scale.store.store import Store
from rt_scale.system.memory import keep_freed_memory
from rt_scale.training.distributed import Group, WorkerLost
from rt_scale.training.loop import Diverged
from rt_scale.training.precision import check_precision

LOST_DEVICE = (
    "uncorrectable", "fallen off the bus", "no longer on the bus", "gpu is lost", "unspecified launch failure",
    "hardware stack error", "busy or unavailable", "no cuda-capable device", "cuda unknown error",
)  # fmt: skip
"""Words of CUDA's errors, in lower case, of a GPU that failed (after an Xid, an ECC error) or is not there."""
ALIKE = (InputError, Diverged, Stopped)
"""Errors that every rank raises at the same point, so that the group can continue."""


class Order(NamedTuple):
    """What the other ranks train: a spec, as JSON, and how it is executed."""

    spec: dict[str, Any]
    execution: Execution


def _order(group: Group, given: Order | BaseException | None = None) -> Order | BaseException | None:
    """Rank 0's order on every rank; None once it has the result, or the exception that it ended with."""
    return group.broadcast(given)


def follow(options: Options) -> None:
    """Train with rank 0, on this rank's own device, until rank 0 has the result.

    Raises:
        InputError, Diverged, Stopped: as rank 0.
        RunError: another worker ended (WorkerLost), or this one alone failed, with the reason.
    """
    while (order := _order(options.group)) is not None:
        if isinstance(order, BaseException):
            raise order
        # A failure on this rank alone ends this process, and with it the group.
        try:
            spec, context = _prepared(order, options)
        except Stopped as error:
            raise RunError("This worker was asked to stop while it fetched its data.") from error
        try:
            with keep_freed_memory():
                experiment_of(spec).run(spec, context)
        except ALIKE:  # rank 0 reports it, and may continue with another run
            continue
        except (WorkerLost, StoreUnavailable):
            raise
        except Exception as error:
            failure = in_words(spec, error, "its log")
            if isinstance(failure, DeviceLost):
                raise failure from error
            raise RunError(f"Worker {options.group.rank}: {failure}") from error


def _prepared(order: Order, options: Options) -> tuple[RunSpec, Follower]:
    spec = RunSpec.model_validate(order.spec)
    execution = order.execution.model_copy(update={"device": str(find_device(options.device))})
    torch.set_num_threads(execution.threads)
    options.resident.next_run()
    data = check(spec, options.data_dir, stop_check(options.stop))
    return spec, Follower(options.store.run(spec), execution, options, hparams={}, data=data)


def in_words(spec: RunSpec, error: Exception, traceback: str = "its failure.json") -> RtScaleError:
    """The error with a message for the user, unless it has one; ``traceback`` names where the traceback is."""
    if isinstance(error, RtScaleError):
        return error
    if _lost_device(error):
        why = f"Run {spec.name} lost its GPU ({first_line(error)})"
        return DeviceLost(f"{why}; it continues from its last checkpoint on one that works.")
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
        return RunError(
            f"Run {spec.name} ran out of memory ({first_line(error)}). "
            "Lower train.batch_size, projector.out_dim, data.samples or launch.pack, or use a device with more memory."
        )
    return RunError(
        f"Run {spec.name} failed: {type(error).__name__}: {error}. The traceback is in {traceback}; "
        "run it again to continue from its last checkpoint."
    )


def _lost_device(error: BaseException) -> bool:
    """Whether CUDA raised this because a GPU failed, as far as its words tell; some also tell of a faulty kernel."""
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in LOST_DEVICE)


def run(spec: RunSpec, options: Options) -> RunResult:
    """The result of ``spec``: read if its directory is complete, else computed, from its newest checkpoint if any.

    The runs that it starts from are computed first, each in its own directory. All processes of ``options.group`` call
    this; all return when rank 0 has the result.

    Raises:
        InputError: the spec cannot be run here, or a live process is running it.
        RunError: the run failed; its directory keeps the reason and the checkpoints.
    """
    if options.group.world == 1:
        return _run(spec, options)
    if not options.group.leads:
        follow(options)
        run_dir = options.store.run(spec)
        run_dir.refresh()
        result = run_dir.result()
        if result is None:
            raise RunError(f"Rank 0 wrote the result of run {spec.name}, but this rank cannot find it.")
        return result
    try:
        result = _run(spec, options)
    except ALIKE as error:
        _order(options.group, error)
        raise
    # After any other error the ranks are in the middle of a step: the end of this process ends theirs.
    _order(options.group)
    return result


def _run(spec: RunSpec, options: Options) -> RunResult:
    """:func:`run` on a single process or rank 0."""
    run_dir = options.store.run(spec)
    run_dir.refresh()
    if (finished := _finished(run_dir, options)) is not None:
        return finished
    data = check(spec, options.data_dir, stop_check(options.stop))
    _refuse_impossible(spec, data, options)
    with run_dir.acquire(watching=lambda attempt: _watching(attempt, options)):
        if (finished := _finished(run_dir, options)) is not None:  # by the process that had the lease before
            return finished
        try:
            return _attempt(spec, data, run_dir, options)
        except (InputError, WorkerLost, StoreUnavailable):
            raise
        except Exception as error:
            options.resident.clear()  # the failure may be one of memory
            failure = in_words(spec, error)
            if isinstance(failure, DeviceLost):
                raise failure from error
            if isinstance(failure, Diverged):
                failure = Diverged(f"{failure} {_curves(spec.name, options.store)}")
            run_dir.fail({"reason": str(failure), "traceback": traceback.format_exc(), "time": time.time()})
            raise failure from error


def _curves(name: str, store: Store) -> str:
    """Where the numbers of a run are that has no result, and what draws them."""
    draw = shlex.join(["rt-scale", "board", name, "--store", store.place, "--open"])
    return f"The metrics up to here are in {store.where(name)}/{METRICS}; '{draw}' draws them."


def _finished(run_dir: RunDir, options: Options) -> RunResult | None:
    """The result, or None; InputError if it was computed on other data than is here."""
    result = run_dir.result()
    if result is not None:
        refuse_other_data(run_dir.path.name, result.data, options.data_dir)
    return result


def _watching(attempt: Attempt, options: Options) -> None:
    """Called while it is unknown whether the lease's owner still runs; stops at once, as there is nothing to save."""
    stop_check(options.stop)()
    options.observer.stage(f"watching whether the run is still executed by {attempt}")


def _refuse_impossible(spec: RunSpec, data: Sets | None, options: Options) -> None:
    """Refuse what this machine cannot do, for the run and those that come first, before anything is written."""
    execution = resolve(spec, experiment_of(spec).needs(spec, data), options, None)
    for each in unfinished(spec, options.store):
        sources(each)
        for precision in each.precisions:
            check_precision(precision, torch.device(execution.device))
        if options.group.world > 1:
            experiment_of(each).check_workers(each, check(each, options.data_dir), options.group.world)


def _attempt(spec: RunSpec, data: Sets | None, run_dir: RunDir, options: Options) -> RunResult:
    kept = sources(spec)
    run_dir.write_spec(spec)
    run_dir.write_sources(kept)
    # Each after those that it needs itself, so that a chain of runs is not one attempt within another.
    missing = reversed([each for each in unfinished(spec, options.store) if each.name != spec.name])
    for needed in {each.name: each for each in (*missing, *spec.dependencies)}.values():
        compute_first(needed, options, _run)
    earlier = run_dir.record()
    if earlier:
        refuse_other_data(spec.name, earlier.data, options.data_dir)
    begun = earlier.execution if earlier else None
    experiment = experiment_of(spec)
    execution = resolve(spec, experiment.needs(spec, data), options, begun)
    torch.set_num_threads(execution.threads)
    if data is not None:
        options.observer.decided(f"images: {execution.loader}, as {execution.loader_reason}")
    if execution.device.startswith("cuda"):
        options.observer.decided(f"accelerate: {execution.accelerate}")
    attempts = [*(earlier.attempts if earlier else []), attempt_record(execution, options.batching)]
    run_dir.write_record(RunRecord(execution=execution, data=_data_record(data), attempts=attempts))
    experiment.load()
    context = Context(run_dir, execution, options, hparams=spec.canonical(), data=data)
    options.resident.next_run()
    try:
        _order(options.group, Order(spec.canonical(), execution))
        with keep_freed_memory():
            outcome = experiment.run(spec, context)
        result = _result(spec, outcome, context, run_dir.check().attempt)
        context.patiently(lambda: run_dir.complete(result))
    except Exception as error:
        resumes = isinstance(error, WorkerLost | StoreUnavailable) or _lost_device(error)
        context.close(None if resumes else "failed")
        raise
    except BaseException:  # stopped from outside: the run can be resumed
        context.close(None)
        raise
    context.close("done")
    return result


def _result(spec: RunSpec, outcome: Outcome, context: Context, attempts: int) -> RunResult:
    spent = context.spent
    return RunResult(
        name=spec.name,
        last=dict(outcome.last),
        best=dict(outcome.best),
        steps=outcome.steps,
        epochs=outcome.epochs,
        seconds=round(spent.seconds, 3),
        device_seconds={kind: round(seconds, 3) for kind, seconds in spent.devices.items()},
        attempts=attempts,
        data=_data_record(context.data),
    )


def _data_record(data: Sets | None) -> DataRecord | None:
    if data is None:
        return None
    return DataRecord(
        name=data.main.info.name,
        **dict(set_record(data.main)),
        also={name: set_record(other) for name, other in data.also.items()},
        starts={name: found for name, sets in data.starts.items() if (found := _data_record(sets)) is not None},
    )
