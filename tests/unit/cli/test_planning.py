"""`rt-scale plan` as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.cli import plan as planning
from rt_scale.plan import plan as plan_module
from rt_scale.spec.errors import InputError
from rt_scale.spec.grid import GRID_LIMIT
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.records import run_record, run_result
from tests.unit.cli.planning import SWEEP


def finish(file: Path, store: Path, seconds: float) -> None:
    """Pretend that the first run is done; the other two are then measured."""
    spec = load_sweep(file)[1][0].spec
    run_dir = Store(store).run(spec)
    with run_dir.acquire():
        run_dir.write_spec(spec)
        run_dir.write_record(run_record({"device": "a chip"}))
        run_dir.complete(run_result(seconds=seconds, steps=2))


def test_a_new_sweep_is_estimated_from_its_flops(plan: Callable[..., str], file: Path, tmp_path: Path) -> None:
    text = plan(file)
    assert "3 distinct runs: 3 missing." in text
    assert "3 to compute:" in text
    assert "convnet_4_1, digits (60), 32 outputs, 1 epoch 3" in text
    assert "FLOPs counted, rates and the fixed cost of a run measured just now (cpu, 1 thread)" in text
    assert "right within a factor of about three" in text
    assert "--price cluster/prices.yaml" in text
    assert not (tmp_path / "store").exists()
    assert not (tmp_path / "data").exists()


def test_measured_runs_machines_and_money(plan: Callable[..., str], file: Path, prices: Path, tmp_path: Path) -> None:
    finish(file, tmp_path / "store", 10.0)
    text = plan(file, "--price", prices, "--cpus", 1)
    assert "3 distinct runs: 1 done, 2 missing." in text
    assert "measured from 1 run (a chip)" in text
    assert "factor" not in text
    assert "Until the last run is done on 1 CPU core: 25s (simulated, 5s of it assumed for Ray and its" in text
    assert "1 x a machine 20.00 EUR 10.00 EUR a page, 2026-02-03" in text
    assert "with GPUs" not in text
    assert "Spot without interruptions" in text
    text = plan(file, "--price", prices, "--cpus", 2, "--rate", 2)
    assert "With 2 interruptions an hour of each run: 10s, 0 interruptions" in text


def test_files_are_one_queue_and_set_store_and_data_dir_reach_it(
    plan: Callable[..., str], file: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**SWEEP, "name": "two", "seeds": [2, 3]}))
    assert "4 distinct runs: 4 missing." in plan(file, other)
    finish(file, tmp_path / "elsewhere", 10.0)
    assert "4 distinct runs: 1 done, 3 missing." in plan(file, other, "--store", tmp_path / "elsewhere")
    text = plan(file, "--set", "data.name=mnist", "--data-dir", tmp_path / "mine")
    assert f"'mnist' is not prepared: rt-scale data prepare mnist --data-dir {tmp_path / 'mine'}" in text


def test_a_gpu_that_is_not_here(plan: Callable[..., str], file: Path, prices: Path) -> None:
    text = plan(file, "--tflops", 60, "--gpus", 6, "--price", prices)
    assert "at an assumed 60 TFLOP/s" in text
    assert "on 6 GPUs" in text
    assert "2 x with GPUs" in text
    assert "none known" in text
    assert "Assumed: one GPU a run for one; to run so, set launch.gpus: 1" in text
    assert "on 1 GPU:" in plan(file, "--tflops", 60)


def test_without_a_gpu_and_without_an_assumption_it_is_unknown(
    plan: Callable[..., str], file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    text = plan(file, "--gpus", 2)
    assert "32 outputs, 1 epoch 3 unknown unknown unknown: no GPU here to measure" in text
    assert "Until the last run" not in text


def test_runs_to_start_from_are_told(plan: Callable[..., str], tmp_path: Path) -> None:
    path = tmp_path / "restart.yaml"
    base = {**SWEEP["base"], "teacher": {"start_from": {"run": "same"}}}
    path.write_text(yaml.safe_dump({**SWEEP, "base": base}))
    assert "They need 3 more, so 6 in all, each computed once." in plan(path)


def test_nothing_left(plan: Callable[..., str], file: Path, tmp_path: Path) -> None:
    finish(file, tmp_path / "store", 10.0)
    text = plan(file, "--set", "seeds={teacher: 0, student: 0, data: 0, probe: 0}")
    assert text == "1 distinct run: 1 done. Nothing is left to compute."


def test_json_has_everything(plan: Callable[..., str], file: Path, prices: Path, tmp_path: Path) -> None:
    finish(file, tmp_path / "store", 10.0)
    found = json.loads(plan(file, "--json", "--price", prices, "--cpus", 1, "--rate", 1))
    assert (found["version"], found["runs"]) == (1, {"done": 1, "missing": 2})
    assert (found["undisturbed"]["makespan"], found["rate"], found["capacity"]) == (20.0, 1.0, {"cpu": 1})
    assert found["groups"][0]["how"] == "measured from 1 run (a chip)"
    assert found["costs"][0]["on_demand"] == 20.0


def test_nodes_up_to_a_number_or_before_a_deadline(
    plan: Callable[..., str], file: Path, prices: Path, tmp_path: Path
) -> None:
    finish(file, tmp_path / "store", 10.0)
    text = plan(file, "--price", prices, "--max-nodes", 1)
    assert "On nodes that an autoscaler adds and removes:" in text
    assert "a machine 1 2m" in text
    assert "at most 1 node" in text
    (held,) = json.loads(plan(file, "--json", "--price", prices, "--deadline", "1h"))["nodes"]
    assert held["plan"]["why"] == "the fewest that keep the deadline of 1 h"
    assert "cannot be kept" in plan(file, "--price", prices, "--deadline", "2m")


def test_a_plan_above_the_budget_is_refused(plan: Callable[..., str], file: Path, prices: Path, tmp_path: Path) -> None:
    finish(file, tmp_path / "store", 10.0)
    plan(file, "--price", prices, "--cpus", 1, "--budget", 20)
    with pytest.raises(InputError, match=r"above the budget of 19\.90 EUR") as refused:
        plan(file, "--price", prices, "--cpus", 1, "--budget", 19.9)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "5"], "--budget needs prices"),
        (["--max-nodes", "3"], "need kinds of node: name a sheet with --price"),
        (["--deadline", "3h"], "need kinds of node"),
        (["--tflops", "0"], "--tflops is 0; give"),
        (["--price", "nowhere.yaml"], "no file nowhere.yaml"),
        (["--rate", "100000"], "practically never end"),
    ],
)
def test_bad_options_are_refused(
    plan: Callable[..., str], file: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    finish(file, tmp_path / "store", 10.0)
    with pytest.raises(InputError, match=message):
        plan(file, *options)


def test_a_finished_sweep_is_planned_without_torch_and_never_with_ray(file: Path, tmp_path: Path) -> None:
    finish(file, tmp_path / "store", 10.0)
    code = """
import sys
from rt_scale.cli import main
sys.argv = ["rt-scale", "plan", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("LOADED", sorted({"torch", "ray"} & set(sys.modules)))
"""
    given = [str(file), "--store", str(tmp_path / "store"), "--data-dir", str(tmp_path / "data"), "--tflops", "1"]
    pinned = ["--set", "seeds={teacher: 0, student: 0, data: 0, probe: 0}"]
    for options, loaded in ((pinned, "[]"), ([], "['torch']")):
        command = [sys.executable, "-c", code, *given, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        assert f"LOADED {loaded}" in done.stdout


def test_a_grid_of_many_runs_is_planned_with_yes_alone(
    plan: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "large.yaml"
    file.write_text(yaml.safe_dump({**SWEEP, "seeds": GRID_LIMIT + 1}))
    with pytest.raises(InputError, match="more than 10,000: 10,001 \\(seeds\\)"):
        plan(file)
    monkeypatch.setattr(plan_module, "make_plan", lambda sweeps, *_: len(sweeps[0].points))
    monkeypatch.setattr(planning, "show_plan", lambda made, *_: print(made))
    assert plan(file, "--yes") == "10001"
    assert f"{GRID_LIMIT:,}" in CliRunner().invoke(app, ["plan", "--help"], terminal_width=200).stdout
