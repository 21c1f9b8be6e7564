"""A short chaos; the long one is benchmarks/chaos.py."""

from __future__ import annotations

import shutil
from pathlib import Path

from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.chaos import Chaos, problems, quiet_sweep, small_sweeps
from tests.integration.test_machines import left

SEED = 57
"""It draws a killed run, a host without power, a store that is away, a full disk, a killed driver and a killed head."""


def test_a_sweep_survives_what_may_happen_to_it(data_dir: Path) -> None:
    with machines.world() as world:
        data = world.shared / "data"
        shutil.copytree(data_dir / "digits", data / "digits")
        chaos = Chaos(world, data, small_sweeps(world.shared, seeds=1, epochs=20))
        quiet_sweep(chaos, world.shared / "quiet")
        chaos.live(6, seed=SEED, between=(2, 5))
        assert len({each.kind for each in chaos.happened if each.where}) == 6
        disturbed = Store(chaos.fetch(world.shared / "store"))
        assert problems(chaos, Store(world.shared / "quiet"), disturbed) == []
    assert left(world.folder) == []
