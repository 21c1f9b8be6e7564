"""All questions about speed on a CPU, one after the other, as one Markdown page of what they print.

    python benchmarks/cpu.py --data cifar10_jpeg --out cpu.md

About 20 minutes on two cores that have nothing else to do; each question is a script of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
QUESTIONS: dict[str, list[str]] = {
    "A step against the paper-style way": ["step.py", "--rounds", "7"],
    "A full run against the paper-style way": [
        *("gpu.py", "--synthetic", "--size", "small", "--device", "cpu", "--only", "full run", "--out", os.devnull)
    ],
    "Parts of a run over their floors": ["profile_run.py", "--synthetic", "5120,1024"],
    "An evaluation against the paper-style way": ["probe.py"],
    "The wide output": ["wide.py"],
    "Several students together": ["packing.py", "--together", "1", "2", "4"],
}
"""Title and command of each."""
ON_DATA = {"step.py", "probe.py"}
"""Scripts that read a prepared set."""


def main() -> None:
    """Ask them all, also those after one that failed; exits with 1 where one did."""
    asked = _arguments()
    failed = []
    asked.out.write_text("# CPU\n")
    for title in asked.only or QUESTIONS:
        script, *arguments = QUESTIONS[title]
        if script in ON_DATA:
            arguments += ["--data", asked.data, *(["--data-dir", str(asked.data_dir)] if asked.data_dir else [])]
        begin = time.monotonic()
        ended = subprocess.run([sys.executable, HERE / script, *arguments], capture_output=True, text=True)
        if ended.returncode:
            failed.append(title)
        said = ended.stdout + (ended.stderr if ended.returncode else "")
        command = " ".join(["python", f"benchmarks/{script}", *arguments])
        page = f"\n## {title}\n\n`{command}`, {time.monotonic() - begin:.0f} s\n\n{_indented(said)}\n"
        print(page, flush=True)
        with asked.out.open("a") as file:
            file.write(page)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--only", nargs="+", choices=QUESTIONS, help="some of the questions")
    parser.add_argument("--out", type=Path, required=True, help="Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
