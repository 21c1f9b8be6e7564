"""Runs that belong to no sweep, by their names, beginnings of names, and spec files."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app, status
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import Point
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.records import finish_run, run_result

BASE: dict[str, Any] = {"data": {"name": "digits", "samples": 60}, "encoder": {"name": "convnet_4_1"}}
SPECS = [RunSpec.model_validate({**BASE, "student": {"alpha": alpha}}) for alpha in (0.25, 0.5, 0.75, 1.0)]
SCORES = {f"probe/{role}/linear": value for role, value in (("student", 0.7), ("teacher", 0.5), ("input", 0.4))}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store of two finished runs, one that failed, and one that was begun."""
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / "store")
    for spec in SPECS[:2]:
        finish_run(store, Point({}, 0, spec), run_result(SCORES, name=spec.name))
    for spec in SPECS[2:]:
        run = store.run(spec)
        with run.acquire():
            run.write_spec(spec)
            if spec is SPECS[2]:
                run.fail({"reason": "The loss is nan."})
    return store


def cli(*arguments: object) -> str:
    ended = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def rows(*arguments: object) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cli("status", *arguments, "--json"))["runs"]
    return found


def folder_in(text: str) -> Path:
    """The folder that a command says it has written to."""
    return Path(text.partition("Written to ")[2].split()[0].removesuffix(":"))


def test_a_store_lists_its_runs_by_the_fields_in_which_they_differ(store: Store) -> None:
    lines = [line.split() for line in cli("status").splitlines()]
    shown = [" ".join(words[:2]) for words in lines[1:-1]]
    assert sorted(shown[:2]) == ["alpha=0.75,seed=0 failed", "alpha=1,seed=0 partial"]
    assert sorted(shown[2:]) == ["alpha=0.25,seed=0 done", "alpha=0.5,seed=0 done"]
    assert lines[-1] == ["4", "runs:", "2", "done,", "1", "failed,", "1", "partial"]
    assert {row["label"]: row["name"] for row in rows()}["alpha=0.5,seed=0"] == SPECS[1].name


def test_states_and_fields_choose(store: Store, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "base": BASE, "axes": {"student.alpha": [0.5, 0]}}))
    assert [row["name"] for row in rows("--state", "failed")] == [SPECS[2].name]
    assert {row["name"] for row in rows("--where", "student.alpha>=0.5")} == {spec.name for spec in SPECS[1:]}
    assert rows("--where", "student.alpha>=0.5", "--where", "student.alpha<0.7", "--state", "failed") == []
    assert [row["state"] for row in rows("s.yaml", "--where", "student.alpha=0")] == ["missing"]
    text = cli("status", "s.yaml", "--where", "student.alpha=0.5")
    assert SPECS[1].name in text
    assert text.endswith("1 run: 1 done\n")
    for wrong, message in (
        (["--state", "fialed"], "Unknown state 'fialed'. Did you mean 'failed'"),
        (["--where", "alpha=1"], "Unknown field of --where 'alpha'"),
        (["--watch", "--json"], "Give one of them"),
    ):
        with pytest.raises(InputError, match=message):
            cli("status", *wrong)


def test_watching_ends_when_all_are_done(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        run = store.run(SPECS[3])
        with run.acquire():
            run.complete(run_result(SCORES))

    monkeypatch.setattr(status.time, "sleep", wait)
    assert "4 runs: 3 done, 1 failed" in cli("status", "--watch")
    assert len(waits) == 1 <= waits[0]


def test_watching_waits_for_runs_to_be_sampled_and_ctrl_c_ends_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore = {
        "metric": "train/kl", "mode": "min", "search": {"optuna": {"runs": 4}},
        "space": {"student.alpha": {"uniform": [0, 1]}},
    }  # fmt: skip
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({"name": "searched", "base": BASE, "explore": explore}))
    waits: list[float] = []

    def interrupted(seconds: float) -> None:
        waits.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(status.time, "sleep", interrupted)
    assert "4 more to be sampled" in cli("status", "search.yaml", "--watch")
    assert len(waits) == 1


def test_a_run_is_given_by_its_name_a_beginning_or_its_spec_file(store: Store, tmp_path: Path) -> None:
    spec = SPECS[0]
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({**BASE, "student": {"alpha": 0.5}}))
    for given in (spec.name, spec.name[:-3], spec.hash, spec.hash[:10]):
        (row,) = rows(given)
        assert (row["name"], row["state"]) == (spec.name, "done")
        assert row["label"] == "data.name=digits,encoder.name=convnet_4_1,alpha=0.25,seed=0"
    assert [row["name"] for row in rows("a.yaml", "--set", "student.alpha=0.75")] == [SPECS[2].name]
    assert [row["label"] for row in rows("a.yaml", spec.hash)] == ["alpha=0.5,seed=0", "alpha=0.25,seed=0"]
    text = cli("status", "a.yaml")
    assert text.splitlines()[-2].split()[1:3] == ["done", "1"]  # a run that is asked for is shown in any state


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["distill-"], "'distill-' is the beginning of 4 runs: distill-"),
        ([SPECS[0].name.replace("distill", "distil")], f"no run in .*Did you mean '{SPECS[0].name}'"),
        (["paper/fig33"], "Did you mean 'paper/fig3'"),
        ([SPECS[0].name, "--set", "train.epochs=2"], "--set and --import are for files"),
    ],
)
@pytest.mark.parametrize("command", ["status", "report", "board", "export --to csv"])
def test_names_that_are_none(store: Store, command: str, given: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        cli(*command.split(), *given)


def test_of_very_many_runs_none_is_suggested(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rt_scale.store.sweep_runs._MANY", 5)
    with pytest.raises(InputError, match=r"is called 'disti1'\. 'rt-scale status' lists runs"):
        cli("status", "disti1")


def test_the_report_of_a_run_is_in_its_directory(store: Store) -> None:
    text = cli("report", SPECS[0].hash)
    page = store.run(SPECS[0]).path / "report" / "report.md"
    assert page.with_suffix(".html").as_uri() in text
    assert "1 of 1 runs finished" in text
    assert store.sweeps() == []
    assert rows(SPECS[0].name)[0]["state"] == "done"


def test_several_runs_are_reported_and_exported_side_by_side(store: Store, tmp_path: Path) -> None:
    text = cli("report", SPECS[0].hash, SPECS[1].hash, SPECS[3].hash)
    assert "2 of 3 runs finished" in text
    assert "0.25" in text
    cli("export", SPECS[0].hash, SPECS[3].hash, "--to", "csv", "--out", tmp_path / "out")
    with open(tmp_path / "out" / "runs.csv") as file:
        table = list(csv.DictReader(file))
    assert [(row["student.alpha"], row["status"]) for row in table] == [("0.25", "done"), ("1", "partial")]


def test_runs_are_compared_in_specs_tables_and_figures(store: Store, tmp_path: Path) -> None:
    a, b, c = (spec.hash for spec in (*SPECS[:2], SPECS[3]))
    text = cli("compare", a, b)
    assert text.splitlines()[1].split() == ["student.alpha", "0.25", "0.5"]
    assert "2 runs finished" in text
    figure = folder_in(text) / "curves-linear.png"
    assert figure.stat().st_size > 10_000
    assert figure.is_relative_to(store.run(SPECS[0]).path)
    found = json.loads(cli("compare", a, c, "--json"))
    assert found["version"] == 1
    assert found["differences"] == {"student.alpha": {SPECS[0].name: 0.25, SPECS[3].name: 1.0}}
    assert found["tables"]["linear"][0]["student"]["mean"] == 0.7
    assert [path for path in found["files"] if path.endswith(".png")]
    text = cli("compare", SPECS[2].hash, c)
    assert "None of them is finished" in text


def test_equal_networks_are_told_where_they_meet(store: Store, tmp_path: Path) -> None:
    axes = [{"encoder.name": ["convnet_8_1", "convnet_4_1"], "encoder.width": [1, 2]}]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"name": "s", "base": BASE, "zip": axes}))
    text = cli("compare", "s.yaml")
    assert "convnet_8_1 and convnet_4_1 at width 2 are one network" in text
    ended = CliRunner().invoke(app, ["plan", "s.yaml"], catch_exceptions=False)
    assert "are one network" in ended.stderr


def test_messages_call_single_runs_what_they_are(store: Store) -> None:
    with pytest.raises(InputError, match=f"None of the 1 runs of run {SPECS[3].name} is finished"):
        cli("report", SPECS[3].hash)
    with pytest.raises(InputError, match="None of the 2 runs of 2 single runs is finished"):
        cli("report", SPECS[2].hash, SPECS[3].hash)
    page = folder_in(cli("compare", *(spec.hash for spec in SPECS[:2]))) / "report.md"
    assert page.read_text().startswith("# 2 single runs")
