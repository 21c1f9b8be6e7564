"""Run a spec: the one call behind the command line, a Tune trial and a second attempt."""

from __future__ import annotations

import time
import traceback
from typing import Any

import torch

from rt_scale.experiments import student_pass
from rt_scale.experiments.check import Sets, check, unfinished
from rt_scale.experiments.context import Context
from rt_scale.experiments.dependencies import StartWeights, compute_first, start_weights
from rt_scale.experiments.options import Options, resolve
from rt_scale.experiments.other_data import refuse_other_data
from rt_scale.experiments.provenance import attempt_record
from rt_scale.experiments.train import train_run
from rt_scale.experiments.workers import ALIKE, check_shares, dismiss, follow, in_words, lead
from rt_scale.spec.errors import InputError, StoreAway
from rt_scale.spec.metrics import probe_group
from rt_scale.spec.run import RunSpec
from rt_scale.spec.stopping import heeding
from rt_scale.store.lease import Attempt
from rt_scale.store.metrics import MetricsTable
from rt_scale.store.run_dir import RunDir
from rt_scale.training.distributed import WorkerLost
from rt_scale.training.precision import check_precision, set_precision


def run(spec: RunSpec, options: Options) -> dict[str, Any]:
    """The result of ``spec``: read where its directory is complete, else computed from where it stands.

    The runs that it starts from are computed before it, each in its own directory. With several processes in
    ``options.group`` each of them calls this; all return when rank 0 is through.

    Args:
        spec: what to run.
        options: where and how.

    Returns:
        The content of ``result.json``: ``last`` and ``best`` values of metrics, steps, seconds, data.

    Raises:
        InputError: where the spec cannot be run here, or a live process is running it.
        RunError: where it failed; the reason is kept in its directory, and so is what was computed.
    """
    if options.group.world == 1:
        return _run(spec, options)
    if not options.group.leads:
        follow(options)
        run_dir = options.store.run(spec)
        run_dir.refresh()
        return run_dir.result() or {}
    try:
        result = _run(spec, options)
    except ALIKE:
        dismiss(options)
        raise
    # Whatever else is raised leaves the others in the middle of a step: they learn of it by the end of this process.
    dismiss(options)
    return result


def _run(spec: RunSpec, options: Options) -> dict[str, Any]:
    """:func:`run` of a single process, or of rank 0."""
    run_dir = options.store.run(spec)
    run_dir.refresh()
    if (finished := _finished(run_dir, options)) is not None:
        return finished
    data = check(spec, options.data_dir, heeding(options.stop))
    _refuse_impossible(spec, data, options)
    with run_dir.acquire(watching=lambda attempt: _watching(attempt, options)):
        if (finished := _finished(run_dir, options)) is not None:  # by a process that had the lease until now
            return finished
        try:
            return _attempt(spec, data, run_dir, options)
        except (InputError, WorkerLost, StoreAway):
            raise
        except Exception as error:
            options.resident.clear()  # whatever it was, it must not be for want of memory the next time
            failure = in_words(spec, error)
            run_dir.fail({"reason": str(failure), "traceback": traceback.format_exc(), "time": time.time()})
            raise failure from error


def _finished(run_dir: RunDir, options: Options) -> dict[str, Any] | None:
    """The result that is there; InputError where it is of other data than is here."""
    result = run_dir.result()
    if result is not None:
        refuse_other_data(run_dir.path.name, result["data"], options.data_dir)
    return result


def _watching(attempt: Attempt, options: Options) -> None:
    """An owner who may be gone is watched for a while; meanwhile there is nothing to keep."""
    heeding(options.stop)()
    options.observer.stage(f"watching whether the run is still executed by {attempt}")


def _refuse_impossible(spec: RunSpec, data: Sets, options: Options) -> None:
    """What cannot be done here, by the run or by those that come first, is refused before anything is written."""
    execution = resolve(spec, data.main, options, None)
    for each in unfinished(spec, options.store):
        check_precision(each.precision, execution.device)
        if options.group.world > 1:
            check_shares(each, check(each, options.data_dir), options.group.world)


def _attempt(spec: RunSpec, data: Sets, run_dir: RunDir, options: Options) -> dict[str, Any]:
    run_dir.write_spec(spec)
    for start in spec.starts:
        compute_first(start.run, options, _run)
    earlier = run_dir.environment()
    if earlier:
        refuse_other_data(spec.name, earlier["data"], options.data_dir)
    begun = earlier and earlier["execution"]
    execution = resolve(spec, data.main, options, begun)
    torch.set_num_threads(execution.threads)
    set_precision(spec.precision)
    execution = student_pass.decided(spec, data.main, execution, options, begun)
    options.observer.decided(f"images: {execution.loader}, as {execution.loader_reason}")
    if execution.device.type == "cuda":
        options.observer.decided(f"student's pass: {execution.student_pass}, as {execution.student_pass_reason}")
    attempt = attempt_record(execution) | {"packing": options.packing.to_json()}
    attempts = [*(earlier["attempts"] if earlier else []), attempt]
    run_dir.write_environment({"execution": execution.to_json(), "data": _data_record(data), "attempts": attempts})
    weights = start_weights(spec, options.store)
    context = Context.begin(run_dir, execution, options, hparams=spec.canonical())
    options.resident.next_run()
    try:
        lead(spec, execution, options)
        result = _result(spec, data, context, weights, run_dir.check().attempt)
        context.patiently(lambda: run_dir.complete(result))
    except Exception as error:
        context.close(None if isinstance(error, WorkerLost | StoreAway) else "failed")
        raise
    except BaseException:  # stopped from outside: it is to go on later
        context.close(None)
        raise
    context.close("done")
    return result


def _result(spec: RunSpec, data: Sets, context: Context, weights: StartWeights, attempts: int) -> dict[str, Any]:
    outcome = train_run(spec, data, context, weights)
    spent = context.spent
    return {
        "name": spec.name,
        **outcome,
        "best": _best(spec, context.metrics),
        "seconds": round(spent.seconds, 3),
        "device_seconds": {kind: round(seconds, 3) for kind, seconds in spent.devices.items()},
        "attempts": attempts,
        "data": _data_record(data),
    }


def _best(spec: RunSpec, metrics: MetricsTable) -> dict[str, dict[str, float]]:
    """The student's best accuracies on every data set that it is probed on, and as a classifier itself."""
    found: dict[str, dict[str, float]] = {}
    for data in (None, *spec.probe.also):
        found |= metrics.best(f"{probe_group(data)}/student/")
    return found | metrics.best("test/accuracy")


def _data_record(data: Sets) -> dict[str, Any]:
    """Names and contents of the data sets.

    Where the run is probed on others, they are in ``also`` by name; where it starts from other runs, theirs are in
    ``starts`` by the run's name.
    """
    info = data.main.info
    record: dict[str, Any] = {"name": info.name, "title": info.title, "sha256": data.main.sha256}
    if data.also:
        record["also"] = {name: {"title": set_.info.title, "sha256": set_.sha256} for name, set_ in data.also.items()}
    if data.starts:
        record["starts"] = {name: _data_record(sets) for name, sets in data.starts.items()}
    return record
