"""The command line: parses, calls, prints. Heavy imports wait inside the commands."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from rt_scale.cli import bundling, cleaning, data, exporting, looking, planning, runs, sweeping
from rt_scale.plain_text import print_anything, say_error
from rt_scale.spec.errors import RtScaleError
from rt_scale.user_paths import settle_home

INTERRUPTED = 130
"""Exit code after Ctrl-C or SIGTERM, as shells have it."""

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Sweeps of self-distillation from random teachers.",
)
for commands in (runs, sweeping, looking, exporting, bundling, cleaning, planning):
    app.add_typer(commands.app)
app.add_typer(data.app, name="data")


def main() -> None:
    """Run a command. Exit codes: 0 done, 1 some runs failed, 2 bad input, 130 interrupted."""
    signal.signal(signal.SIGTERM, _terminated)
    print_anything()
    settle_home()
    try:
        app(standalone_mode=True)
    except RtScaleError as error:
        say_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, SystemExit) as end:
        # Inside a command, typer turns the interrupt into an exit without a word.
        if isinstance(end, SystemExit) and end.code != INTERRUPTED:
            raise
        say_error("interrupted; the same command goes on from the last checkpoints.")
        sys.exit(INTERRUPTED)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
