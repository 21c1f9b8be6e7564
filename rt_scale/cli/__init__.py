"""The command line: parses, calls, prints. Commands import torch and Ray only when they need them."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from rt_scale import __version__
from rt_scale.cli import cluster, data, export, plan, results, runs, status, store
from rt_scale.cli.options import examples
from rt_scale.spec.errors import ExitCode, RtScaleError, RunError
from rt_scale.system.console import lost, make_streams_last, print_anything, say, say_error
from rt_scale.system.paths import settle_home
from rt_scale.system.signals import handled_signals

WORKING = ("demo", "run", "sweep", "data prepare")
"""Commands that write their results to files, so that lost output is no failure."""
ORDER = (
    "doctor", "demo", "data", "models", "schema", "sweeps", "plan", "cluster", "run", "sweep", "status", "board",
    "report", "compare", "export", "bundle", "gc",
)  # fmt: skip
"""The commands in the order in which one uses them."""


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(super().list_commands(ctx), key=ORDER.index)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            # It is not from a standard stream; typer would assume that and exit silently.
            raise RunError(f"A connection broke off ({error}). Run the same command again to resume.") from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    epilog=examples(
        "rt-scale demo                                # the main experiment in small",
        "rt-scale sweep sweeps/demo.yaml              # a grid; again: what is not done",
        "rt-scale report sweeps/demo.yaml --open",
    ),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for commands in (runs, status, results, export, store, plan):
    app.add_typer(commands.app)
app.add_typer(data.app, name="data")
app.add_typer(cluster.app, name="cluster")


def _print_version(wanted: bool) -> None:
    if wanted:
        say(__version__)
        raise typer.Exit


@app.callback()
def _about(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Sweeps of self-distillation from random teachers."""


def main() -> None:
    """Run a command; exit codes: :class:`rt_scale.spec.errors.ExitCode`."""
    make_streams_last()
    print_anything()
    for number in handled_signals():
        if number != signal.SIGINT:  # Python already raises KeyboardInterrupt for it
            signal.signal(number, _terminated)
    settle_home()
    code = _run()
    for name, why in lost().items():
        text = f"rt-scale: {name} could not be written ({why}), so it is not complete."
        say(text, error=name == "stdout")
        if not code and not " ".join(sys.argv[1:3]).startswith(WORKING):
            code = ExitCode.FAILED
    sys.exit(code)


def _run() -> int | str | None:
    """Run the command line's command; returns its exit code."""
    try:
        app(standalone_mode=True)
    except RtScaleError as error:
        say_error(error)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit) as end:
        # Inside a command, typer turns the interrupt into a silent exit.
        if isinstance(end, SystemExit) and end.code != ExitCode.INTERRUPTED:
            return end.code
        say_error("interrupted; the same command resumes from the last checkpoints.")
        return ExitCode.INTERRUPTED
    return ExitCode.DONE


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    if number == signal.SIGHUP:  # a closing terminal sends two; the second must not interrupt the shutdown
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
