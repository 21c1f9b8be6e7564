"""What is handed to Ray Tune and heard from it; real trials are in tests/integration/test_sweep.py."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from rt_scale.launch import tune
from rt_scale.launch.tune import _Forward, _in_words
from rt_scale.spec.errors import RunError
from rt_scale.spec.sweep import LaunchSpec, SweepSpec, expand


def test_errors_of_a_trial_are_told_in_words() -> None:
    assert _in_words(RunError("The disk is full.")) == "The disk is full."
    told = _in_words(ImportError("no module\n  named torch"))
    assert "could not be started (ImportError: no module named torch)" in told
    assert "rt-scale doctor" in told


class Recorder:
    """A view that remembers."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def running(self, label: str, result: Any) -> None:
        self.calls.append(("running", label, result["step"]))

    def finished(self, label: str, error: str | None) -> None:
        self.calls.append(("finished", label, error))


def test_events_of_trials_reach_the_view_and_errors_are_kept() -> None:
    view = Recorder()
    forward = _Forward(view)

    def trial(label: str) -> Any:
        return type("Trial", (), {"config": {"run": {"label": label}}})()

    for label, result in [
        ("a", {"state": "running", "step": 1}),
        ("a", {"state": "done"}),
        ("b", {"state": "failed", "error": "bad"}),
        ("c", {"step": 3}),
    ]:
        forward.on_trial_result(1, [], trial(label), result)
    forward.on_trial_error(1, [], trial("d"))
    assert view.calls[:3] == [("running", "a", 1), ("finished", "a", None), ("finished", "b", "bad")]
    kind, label, error = view.calls[3]
    assert (kind, label) == ("finished", "d")
    assert error.startswith("its process died 4 times")
    assert forward.errors == {"b": "bad", "d": error}
    assert forward.__getstate__() == {}


@pytest.mark.parametrize("loader", ["auto", "map"])
def test_the_reader_reaches_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: Any) -> None:
    """From the sweep's file to Tune's configurations, and from one of these to the run's settings."""
    base = {"data": {"name": "digits"}, "encoder": {"name": "convnet_8_2"}}
    points = expand(SweepSpec(name="small", base=base, axes={"student.alpha": [0.1, 0.5]}))
    configs: list[dict[str, Any]] = []

    class Tuner:
        def __init__(self, trainable: Any, param_space: dict[str, Any], **_: Any) -> None:
            configs.extend(param_space["run"]["grid_search"])

        def fit(self) -> None:
            """Nothing is run."""

    monkeypatch.setattr(tune.tune, "Tuner", Tuner)
    monkeypatch.setattr(tune, "local_ray", contextlib.nullcontext)
    monkeypatch.setattr(tune, "refuse_impossible", lambda launch: None)
    launch = LaunchSpec(loader=loader)
    tune.run_points(points, launch, store=tmp_path, data_dir=tmp_path, device="cpu", view=Recorder())
    assert [config["label"] for config in configs] == [point.label for point in points]
    given: list[Any] = []
    monkeypatch.setattr("rt_scale.experiments.run.run", lambda spec, settings: given.append((spec, settings)))
    tune._run(configs[1])
    ((spec, settings),) = given
    assert spec == points[1].spec
    assert (settings.loader, settings.threads, settings.device) == (loader, 1, "cpu")
