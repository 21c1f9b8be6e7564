"""`rt-scale sweep` as it is typed: what it hands on, and what it refuses."""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import webbrowser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.cli.options import load_files
from rt_scale.cli.runs import LISTED, again
from rt_scale.data.prepare import open_prepared
from rt_scale.ray_backend import terminal as launched
from rt_scale.ray_backend.sweep import SweepOutcome
from rt_scale.scheduler.job import Where, jobs_of
from rt_scale.spec import grid
from rt_scale.spec.errors import ExitCode, InputError
from rt_scale.store.store import Store
from tests.receiver import receiving
from tests.records import finish_run, run_result

STORE = Store(Path("store"))
SWEEP: dict[str, Any] = {
    "name": "one",
    "base": {"data": {"name": "digits", "samples": 60}, "encoder": {"name": "convnet_4_1"}, "train": {"epochs": 1}},
    "axes": {"student.alpha": [0.5, 1.0]},
    "launch": {"cpus": 2, "retries": 1},
}
PRICES = {
    "prices": [
        {"name": "a machine", "gpus": 0, "cpus": 4, "on_demand": 3600.0, "spot": 1800.0, "currency": "EUR",
         "date": "2026-02-03", "source": "a page"},
    ]
}  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    return path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Where]]:
    """What would be run."""
    found: list[tuple[Any, Where]] = []

    def run_sweeps(sweeps: Any, where: Where, view: Any, stopping: Any, lost: Any) -> list[SweepOutcome]:
        found.append((sweeps, where))
        return [SweepOutcome() for _ in sweeps]

    monkeypatch.setattr(launched, "run_sweeps", run_sweeps)
    return found


def test_what_is_typed_is_handed_on(file: Path, tmp_path: Path, calls: list[tuple[Any, Where]]) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**SWEEP, "name": "other"}))
    arguments = [
        "sweep", file, other, "--set", "train.epochs=7", "--store", tmp_path / "s", "--data-dir", tmp_path / "d",
        "--device", "cpu", "--address", "10.0.0.1:6379", "--concurrency", 3, "--cpus", 4, "--gpus", 0.5,
        "--memory", 1.5, "--accelerator", "H100", "--pack", "6", "--retry-failed", "--leave-others", "--yes",
        "--max-nodes", 7, "--wait-nodes", 2,
    ]  # fmt: skip
    ended = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    ((sweeps, where),) = calls
    assert [sweep.spec.name for sweep in sweeps] == ["one", "other"]
    launch = sweeps[0].spec.launch
    assert (launch.cpus, launch.gpus, launch.accelerator, launch.workers, launch.retries) == (4, 0.5, "H100", 1, 1)
    assert (launch.pack, launch.accelerate, launch.memory) == (6, "auto", 1.5)
    assert {point.spec.train.epochs for sweep in sweeps for point in sweep.points} == {7}
    assert sweeps[0].overrides == ["train.epochs=7"]
    assert (where.max_nodes, where.wait_nodes, where.deadline) == (7, 2, None)
    assert (where.store.root, where.data_dir, where.device) == (tmp_path / "s", tmp_path / "d", "cpu")
    assert (where.address, where.concurrency, where.retry_failed, where.replace) == ("10.0.0.1:6379", 3, True, True)
    assert where.leave_others


def test_the_plan_is_held_to_the_deadline_before_it_starts(
    file: Path, tmp_path: Path, calls: list[tuple[Any, Where]]
) -> None:
    def go(*more: str) -> Any:
        given = ["sweep", str(file), "--store", str(tmp_path / "s"), "--data-dir", str(tmp_path / "d"), *more]
        return CliRunner().invoke(app, given)

    ended = go("--deadline", "2h")
    assert re.search(r"By the plan, the last run ends 1h 5\dm before the deadline \(20", ended.output)
    ((_, where),) = calls
    assert where.deadline is not None
    assert 7100 < where.deadline.at - time.time() <= 7200
    jobs = jobs_of(load_files([file], [], {}, where.store))
    assert all(0 < (where.deadline.left(job) or 0) < 600 for job in jobs.values())
    assert isinstance(go("--deadline", "tomorrow").exception, InputError)
    assert "more nodes than --max-nodes 2" in str(go("--max-nodes", "2", "--wait-nodes", "3").exception)


def test_how_to_accelerate_is_handed_on(file: Path, tmp_path: Path, calls: list[tuple[Any, Where]]) -> None:
    arguments = ["sweep", str(file), "--accelerate", "compile", "--store", str(tmp_path)]
    ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    assert calls[0][0][0].spec.launch.accelerate == "compile"


def test_flags_that_make_no_launch_section_are_refused(file: Path) -> None:
    with pytest.raises(InputError, match="workers"):
        load_files([file], [], {"workers": 0}, STORE)
    with pytest.raises(InputError, match="accelerate compile is for runs of one worker"):
        load_files([file], [], {"workers": 2, "accelerate": "compile"}, STORE)
    with pytest.raises(InputError, match="accelerate graphs is for runs that train alone"):
        load_files([file], [], {"pack": "auto", "accelerate": "graphs"}, STORE)
    (sweep,) = load_files([file], [], {"workers": 2}, STORE)
    assert sweep.spec.launch.workers == 2
    assert sweep.spec.launch.accelerate == "auto"
    with pytest.raises(InputError, match="pack is for runs of 1 worker, not of 2"):
        load_files([file], [], {"workers": 2, "pack": "auto"}, STORE)
    for wrong in ("maybe", True):
        with pytest.raises(InputError, match=r"accelerate: .*allowed: auto, none, compile, graphs"):
            load_files([file], [], {"accelerate": wrong}, STORE)
    for before in ("auto", True, False):
        with pytest.raises(InputError, match="accelerate: compile"):
            load_files([file], [], {"compile": before}, STORE)
    for wrong, told in (("0", "0"), ("many", "'many'"), ("1.5", "'1.5'"), (True, "true"), ("9" * 5000, "'999")):
        with pytest.raises(InputError, match=f"pack: {told}.* was given; allowed: auto, or a number of runs"):
            load_files([file], [], {"pack": wrong}, STORE)


def test_a_large_grid_needs_yes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "GRID_LIMIT", 1)
    with pytest.raises(InputError, match="--yes"):
        load_files([file], [], {}, STORE)
    assert len(load_files([file], [], {}, STORE, yes=True)[0].points) == 2


def test_nothing_starts_above_the_budget(
    file: Path, tmp_path: Path, calls: list[tuple[Any, Where]], nothing_is_timed: None
) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text(yaml.safe_dump(PRICES))
    open_prepared("digits", tmp_path / "data")
    given = ["sweep", file, "--store", tmp_path / "s", "--data-dir", tmp_path / "data", "--price", prices, "--budget"]
    with pytest.raises(InputError, match=r"above the budget of 0\.00 EUR"):
        CliRunner().invoke(app, [*map(str, given), "0"], catch_exceptions=False)
    assert calls == []
    ended = CliRunner().invoke(app, [*map(str, given), "1e6"], catch_exceptions=False)
    assert ended.exit_code == 0
    assert "Within the budget:" in ended.stdout
    assert len(calls) == 1
    with pytest.raises(InputError, match="--budget needs prices"):
        CliRunner().invoke(app, ["sweep", str(file), "--budget", "1"], catch_exceptions=False)


@pytest.mark.parametrize("kind", ["failed", "ended"])
def test_runs_without_a_result_are_named(file: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    why = {"failed": "It diverged.", "ended": "asha after 5 epochs"}[kind]
    outcome = SweepOutcome(**{kind: {"a": why}})
    monkeypatch.setattr(launched, "run_sweeps", lambda *_: [outcome])
    ended = CliRunner().invoke(app, ["sweep", str(file)], catch_exceptions=False)
    assert ended.exit_code == (1 if kind == "failed" else 0)
    said = {"failed": "rt-scale: a has no result: It diverged.\n", "ended": "a was ended early: asha after 5 epochs\n"}
    assert said[kind] in ended.output


def test_what_is_printed_last_is_what_one_does_next(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {f"seed={seed}": "It diverged." for seed in range(LISTED + 2)}

    def run_sweeps(sweeps: Any, where: Where, *_: Any) -> list[SweepOutcome]:
        finish_run(where.store, sweeps[0].points[0], run_result({"probe/student/linear": 0.5}))
        return [SweepOutcome([sweeps[0].points[0]], failed)]

    opened: list[str] = []
    monkeypatch.setattr(launched, "run_sweeps", run_sweeps)
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    words = ["sweep", str(file), "--store", str(tmp_path / "s"), "--data-dir", str(tmp_path / "d"), "--cpus", "2"]
    monkeypatch.setattr(sys, "argv", ["rt-scale", *words])
    ended = CliRunner().invoke(app, [*words, "--open"], catch_exceptions=False)
    told = ended.stdout.splitlines()
    page = (Store(tmp_path / "s").sweep("one").report / "report.html").as_uri()
    board = f"rt-scale board {file} --store {tmp_path / 's'} --data-dir {tmp_path / 'd'} --open"
    assert opened == [page]
    retry = f"Once that is set right: {shlex.join(['rt-scale', *words])} --retry-failed"
    assert told[-3:] == [retry, f"open {page}", board]
    errors = ended.stderr.splitlines()
    assert errors[:LISTED] == [f"rt-scale: seed={seed} has no result: It diverged." for seed in range(LISTED)]
    assert errors[LISTED].startswith("rt-scale: 2 more have no result")
    assert f"No browser could be opened here; open {page}" in errors[-1]
    assert ended.exit_code == ExitCode.FAILED


def test_failed_runs_are_tried_again_by_the_command_that_was_given() -> None:
    assert again(["sweep", "a b.yaml", "--cpus=2"]) == "rt-scale sweep 'a b.yaml' --cpus=2 --retry-failed"
    assert again(["sweep", "a", "--retry-failed", "--notify", "http://s3cr3t"]) == "rt-scale sweep a --retry-failed"
    assert again(["sweep", "--notify=http://s3cr3t", "a"]) == "rt-scale sweep a --retry-failed"
    assert again(["demo", "--store", "s"]) == "rt-scale sweep demo --store s --retry-failed"


def test_runs_left_to_other_drivers_have_an_exit_code_of_their_own(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = SweepOutcome(failed={"b": "It diverged."}, left={"a": "process 5 on host far"})
    monkeypatch.setattr(launched, "run_sweeps", lambda *_: [outcome])
    with receiving() as got:
        arguments = ["sweep", str(file), "--store", str(tmp_path), "--notify", got.url]
        ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert ended.exit_code == ExitCode.OTHERS_LEFT == 4
    assert "1 run left to other drivers: a (process 5 on host far)\n" in ended.output
    assert got.documents[-1]["left"] == [{"run": "a", "by": "process 5 on host far"}]


def test_help_says_all_exit_codes() -> None:
    said = CliRunner().invoke(app, ["sweep", "--help"], catch_exceptions=False).output
    codes = said.partition("Exit codes:")[2].partition("Options")[0]
    assert [int(code) for code in re.findall(r"\d+", codes)] == [*ExitCode]


def test_the_end_is_told_with_counts_and_reasons(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_sweeps(sweeps: Any, where: Where, view: Any, *_: Any) -> list[SweepOutcome]:
        with view(2, 0) as shown:
            shown.finished("alpha=1", "It diverged.")
        return [SweepOutcome(failed={"alpha=1": "It diverged."})]

    monkeypatch.setattr(launched, "run_sweeps", run_sweeps)
    with receiving() as got:
        monkeypatch.setenv("RT_SCALE_NOTIFY", f"{got.url}/s3cr3t")
        ended = CliRunner().invoke(app, ["sweep", str(file), "--store", str(tmp_path / "s")], catch_exceptions=False)
    assert ended.exit_code == 1
    assert "s3cr3t" not in ended.output
    failed = [{"run": "alpha=1", "reason": "It diverged."}]
    first, last = got.documents
    assert first == {
        "event": "run_failed", "sweep": "one", "failed": failed,
        "counts": {"runs": 2, "done": 0, "failed": 1, "ended": 0, "preempted": 0},
    }  # fmt: skip
    assert (last["event"], last["sweep"], last["failed"], last["report"]) == ("sweep_ended", "one", failed, None)
    assert last["preempted"] == {}
    assert (last["counts"]["runs"], last["counts"]["missing"], last["counts"]["done"]) == (2, 2, 0)


def test_an_interrupt_and_a_refusal_are_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(error: BaseException) -> dict[str, Any]:
        def run_sweeps(*_: Any) -> list[SweepOutcome]:
            raise error

        monkeypatch.setattr(launched, "run_sweeps", run_sweeps)
        with receiving() as got:
            CliRunner().invoke(app, ["sweep", str(file), "--notify", got.url])
        (document,) = got.documents
        return document

    assert stopped(InputError("No data.")) == {"event": "sweep_stopped", "sweep": "one", "reason": "No data."}
    assert "interrupted" in stopped(KeyboardInterrupt())["reason"]


def test_a_notification_that_fails_fails_no_sweep(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, Where]]
) -> None:
    with receiving() as got:
        got.answers = 500
        arguments = ["sweep", str(file), "--store", str(tmp_path / "s"), "--notify", f"{got.url}/s3cr3t"]
        ended = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert (ended.exit_code, got.events) == (0, ["sweep_ended"])
        assert f"warning: 1 notification to {got.url} failed: it answered 500" in ended.output
        assert "s3cr3t" not in ended.output
    with pytest.raises(InputError, match="'no-such-program'"):
        CliRunner().invoke(app, [*arguments[:-1], "no-such-program"], catch_exceptions=False)
    assert len(calls) == 1


def test_json_is_the_report_alone(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {f"probe/{role}/linear": 0.5 for role in ("input", "teacher", "student")}

    def run_sweeps(sweeps: Any, where: Where, view: Any, stopping: Any, lost: Any) -> list[SweepOutcome]:
        for point in sweeps[0].points:
            finish_run(where.store, point, run_result(scores))
        with view(2, 0):
            pass
        return [SweepOutcome(list(sweeps[0].points))]

    monkeypatch.setattr(launched, "run_sweeps", run_sweeps)
    words = ["sweep", file, "--store", tmp_path / "s", "--data-dir", tmp_path / "d"]
    told = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False).stdout
    assert "Ray's log" in told
    assert "2 of 2 runs finished" in told
    found = json.loads(CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False).stdout)
    assert found["version"] == 1
    assert [row["student"]["mean"] for row in found["tables"]["linear"]] == [0.5, 0.5]
