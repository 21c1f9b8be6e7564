"""How long until `rt-scale --help` is on the screen, beside an interpreter that does nothing and one with torch.

python benchmarks/startup.py [--rounds 10]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from lib import measure

PROGRAM = str(Path(sys.executable).with_name("rt-scale"))
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "rt-scale --help": [PROGRAM, "--help"],
    "python -c 'import torch'": [sys.executable, "-c", "import torch"],
}


def seconds(command: list[str]) -> float:
    """Wall time of the command in a process of its own."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Measure the commands in turns, after one of each as warm-up, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    measure.print_header("Start of the command line (goal: --help under 0.7 s, without torch)", {"rounds": rounds})
    for command in COMMANDS.values():
        seconds(command)
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    for name, each in taken.items():
        print(f"{name:<26} {measure.summarise(each)}")


if __name__ == "__main__":
    main()
