"""The wide output at m = 2^8 ... 2^16: ``wide.py`` in a process of its own, whose peaks of memory are its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from lib.gpu.bench import Bench

SCRIPT = Path(__file__).parents[2] / "wide.py"


def wide_output(bench: Bench) -> dict[str, Any]:
    """What ``wide.py`` prints in each precision, line by line, and its error where it fails."""
    outputs = [power for power in (2**8, 2**10, 2**12, 2**14, 2**16) if power < bench.out_dim] + [bench.out_dim]
    arguments = ["--device", str(bench.device), "--batch-size", str(bench.batch), "--outputs", *map(str, outputs)]
    found = {}
    for precision in bench.precisions:
        if bench.left > 0:
            command = [sys.executable, str(SCRIPT), *arguments, "--precision", precision]
            ended = subprocess.run(command, capture_output=True, text=True)
            found[precision] = [*ended.stdout.splitlines(), *(ended.stderr.splitlines() if ended.returncode else [])]
    return found
