"""The command that runs sweeps."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rt_scale.cli.options import (
    BestOption,
    DataOption,
    DeviceOption,
    SetOption,
    StoreOption,
    find_data_dir,
    open_store,
)
from rt_scale.cli.reporting import print_report

if TYPE_CHECKING:
    from rt_scale.launch.live import SweepView
    from rt_scale.launch.sweep import Sweep, Where
    from rt_scale.report.sweep_report import SweepReport

app = typer.Typer()
SHOW_CURSOR = "\x1b[?25h"


@app.command()
def sweep(
    files: Annotated[list[Path], typer.Argument(help="Sweep files (YAML), run as one queue.")],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster: host:port, or auto (RAY_ADDRESS, else a Ray of its own).")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Runs at a time, at most.")] = None,
    cpus: Annotated[int | None, typer.Option(help="CPU cores a worker, in place of launch.cpus.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs a worker, in place of launch.gpus.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Type of GPU, in place of launch.accelerator.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers a run, in place of launch.workers.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try runs again that failed before.")] = False,
    best: BestOption = False,
) -> None:
    """Run grids through Ray Tune; finished runs are not run again."""
    from rt_scale.launch.sweep import Where

    launch = {"cpus": cpus, "gpus": gpus, "accelerator": accelerator, "workers": workers}
    where = Where(
        store=open_store(store),
        data_dir=find_data_dir(data_dir),
        device=device,
        address=address,
        concurrency=concurrency,
        retry_failed=retry_failed,
    )
    run_files(files, overrides or [], where, {key: value for key, value in launch.items() if value is not None}, best)


def run_files(
    files: list[Path], overrides: list[str], where: Where, launch: dict[str, Any], best: bool = False
) -> list[SweepReport]:
    """Run sweep files, print and write their reports; exits with 1 where a run has no result.

    Args:
        files: sweep files.
        overrides: ``key=value`` assignments.
        where: where and how.
        launch: fields of every launch section, in place of those in the files.
        best: whether the student's best epoch is reported, not its last.
    """
    sweeps = [_load(file, overrides, launch) for file in files]
    from rt_scale.launch.stopping import stopping_on_signals
    from rt_scale.launch.sweep import run_sweeps

    log = where.store.sweep(sweeps[0].spec.name).path / "ray.log"
    error = os.dup(2)  # which leads elsewhere while Ray is there
    try:
        with stopping_on_signals(lambda text: None) as stopping:
            outcomes = run_sweeps(sweeps, where, _terminal(log), stopping, _says_lost(error))
    finally:
        os.close(error)
    written = []
    for each, outcome in zip(sweeps, outcomes, strict=True):
        if outcome.finished:
            written.append(print_report(each.spec, each.points, where.store, best, as_json=False))
        for label, why in outcome.failed.items():
            print(f"rt-scale: {label} has no result: {why}", file=sys.stderr)
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)
    return written


def _load(file: Path, overrides: list[str], launch: dict[str, Any]) -> Sweep:
    from rt_scale.spec.document import build
    from rt_scale.spec.sweep import LaunchSpec, as_run, load_sweep

    spec, points = load_sweep(file, overrides)
    from rt_scale.launch.sweep import Sweep

    if launch:
        section = build(LaunchSpec, {**spec.launch.model_dump(), **launch}, "the command line")
        spec = spec.model_copy(update={"launch": section})
    return Sweep(spec, points, as_run(file, overrides))


def _terminal(log: Path) -> Any:
    """Makes the view of a sweep on what standard output is, while Ray's chatter goes to ``log``."""
    from rt_scale.launch.chatter import chatter_to, console_on
    from rt_scale.launch.live import SweepView

    @contextmanager
    def view(total: int, done_before: int) -> Iterator[SweepView]:
        with chatter_to(log) as out, SweepView(console_on(out), total, done_before, log) as shown:
            yield shown

    return view


def _says_lost(error: int) -> Callable[[str], None]:
    """Ends this process, with a word on descriptor ``error``, as the head of its cluster is gone.

    Ray would wait for it for a minute, and then end the process from a thread of its own, without one.
    """

    def lost(address: str) -> None:
        text = (
            f"rt-scale: the Ray cluster at {address} is gone: its head does not answer. Nothing is lost; once there is "
            "a cluster again, the same command goes on from the last checkpoints.\n"
        )
        os.write(error, (SHOW_CURSOR if os.isatty(error) else "").encode() + text.encode())
        os._exit(1)

    return lost
