"""What a user of a cluster sees, as text and as a picture: from the record of tests/integration/clusters/test_aws.py.

RT_SCALE_RECORD=record.json python -m pytest -n 0 tests/integration/clusters/test_aws.py
python -m benchmarks.recording record.json OUT    # writes OUT.txt and OUT.svg
"""

from __future__ import annotations

import itertools
import json
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.text import Text

_PARTS = re.compile(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)")


def screen(output: str) -> list[str]:
    """The lines that a terminal shows after this output of rich, which erases a line before it writes it again."""
    lines, row = [""], 0
    for part in _PARTS.split(output):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part == "\x1b[1A":
            row = max(0, row - 1)
        elif part != "\r" and not part.startswith("\x1b[?"):
            lines[row] += part
    while lines and not lines[-1]:
        lines.pop()
    return lines


def main(record: Path, out: Path) -> None:
    known = json.loads(record.read_text())
    console = Console(record=True, width=128, file=sys.stdout, force_terminal=True)
    shown = known["terminal"].encode()
    for each in known["told"]:
        text = re.sub(r"^\$ \S*/bin/", "$ ", each["text"])
        console.print(Text(f"{each['seconds']:6.1f} s  {text}", style="bold" if each["look"] else ""))
        if each["look"]:
            now = screen(shown[: each["seen"]].decode(errors="replace"))
            shows = itertools.takewhile(lambda line: "/report" not in line, now)  # a list of files follows
            kept = [line for line in shows if line and not re.search("WARNING|known hosts", line)]
            console.print(Panel(Text.from_ansi("\n".join(kept)), title="the terminal of the sweep"))
    out.with_suffix(".txt").write_text(console.export_text(clear=False))
    console.save_svg(str(out.with_suffix(".svg")), title="cluster/aws.yaml on moto")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
