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
from dataclasses import dataclass, field

from lib import measure

from rt_scale.data.meta import default_data_dir
from rt_scale.data.prepare import prepare
from rt_scale.spec.errors import InputError
from rt_scale.store.store import Store
from tests.integration import machines
from tests.integration.chaos import Chaos, Happened, problems, quiet_sweep, small_sweeps

A_ROUND = 40
"""Events on the same hosts; the next ones meet new hosts, and other draws."""
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
    seen = Seen()
    for number, first in enumerate(range(0, given.events, A_ROUND)):
        seen.add(min(A_ROUND, given.events - first), given.seed + number)
        seen.show()
    return bool(seen.wrong)


@dataclass
class Seen:
    """What happened in all rounds so far, and what was wrong afterwards."""

    happened: list[Happened] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)

    def add(self, events: int, seed: int) -> None:
        """A round: so many events, drawn by a seed."""
        with machines.world() as world:
            data = world.shared / "data"
            shutil.copytree(default_data_dir() / "digits", data / "digits")
            chaos = Chaos(world, data, small_sweeps(world.shared, seeds=max(1, events // EVENTS_A_SEED)))
            quiet_sweep(chaos, world.shared / "quiet")
            began = time.monotonic()
            chaos.live(events, seed, (4.0, 10.0))
            self.seconds += time.monotonic() - began
            disturbed = Store(chaos.fetch(world.shared / "store"))
            self.wrong += problems(chaos, Store(world.shared / "quiet"), disturbed)
            self.happened += chaos.happened
            self.exits += chaos.exits
            self.attempts += [len(list((run.path / "lease").glob("*.claim"))) for run in disturbed]
        if world.folder.exists():
            self.wrong.append(f"{world.folder} is left")

    def show(self) -> None:
        """Print what happened, by kind, and what it cost."""
        print("\n| event | times | nothing to hit | seconds until the sweep spoke again, median (largest) |")
        print("| --- | ---: | ---: | ---: |")
        for kind in Chaos.EVENTS:
            some = [each for each in self.happened if each.kind == kind.__name__]
            back = [each.back for each in some if each.back is not None]
            spoke = f"{statistics.median(back):.1f} ({max(back):.1f})" if back else "-"
            print(f"| {(kind.__doc__ or '').rstrip('.')} | {len(some)} | {sum(not e.where for e in some)} | {spoke} |")
        print(f"\n{len(self.happened)} events in {self.seconds / 60:.1f} minutes.")
        codes = Counter(self.exits)
        print(f"The command ended {len(self.exits)} times: {', '.join(f'{n} x {c}' for c, n in sorted(codes.items()))}")
        print(f"{len(self.attempts)} runs in {sum(self.attempts)} attempts, at most {max(self.attempts)} for one.")
        print(
            "Every run is there once, bitwise that of a quiet machine; no lease is held, nothing of the hosts is left."
            if not self.wrong
            else f"WRONG: {self.wrong}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
