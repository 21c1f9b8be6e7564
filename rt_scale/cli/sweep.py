"""The command that runs sweeps, and how commands find them: files beside a store, or a bundle that holds both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rt_scale.cli.options import (
    AccelerateOption,
    AddressOption,
    BestOption,
    ConcurrencyOption,
    DataOption,
    DeviceOption,
    PackOption,
    PriceOption,
    SetOption,
    StoreOption,
    YesOption,
    find_data_dir,
    open_console,
    open_store,
    read_path,
    with_launch,
)
from rt_scale.cli.reporting import print_reports
from rt_scale.spec.errors import InputError
from rt_scale.system.console import say, say_error

if TYPE_CHECKING:
    from rt_scale.plan.costs import PriceSheet
    from rt_scale.progress.terminal import SweepView
    from rt_scale.report.page import Report
    from rt_scale.scheduler.job import Where
    from rt_scale.store.bundle.unpack import Bundle
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns


def open_sweeps(files: Sequence[Path], overrides: list[str] | None, store: str | None) -> tuple[Store, list[SweepRuns]]:
    """The store and the sweeps that a command is about.

    Args:
        files: sweep files; or one bundle, which is unpacked on first sight, and is store and sweeps at once.
        overrides: ``key=value`` assignments to the sweeps' bases.
        store: where runs are kept; None: where the environment says.

    Raises:
        InputError: where a file is not valid, a bundle is damaged, or one is given beside files, a store or
            assignments.
    """
    from rt_scale.store.bundle.format import is_bundle
    from rt_scale.store.sweep_runs import read_sweep

    bundles = [file for file in files if is_bundle(file)]
    if not bundles:
        place = open_store(store)
        return place, [read_sweep(file, overrides or [], place) for file in files]
    if len(files) > 1 or overrides or store:
        raise InputError(
            f"'{bundles[0]}' is a bundle, which holds sweeps as they were run, and their store: give it alone, without "
            "other files, --set or --store."
        )
    from rt_scale.progress.bars import counting
    from rt_scale.store.bundle.unpack import open_bundle

    with counting(open_console(stderr=True), "unpacking the bundle, MB") as progress:
        bundle = open_bundle(bundles[0], progress=progress)
    return bundle.store, [_load_bundled(bundle, name) for name in bundle.manifest.sweeps]


def told(file: Path, sweeps: Sequence[str], number: int) -> str:
    """How a record names the file of sweep ``number``: by its path; a pipe, which is gone, as its sweep is called."""
    return str(file) if file.is_file() else f"{sweeps[number]}.yaml"


def _load_bundled(bundle: Bundle, name: str) -> SweepRuns:
    """A sweep of the bundle; its file must give the runs that the bundle lists of it."""
    from rt_scale import __version__
    from rt_scale.store.sweep_runs import read_sweep

    kept = bundle.store.sweep(name)
    try:
        sweep = read_sweep(kept.file, (), bundle.store)
        if (sweep.name, [point.spec.name for point in sweep.points]) != (name, kept.runs()):
            raise InputError(f"The file of sweep '{name}' in the bundle gives other runs than the bundle lists.")
    except InputError as error:
        raise InputError(
            f"{error} The bundle was made by rt-scale {bundle.manifest.rt_scale}, this is {__version__}: if they "
            "differ, open it with that version."
        ) from error
    return sweep


app = typer.Typer()
SHOW_CURSOR = "\x1b[?25h"


@app.command()
def sweep(
    files: Annotated[list[Path], typer.Argument(parser=read_path, help="Sweep files (YAML), run as one queue.")],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
    address: AddressOption = None,
    concurrency: ConcurrencyOption = None,
    cpus: Annotated[int | None, typer.Option(help="CPU cores a worker, in place of launch.cpus.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs a worker, in place of launch.gpus.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Type of GPU, in place of launch.accelerator.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers a run, in place of launch.workers.")] = None,
    accelerate: AccelerateOption = None,
    pack: PackOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try runs again that failed before.")] = False,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Start nothing where the plan costs more; see rt-scale plan.")
    ] = None,
    price: PriceOption = None,
    best: BestOption = False,
    yes: YesOption = False,
) -> None:
    """Run grids through Ray Tune; finished runs are not run again."""
    from rt_scale.plan.costs import prices_for
    from rt_scale.scheduler.job import Where

    prices = prices_for(budget, price)
    launch = {
        "cpus": cpus, "gpus": gpus, "accelerator": accelerator, "workers": workers,
        "accelerate": accelerate, "pack": pack,
    }  # fmt: skip
    where = Where(
        store=open_store(store),
        data_dir=find_data_dir(data_dir),
        device=device,
        address=address,
        concurrency=concurrency,
        retry_failed=retry_failed,
        replace=yes,
    )
    given = {key: value for key, value in launch.items() if value is not None}
    sweeps = load_files(files, overrides or [], given, where.store, yes)
    if budget is not None:
        _check_budget(sweeps, budget, prices, where)
    run_loaded(sweeps, where, best)


def _check_budget(sweeps: list[SweepRuns], budget: float, prices: PriceSheet | None, where: Where) -> None:
    from rt_scale.plan.plan import conditions_of, refuse_over_budget

    conditions = conditions_of(where, dict.fromkeys(each.spec.launch for each in sweeps), prices)
    say(refuse_over_budget(sweeps, budget, where.data_dir, conditions))


def load_files(
    files: Sequence[Path], overrides: Sequence[str], launch: Mapping[str, Any], store: Store, yes: bool = False
) -> list[SweepRuns]:
    """The sweeps in files, as they are to be run.

    Args:
        files: sweep files.
        overrides: ``key=value`` assignments.
        launch: fields of every launch section, in place of those in the files.
        store: where their runs are kept.
        yes: whether grids may be as large as they like.

    Raises:
        InputError: where a file or any of its runs is not valid.
    """
    from rt_scale.spec import grid
    from rt_scale.spec.explore import MOST_RUNS
    from rt_scale.store.sweep_runs import read_sweep

    sweeps = [read_sweep(file, overrides, store, MOST_RUNS if yes else grid.GRID_LIMIT) for file in files]
    return [replace(sweep, spec=with_launch(sweep.spec, launch)) for sweep in sweeps]


def run_loaded(sweeps: Sequence[SweepRuns], where: Where, best: bool = False) -> list[Report]:
    """Run sweeps, print and write their reports; exits with 1 where a run has no result.

    Args:
        sweeps: to be run as one queue.
        where: where and how.
        best: whether the student's best epoch is reported, not its last.
    """
    from rt_scale.ray_backend.sweep import run_sweeps
    from rt_scale.system.signals import stopping_on_signals

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
            written += print_reports([each], best, False, where.data_dir)
        for label, why in outcome.ended.items():
            say(f"{label} was ended early: {why}")
        for label, why in outcome.failed.items():
            say_error(f"{label} has no result: {why}")
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(1)
    return written


def _terminal(log: Path) -> Any:
    """Makes the view of a sweep on what standard output is, while Ray writes to ``log``."""
    from rt_scale.progress.terminal import SweepView
    from rt_scale.ray_backend.output import console_on, output_to

    @contextmanager
    def view(total: int, done_before: int) -> Iterator[SweepView]:
        with output_to(log) as out, SweepView(console_on(out), total, done_before, log) as shown:
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
        with suppress(OSError):  # whoever reads it may be gone, too
            os.write(error, (SHOW_CURSOR if os.isatty(error) else "").encode() + text.encode())
        os._exit(1)

    return lost
