from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale import __version__
from rt_scale.cli import app, doctor, main, runs
from rt_scale.cli.options import print_table
from rt_scale.scheduler.search import Search
from rt_scale.spec.errors import ExitCode, InputError, RunError
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import SweepRuns
from tests.unit.cli.tree import every_command

SPEC: dict[str, Any] = {
    "data": {"name": "digits", "samples": 60},
    "encoder": {"name": "convnet_4_1"},
    "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
    "train": {"epochs": 1, "batch_size": 32},
    "probe": {"every": "1ep", "knn": 5, "epochs": 1, "standardized": False},
}


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What a command prints; it must succeed."""
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(tmp_path / "data"))

    def call(*arguments: object) -> str:
        ended = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    return call


@pytest.mark.parametrize("command", [words for words, _ in every_command()], ids=" ".join)
def test_every_command_explains_itself_and_ends_with_examples_that_80_columns_hold(
    invoke: Callable[..., str], command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = invoke(*command, "--help")
    assert " ".join(["Usage: root", *command]) in text
    assert invoke(*command, "-h") == text
    lines = [line.strip() for line in text.strip().splitlines()]
    examples = lines[lines.index("Examples:") + 1 :]
    assert 1 <= len(examples) <= 3
    assert all(line.startswith("rt-scale ") for line in examples), "an example is wrapped"
    assert not command or any(line.startswith(" ".join(["rt-scale", *command])) for line in examples)


def test_commands_are_listed_in_the_order_in_which_one_uses_them(invoke: Callable[..., str]) -> None:
    lines = invoke("-h").partition("Examples:")[0].splitlines()
    listed = [words[1] for line in lines if len(words := line.split()) > 2]
    order = ["doctor", "demo", "data", "sweeps", "plan", "run", "sweep", "status", "board", "report", "bundle", "gc"]
    assert [name for name in listed if name in order] == order


@pytest.mark.parametrize(("typed", "completed"), [("rt-scale sta", "status"), ("rt-scale data ver", "verify")])
def test_a_shell_completes_commands(typed: str, completed: str) -> None:
    asked = {"_RT_SCALE_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    code = "from rt_scale.cli import main; import sys; sys.argv = ['rt-scale']; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **asked},
    )
    assert done.stdout.split() == [completed], done.stderr


@pytest.mark.parametrize(
    ("arguments", "allowed", "said"), [(["--help"], set(), "Usage: rt-scale"), (["status"], {"pydantic"}, "0 runs")]
)
def test_commands_that_read_little_import_little(
    tmp_path: Path, arguments: list[str], allowed: set[str], said: str
) -> None:
    code = f"""
import sys
sys.argv = ["rt-scale", *{arguments}]
from rt_scale.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {{"torch", "ray", "numpy", "matplotlib", "tensorboard", "sklearn", "pyarrow", "pydantic"}} & set(sys.modules)
assert heavy <= set({sorted(allowed)}), heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "RT_SCALE_STORE": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "one", "base": SPEC}))
    return path


def test_json_of_a_run_its_status_and_its_report(
    invoke: Callable[..., str], spec_file: Path, sweep_file: Path, tmp_path: Path
) -> None:
    result = json.loads(invoke("run", spec_file, "--json", "--threads", "1", "--device", "cpu"))
    (run_dir,) = Store(tmp_path / "store")
    finished = run_dir.result()
    assert finished is not None
    assert result == finished.to_json()
    (row,) = json.loads(invoke("status", "--json"))["runs"]
    label = "data.name=digits,encoder.name=convnet_4_1,alpha=1e-10,seed=0"
    named = {"label": label, "name": run_dir.name}
    assert row == named | {"state": "done", "attempts": 1, "detail": "", "other_data": ""}
    (row,) = json.loads(invoke("status", sweep_file, "--json"))["runs"]
    assert (row["label"], row["state"]) == ("base,seed=0", "done")
    tables = json.loads(invoke("report", sweep_file, "--json"))["tables"]
    assert tables["linear"][0]["student"]["mean"] == finished.last["probe/student/linear"]
    best = json.loads(invoke("report", sweep_file, "--json", "--best"))["tables"]
    assert best["linear"][0]["student"]["mean"] == finished.best["probe/student/linear"].value


def test_a_search_counts_what_it_has_not_sampled_yet(
    invoke: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "search.yaml"
    explore = {
        "metric": "train/kl", "mode": "min", "search": {"optuna": {"runs": 4}},
        "space": {"student.alpha": {"uniform": [0, 1]}},
    }  # fmt: skip
    file.write_text(yaml.safe_dump({"name": "searched", "base": SPEC, "explore": explore}))
    store = Store(tmp_path / "store")
    assert "4 more to be sampled" in invoke("status", file)
    point = Search(SweepRuns(*load_sweep(file), store)).next()
    assert point is not None
    run_file = tmp_path / "run.yaml"
    run_file.write_text(yaml.safe_dump(point.spec.model_dump(mode="json", exclude_unset=True)))
    invoke("run", run_file, "--threads", "1", "--device", "cpu")
    assert "1 run: 1 done\n3 more to be sampled" in invoke("status", file)
    assert "1 of 4 runs finished" in invoke("report", file)


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_an_address_is_for_several_workers(spec_file: Path, workers: list[str]) -> None:
    with pytest.raises(InputError, match=r"--address local was given for a run of one worker"):
        CliRunner().invoke(app, ["run", str(spec_file), "--address", "local", *workers], catch_exceptions=False)


def test_a_run_of_several_workers_names_where_its_address_comes_from(
    spec_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    given = ["run", str(spec_file), "--workers", "2", "--store", str(tmp_path / "s"), "--data-dir", str(tmp_path / "d")]
    with pytest.raises(InputError, match=r"RAY_ADDRESS is set to 'http.* give --address local"):
        CliRunner().invoke(app, given, catch_exceptions=False)


def test_set_store_data_dir_and_cache_reach_the_run(
    invoke: Callable[..., str], spec_file: Path, tmp_path: Path
) -> None:
    places = ("--store", tmp_path / "other", "--data-dir", tmp_path / "mine")
    text = invoke("run", spec_file, *places, "--set", "train.epochs=2", "--no-cache-teacher", "--threads", 1)
    (run_dir,) = Store(tmp_path / "other")
    assert run_dir.name in text
    spec, environment = run_dir.spec(), run_dir.record()
    assert spec is not None
    assert environment is not None
    assert spec["train"]["epochs"] == 2
    execution = {"device": "cpu", "threads": 1, "cache_teacher": False, "channels_last": True, "loader": "resident"}
    assert environment.execution.model_dump(include=set(execution)) == execution
    assert f"images: resident, as {environment.execution.loader_reason}" in " ".join(text.split())
    assert (tmp_path / "mine" / "digits" / "meta.json").is_file()
    assert not (tmp_path / "store").exists()


def test_a_run_on_noise_and_its_report_show_the_numbers_on_images(
    invoke: Callable[..., str], spec_file: Path, sweep_file: Path
) -> None:
    noise = {
        **SPEC,
        "data": {"name": "gaussian", "size": 8, "samples": 60, "channels": 1},
        "probe": {**SPEC["probe"], "also": ["digits"]},
    }
    spec_file.write_text(yaml.safe_dump(noise))
    sweep_file.write_text(yaml.safe_dump({"name": "noise", "base": noise}))
    text = " ".join(invoke("run", spec_file, "--threads", 1, "--device", "cpu").split())
    assert "images: drawn, as Gaussian inputs are made where they are used" in text
    result = json.loads(invoke("run", spec_file, "--json"))
    student, teacher = (f"{100 * result['last'][f'probe@digits/{role}/linear']:.1f}" for role in ("student", "teacher"))
    for line in ("epoch 1", result["name"]):
        assert f"{line}: linear on digits {student} (teacher {teacher}), knn on digits " in text
    report = " ".join(invoke("report", sweep_file).split())
    for probe in ("linear probe", "k-nearest-neighbour probe"):
        assert f"{probe}, distilled on Gaussian noise, probed on Digits: test accuracy in %" in report


@pytest.mark.parametrize(
    ("command", "key"),
    [("models", "parameters"), ("doctor", "state"), ("data list", "prepared"), ("sweeps", "purpose")],
)
def test_json_of_what_is_there(
    invoke: Callable[..., str], monkeypatch: pytest.MonkeyPatch, command: str, key: str
) -> None:
    # FFCV takes seconds to import; here it loads at once.
    monkeypatch.setattr(doctor, "_python", lambda code: subprocess.CompletedProcess([], 0, "", ""))
    found = json.loads(invoke(*command.split(), "--json"))
    assert found.pop("version") == 1
    (rows,) = found.values()
    assert rows
    assert all(key in row for row in rows)
    plain = invoke(*command.split())
    assert str(rows[0].get("name") or rows[0]["what"]) in plain


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_schemas_for_editors(invoke: Callable[..., str], kind: str) -> None:
    schema = json.loads(invoke("schema", kind))
    assert ("axes" in schema["properties"]) is (kind == "sweep")


def test_version_and_data_prepare_and_verify(invoke: Callable[..., str], tmp_path: Path) -> None:
    assert invoke("--version").strip() == __version__
    told = invoke("data", "prepare", "digits")
    assert "1,437 training and 360 test images" in told
    assert "classes: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9\n" in told
    assert "digits: 1,797 images as written (sha256 " in invoke("data", "verify", "digits")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("Give a number."), 2, "rt-scale: Give a number.\n"),
        (RunError("The disk is full."), 1, "rt-scale: The disk is full.\n"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "rt-scale: interrupted; the same command resumes"),
    ],
)
def test_errors_are_one_paragraph_with_their_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(runs, "load_files", fail)
    monkeypatch.setattr(sys, "argv", ["rt-scale", "sweep", "any.yaml"])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == code
    out, err = capsys.readouterr()
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("arguments", [["swep"], ["run"], ["run", "a.yaml", "--sotre", "x"], ["report", "a", "b"]])
def test_usage_errors_are_exit_code_2(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["rt-scale", *arguments])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2


def test_a_table_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["what", "found"], [("ffcv", "does not load: [undefined symbol]")])
    assert "[undefined symbol]" in capsys.readouterr().out
