from __future__ import annotations

import io
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rt_scale.progress.bars import RunBar, Score, counting, probe_text, scores
from rt_scale.progress.terminal import SweepView
from rt_scale.scheduler.job import RunReport
from rt_scale.system.console import PlainConsole

VALUES = {"probe/student/linear": 0.4567, "probe/teacher/linear": 0.25, "probe/student/knn": 0.9}


def console(terminal: bool) -> PlainConsole:
    return PlainConsole(file=io.StringIO(), force_terminal=terminal, width=160, soft_wrap=not terminal)


def text(made: PlainConsole) -> str:
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, ""),
        ({"train/loss": 1.0}, ""),
        ({"probe/student/linear": 0.5}, "linear 50.0"),
        (VALUES, "linear 45.7 (teacher 25.0), knn 90.0"),
        (VALUES | {"probe@stl10/student/linear": 0.3}, "linear 45.7 (teacher 25.0), knn 90.0"),
        (
            {"probe@stl10/student/knn": 0.2, "probe@stl10/student/linear": 0.3, "probe@stl10/teacher/linear": 0.1},
            "linear on stl10 30.0 (teacher 10.0), knn on stl10 20.0",
        ),
        ({"probe/student/knn": 0.2, "test/accuracy": 0.815}, "test accuracy 81.5, knn 20.0"),
        ({"probe/student/ridge": 0.2}, ""),
    ],
)
def test_probes_in_percent_as_far_as_they_are_known(values: dict[str, float], expected: str) -> None:
    assert probe_text(values) == expected


def test_scores_are_the_student_s_and_the_classifier_s() -> None:
    found = scores(VALUES | {"test/accuracy": 0.8, "probe/input/linear": 0.1, "probe/student/ridge": 0.2})
    assert found == [
        Score("test accuracy", 0.8, "test accuracy 80.0"),
        Score("linear", 0.4567, "linear 45.7 (teacher 25.0)"),
        Score("knn", 0.9, "knn 90.0"),
    ]
    assert scores({"train/loss": 1.0}) == []


def drive(bar: RunBar) -> None:
    bar.stage("probing the teacher")
    bar.started(120, 4000)
    bar.stepped(121)
    bar.logged(121, 1.5, {"train/loss": 3.0})
    bar.logged(121, 1.5, VALUES)
    bar.warned("Checkpoint '[120]' is damaged")
    bar.stepped(4000)


def test_a_run_in_a_pipe_is_a_line_each_probing() -> None:
    made = console(terminal=False)
    with RunBar(made) as bar:
        drive(bar)
    assert text(made).splitlines() == [
        "resuming at step 120 of 4,000",
        "epoch 1.5: linear 45.7 (teacher 25.0), knn 90.0",
        "warning: Checkpoint '[120]' is damaged",
    ]


def test_a_run_in_a_terminal_is_a_bar() -> None:
    made = console(terminal=True)
    with RunBar(made) as bar:
        drive(bar)
    shown = text(made)
    assert "4000/4000" in shown
    assert "training" in shown
    assert "linear 45.7 (teacher 25.0), knn 90.0" in shown
    assert "epoch 1.5" not in shown


def test_a_new_run_does_not_say_that_it_resumes() -> None:
    made = console(terminal=False)
    with RunBar(made) as bar:
        bar.started(0, 10)
    assert text(made) == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_counting_shows_a_bar_in_a_terminal_and_nothing_in_a_pipe(terminal: bool) -> None:
    made = console(terminal)
    with counting(made, "preparing digits") as advance:
        advance(3, 10)
        advance(10, 10)
    assert ("preparing digits" in text(made) and "10/10" in text(made)) is terminal
    assert terminal or text(made) == ""


def test_counting_tells_the_rate_and_the_time_left() -> None:
    now = 0.0
    made = PlainConsole(file=io.StringIO(), force_terminal=True, width=160, get_time=lambda: now)
    with counting(made, "preparing cifar5m") as advance:
        for done in range(0, 6000, 1000):
            advance(done, 100_000)
            now += 1.0
    assert "1,000/s" in text(made)
    assert "0:01:35" in text(made)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_run_on_noise_shows_the_numbers_on_images(terminal: bool) -> None:
    values = {f"probe@digits/{name.removeprefix('probe/')}": value for name, value in VALUES.items()}
    made = console(terminal)
    with RunBar(made) as bar:
        bar.started(0, 10)
        bar.logged(5, 0.5, values)
    assert "linear on digits 45.7 (teacher 25.0), knn on digits 90.0" in " ".join(text(made).split())


def test_a_run_says_what_was_decided() -> None:
    made = console(False)
    with RunBar(made) as bar:
        bar.decided("images: [map], as 3 MB")
    assert "images: [map], as 3 MB\n" in text(made)


def test_the_bar_of_a_run_elsewhere_shows_what_it_reports() -> None:
    made = console(terminal=False)
    with RunBar(made) as bar:
        bar.reported(RunReport(stage="starting 2 workers"))
        under_way = RunReport(stage="training", began=120, step=121, steps=4000, epoch=1.5, values=VALUES)
        bar.reported(replace(under_way, warnings=("hot",)))
        bar.reported(replace(under_way, step=130))
        bar.reported(replace(under_way, values=VALUES | {"probe/student/knn": 0.95}, epoch=2.0, step=160))
    assert text(made).splitlines() == [
        "warning: hot",
        "resuming at step 120 of 4,000",
        "epoch 1.5: linear 45.7 (teacher 25.0), knn 90.0",
        "epoch 2: linear 45.7 (teacher 25.0), knn 95.0",
    ]


def test_a_notebook_shows_progress_in_a_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Output:
        """Stands in for the widget of ipywidgets that rich draws into."""

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def clear_output(self, wait: bool) -> None: ...

        def close(self) -> None: ...

    def display(shown_object: object) -> None:
        shown.append(getattr(shown_object, "text", ""))

    monkeypatch.setitem(sys.modules, "ipywidgets", SimpleNamespace(Output=Output))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    notebook = PlainConsole(file=io.StringIO(), force_jupyter=True, color_system=None, width=100)
    with RunBar(notebook) as bar:
        bar.started(0, 10)
        bar.stepped(4)
        bar.logged(4, 1.0, VALUES)
    assert "4/10 steps" in "".join(shown)
    assert "linear 45.7" in "".join(shown)
    shown.clear()
    with SweepView(notebook, 2, 0) as view:
        view.running("alpha=0.5", RunReport(step=5, steps=10))
        view.progress.live.refresh()
    assert "50 %" in "".join(shown)
