"""What a plan says beside its numbers: what is packed, counted to its end, or not counted at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from rt_scale.store.sweep_runs import EarlyStop, EarlyStops
from tests.unit.cli.planning import PRICES, SWEEP


def test_packed_runs_and_how_many_at_a_time(plan: Callable[..., str], file: Path) -> None:
    text = plan(file, "--pack", 4, "--cpus", 1)
    assert "Packed: 3 runs in 1 process; 0 alone." in text
    assert "(cpu, 1 thread), as runs alone: no packed one was measured" in text
    text = plan(file, "--pack", 2, "--cpus", 1, "--concurrency", 1)
    assert "Packed" not in text
    assert "on 1 CPU core, 1 run at a time:" in text
    text = plan(file, "--pack", "auto")
    assert "Counted as alone: 3 runs with pack: auto; how many train together is measured" in text
    with pytest.raises(InputError, match="pack: 'many' was given"):
        plan(file, "--pack", "many")


def test_what_is_not_counted_or_counted_to_its_end(plan: Callable[..., str], file: Path, tmp_path: Path) -> None:
    explore = {"metric": "probe/student/linear", "mode": "max"}
    search = {"search": {"optuna": {"runs": 8}}, "space": {"student.alpha": {"uniform": [0, 1]}}}
    stop = {"stop": {"asha": {"grace": "1ep"}}}
    searching, stopping = tmp_path / "searching.yaml", tmp_path / "stopping.yaml"
    one = {**SWEEP, "base": {**SWEEP["base"], "train": {"epochs": 2, "batch_size": 32}}, "seeds": 1}
    searching.write_text(yaml.safe_dump({**one, "name": "searching", "explore": explore | search}))
    stopping.write_text(yaml.safe_dump({**one, "name": "stopping", "explore": explore | stop}))
    text = plan(searching)
    assert text == ("8 runs to be sampled while others run: not included in any sum. Nothing else is left to compute.")
    text = plan(searching, stopping)
    assert "1 distinct run: 1 missing. 8 runs to be sampled" in text
    assert "Counted to their ends: runs of stopping, some of which a rule will end early." in text
    sweep, points = load_sweep(stopping)
    assert sweep.explore is not None
    folder = Store(tmp_path / "store").sweep("stopping")
    stop = EarlyStop("asha", 1, 1.0, "ep", explore["metric"], 0.5)
    EarlyStops(sweep.explore, folder).record(points[0].spec.name, stop)
    assert (
        plan(stopping)
        == "1 distinct run: 1 missing. 1 run stopped early by a rule: not resumed. Nothing is left to compute."
    )


def test_runs_that_failed_are_counted_which_is_said(plan: Callable[..., str], file: Path, tmp_path: Path) -> None:
    run_dir = Store(tmp_path / "store").run(load_sweep(file)[1][0].spec)
    with run_dir.acquire():
        run_dir.fail({"reason": "nan"})
    text = plan(file)
    assert "1 run failed before: counted here, but tried again with --retry-failed alone. 3 to compute:" in text


def test_without_a_price_for_such_runs_it_says_so(plan: Callable[..., str], file: Path, tmp_path: Path) -> None:
    only = tmp_path / "gpus.yaml"
    only.write_text(yaml.safe_dump({"prices": PRICES["prices"][1:]}))
    assert "Cost: no machine in the price sheet is for these runs." in plan(file, "--price", only)
    assert "Cost: no prices were named (--price cluster/prices.yaml)." in plan(file)
