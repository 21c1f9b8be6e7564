"""A short chaos; the long one is benchmarks/chaos.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.chaos import Chaos, problems
from tests.integration.sweeping import SLOW, SWEEP, slow_down
from tests.integration.test_machines import left

SEED = 57
"""It draws a killed run, a host without power, a store that is away, a full disk, a killed driver and a killed head."""
LAUNCH = {"cpus": 1, "retries": 20}


def test_a_sweep_survives_what_may_happen_to_it(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with machines.world() as world:
        data, file = world.shared / "data", world.shared / "small.yaml"
        shutil.copytree(data_dir / "digits", data / "digits")
        file.write_text(yaml.safe_dump({**SWEEP, "base": SLOW, "launch": LAUNCH}, sort_keys=False))
        chaos = Chaos(world, data, [file], slow_down(world.shared))
        chaos.live(6, seed=SEED, between=(2, 5))
        assert len({each.kind for each in chaos.happened if each.where}) == 6
        quiet, disturbed = Store(world.shared / "quiet"), Store(chaos.fetch(world.shared / "store"))
        monkeypatch.syspath_prepend(world.shared)
        for point in load_sweep(file)[1]:
            run(point.spec, Options(store=quiet, data_dir=data, device="cpu", threads=1))
        assert problems(chaos, quiet, disturbed) == []
    assert left(world.folder) == []
