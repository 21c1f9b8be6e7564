"""Does a sweep survive what may happen to it? Many drawn events on three hosts; prints a table as Markdown.

    PYTHONPATH=. .venv/bin/python benchmarks/chaos.py --events 200

It needs root and namespaces (see tests/integration/machines.py), takes about a third of a minute an event on two quiet
cores, and ends with 1 if a run is missing, not bitwise that of a quiet machine, or still leased.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress

from lib import measure

from rt_scale.data.meta import default_data_dir
from rt_scale.data.prepare import prepare
from rt_scale.spec.errors import InputError
from rt_scale.store.results import RunResult
from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.chaos import Chaos, problems, quiet_sweep, small_sweeps

EVENTS_A_SEED = 10
"""A seed is five runs, which last about so many events."""


def main() -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    measure.print_header("A sweep on three hosts under drawn events", {"events": given.events, "seed": given.seed})
    with suppress(InputError):  # it is prepared
        prepare("digits", default_data_dir())
    with machines.world() as world:
        data = world.shared / "data"
        shutil.copytree(default_data_dir() / "digits", data / "digits")
        sweeps = small_sweeps(world.shared, seeds=max(1, given.events // EVENTS_A_SEED), epochs=60)
        chaos = Chaos(world, data, sweeps)
        quiet_sweep(chaos, world.shared / "quiet")
        began = time.monotonic()
        chaos.live(given.events, given.seed, (4.0, 10.0))
        seconds = time.monotonic() - began
        disturbed = Store(chaos.fetch(world.shared / "store"))
        wrong = problems(chaos, Store(world.shared / "quiet"), disturbed)
        show(chaos, disturbed, seconds)
    left = [str(path) for path in (world.folder,) if path.exists()]
    print(wrong if wrong else "\nEvery run is there once, bitwise that of a quiet machine; no lease is held.")
    print(left if left else "Nothing of the hosts is left.")
    return bool(wrong or left)


def show(chaos: Chaos, disturbed: Store, seconds: float) -> None:
    """Print what happened, by kind, and what it cost."""
    print("\n| event | times | nothing to hit | seconds until the sweep spoke again, median (largest) |")
    print("| --- | ---: | ---: | ---: |")
    for kind in chaos.EVENTS:
        some = [each for each in chaos.happened if each.kind == kind.__name__]
        back = [each.back for each in some if each.back is not None]
        spoke = f"{statistics.median(back):.1f} ({max(back):.1f})" if back else "-"
        print(f"| {(kind.__doc__ or '').rstrip('.')} | {len(some)} | {sum(not e.where for e in some)} | {spoke} |")
    print(f"\n{len(chaos.happened)} events in {seconds / 60:.1f} minutes.")
    codes = Counter(chaos.exits)
    print(f"The command ended {len(chaos.exits)} times: " + ", ".join(f"{n} x {c}" for c, n in sorted(codes.items())))
    results = [run.result() for run in disturbed]
    attempts = [len(list((run.path / "lease").glob("*.claim"))) for run in disturbed]
    done = [result for result in results if isinstance(result, RunResult)]
    print(f"{len(done)} runs in {sum(attempts)} attempts, at most {max(attempts)} for one.")


if __name__ == "__main__":
    sys.exit(main())
