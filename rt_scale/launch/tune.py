"""Ray Tune over a list of runs. Ray schedules; the run directories are the truth.

A run with one worker executes directly in a function trainable; one with several starts a Ray Train inside its
trial, which itself holds next to nothing. The process of a trial is reused for the next
run, so that importing torch is paid once a slot. Nothing of Ray's own state is read back: a run that
is started again, by Tune after its process was killed or by the next driver, resumes from its directory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rt_scale.launch.cluster import TRIAL, at_once, local_ray, refuse_impossible
from rt_scale.spec.errors import RtScaleError
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import LaunchSpec, Point

# After cluster, which sets what Ray reads when it is imported.
from ray import tune  # isort: skip


RESTARTS = 3
"""How often a run whose process was killed is started again within one sweep."""


class View(Protocol):
    """Whoever shows a sweep while it runs."""

    def running(self, label: str, result: Mapping[str, Any]) -> None:
        """A run reported: ``step``, ``steps``, ``stage`` and ``values``."""

    def finished(self, label: str, error: str | None) -> None:
        """A run is complete, or failed for the reason ``error``."""


def run_points(
    points: Sequence[Point],
    launch: LaunchSpec,
    *,
    store: str,
    data_dir: Path,
    device: str,
    view: View,
    concurrency: int | None = None,
) -> dict[str, str]:
    """Run every point through Ray Tune on a local Ray that lives as long as this call.

    What became of a run stands in its directory afterwards; the failure of one leaves the others alone.

    Args:
        points: distinct runs.
        launch: resources a run.
        store: where runs are kept, as ``Store.open`` takes it.
        data_dir: where prepared data sets are.
        device: as ``Settings.device``.
        view: is told of every report.
        concurrency: runs at a time, at most; None: as many as the resources hold.

    Returns:
        label -> why the run ended without a result, for those that did. A refusal, which leaves no trace
        in a run's directory, is told here alone.

    Raises:
        InputError: where this machine can never hold the resources of one run.
    """
    configs = [_config(point, launch, store, data_dir, device) for point in points]
    scratch = Path(tempfile.mkdtemp(prefix="rt-scale-tune-"))
    forward = _Forward(view)
    try:
        with local_ray(launch.workers > 1):
            refuse_impossible(launch)
            if launch.workers > 1:
                # No more are started than have room for all of their workers.
                concurrency = min(concurrency or at_once(launch), at_once(launch))
            tune.Tuner(
                tune.with_resources(_trial, _resources(launch)),
                param_space={"run": tune.grid_search(configs)},
                tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrency),
                run_config=tune.RunConfig(
                    storage_path=str(scratch),
                    verbose=0,
                    callbacks=[forward],
                    failure_config=tune.FailureConfig(max_failures=RESTARTS),
                ),
            ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return forward.errors


def _config(point: Point, launch: LaunchSpec, store: str, data_dir: Path, device: str) -> dict[str, Any]:
    """What a trial is told, in plain values."""
    return {
        "label": point.label,
        "spec": point.spec.model_dump(mode="json"),
        "store": store,
        "data_dir": str(data_dir.absolute()),
        "device": device,
        "threads": launch.cpus,
        "loader": launch.loader,
        "workers": launch.workers,
        "gpus": launch.gpus,
    }


def _resources(launch: LaunchSpec) -> Any:
    """What a trial holds: with several workers nothing, as they are a placement group of their own.

    So trials never hold what workers of others wait for.
    """
    if launch.workers > 1:
        return tune.PlacementGroupFactory([{TRIAL: 1}])
    return {"cpu": launch.cpus, "gpu": launch.gpus}


class _Reporter:
    """Forwards a run's progress to Tune, once an epoch at most (an Observer)."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {
            "state": "running",
            "step": 0,
            "steps": 0,
            "stage": "starting",
            "values": {},
        }

    def stage(self, text: str) -> None:
        """Keep the stage for the next report."""
        self.state["stage"] = text

    def started(self, step: int, steps: int) -> None:
        """Report that training starts, or goes on."""
        self.state |= {"step": step, "steps": steps, "stage": "training"}
        tune.report(dict(self.state))

    def decided(self, text: str) -> None:
        """Kept in the run's environment."""

    def stepped(self, step: int) -> None:
        """Keep the step for the next report."""
        self.state["step"] = step

    def logged(self, step: int, epoch: float, values: Mapping[str, float]) -> None:
        """Report the newest numbers."""
        self.state["values"] = self.state["values"] | dict(values)
        tune.report(dict(self.state))

    def warned(self, text: str) -> None:
        """Report the warning."""
        tune.report(self.state | {"warning": text})


def _trial(config: Mapping[str, Any]) -> None:
    try:
        _run(config["run"])
    except Exception as error:
        tune.report({"state": "failed", "error": _in_words(error)})
    else:
        tune.report({"state": "done"})


def _run(given: Mapping[str, Any]) -> None:
    # Imported here: the driver never needs torch.
    from rt_scale.experiments.run import run
    from rt_scale.experiments.settings import Settings
    from rt_scale.store.store import Store

    spec = RunSpec.model_validate(given["spec"])
    if given["workers"] > 1:
        _run_with_workers(spec, given)
        return
    settings = Settings(
        store=Store.open(given["store"]),
        data_dir=Path(given["data_dir"]),
        device=given["device"],
        threads=given["threads"],
        loader=given["loader"],
        observer=_Reporter(),
    )
    run(spec, settings)


def _run_with_workers(spec: RunSpec, given: Mapping[str, Any]) -> None:
    from rt_scale.launch.ddp import run_with_workers  # Ray Train is needed nowhere else

    reporter = _Reporter()
    reporter.started(0, 0)
    reporter.stage(f"training on {given['workers']} workers")
    run_with_workers(
        spec,
        workers=given["workers"],
        cpus=given["threads"],
        gpus=given["gpus"],
        store=given["store"],
        data_dir=Path(given["data_dir"]),
        device=given["device"],
        loader=given["loader"],
    )


def _in_words(error: Exception) -> str:
    """What ended a run; whatever happens once it is under way comes as an RtScaleError."""
    if isinstance(error, RtScaleError):
        return str(error)
    detail = " ".join(str(error).split())
    return f"it could not be started ({type(error).__name__}: {detail}); see what is missing with 'rt-scale doctor'"


class _Forward(tune.Callback):  # type: ignore[misc]
    """Hands Tune's events to the view, and keeps the errors."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.errors: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks for a restore that we never ask for; a terminal cannot be pickled.
        return {}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Tune received a report."""
        label = trial.config["run"]["label"]
        if result.get("state") == "running":
            self._view.running(label, result)
        elif result.get("state") in {"done", "failed"}:
            self._finished(label, result.get("error"))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """A trial's process died more often than it is restarted."""
        reason = f"its process died {RESTARTS + 1} times; run the sweep again to go on from its last checkpoint"
        self._finished(trial.config["run"]["label"], reason)

    def _finished(self, label: str, error: str | None) -> None:
        if error is not None:
            self.errors[label] = error
        self._view.finished(label, error)
