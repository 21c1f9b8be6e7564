"""The command line: parses, calls, prints. Heavy imports wait inside the commands."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from rt_scale.cli import data, looking, runs
from rt_scale.spec.errors import RtScaleError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sweeps of self-distillation from random teachers.",
)
for commands in (runs, looking):
    app.add_typer(commands.app)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 some runs failed, 2 bad input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app(standalone_mode=True)
    except RtScaleError as error:
        print(f"rt-scale: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("rt-scale: interrupted; the same command goes on from the last checkpoints.", file=sys.stderr)
        sys.exit(130)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
