"""Commands that run specs and report on them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rt_scale.cli.options import (
    BestOption,
    DataOption,
    DeviceOption,
    JsonOption,
    SetOption,
    StoreOption,
    find_data_dir,
    open_console,
    open_store,
)
from rt_scale.spec.errors import InputError

if TYPE_CHECKING:
    from rt_scale.report.sweep_report import SweepReport
    from rt_scale.spec.run import RunSpec
    from rt_scale.spec.sweep import Point, SweepSpec
    from rt_scale.store.store import Store

app = typer.Typer()


@app.command()
def demo(store: StoreOption = None, data_dir: DataOption = None) -> None:
    """The main job in small: bundled digits, no download, about three minutes on two cores."""
    path = Path(__file__).parents[2] / "sweeps" / "demo.yaml"
    written = _sweep(path, [], store, data_dir, device="cpu", concurrency=None, best=False)
    from rt_scale.report.notes import demo_notes

    open_console().print(f"\n{demo_notes(written.tables)}", highlight=False)


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(help="A spec file (YAML).")],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads (all that the process may use).")] = None,
    cache_teacher: Annotated[
        bool | None, typer.Option(help="Compute a constant teacher once (where it fits in memory).")
    ] = None,
    loader: Annotated[str, typer.Option(help="What reads images: auto, resident, ffcv, map.")] = "auto",
    workers: Annotated[int, typer.Option(min=1, help="Processes that train together, through a local Ray.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs a worker, of several.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Run one spec in this process, or go on with it where it stands."""
    from rt_scale.spec.sweep import load_run

    value = load_run(spec, overrides)
    from rt_scale.experiments.run import run as run_spec
    from rt_scale.experiments.settings import Settings
    from rt_scale.launch.progress import RunBar

    console = open_console(stderr=as_json)
    place = open_store(store)
    place.check_writable()
    place.run(value).refresh()
    if place.run(value).result() is not None:
        console.print("complete already, nothing to do")
    if workers > 1:
        from rt_scale.launch.ddp import run_here

        with console.status(f"training on {workers} workers"):
            result = run_here(
                value, workers=workers, cpus=threads or 1, gpus=gpus, store=place.place,
                data_dir=find_data_dir(data_dir), device=device, loader=loader,
            )  # fmt: skip
        _show(value, place, result, as_json)
        return
    with RunBar(console) as bar:
        settings = Settings(
            store=place,
            data_dir=find_data_dir(data_dir),
            device=device,
            threads=threads,
            cache_teacher=cache_teacher,
            loader=loader,
            observer=bar,
        )
        result = run_spec(value, settings)
    _show(value, place, result, as_json)


def _show(value: RunSpec, place: Store, result: dict[str, Any], as_json: bool) -> None:
    from rt_scale.launch.progress import probe_text

    if as_json:
        print(json.dumps(result, indent=1))
        return
    console = open_console()
    console.print(f"{value.name}: {probe_text(result['last'])}", highlight=False)
    console.print(f"in {place.run(value).path}", highlight=False)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file (YAML).")],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
    concurrency: Annotated[int | None, typer.Option(min=1, help="Runs at a time, at most.")] = None,
    best: BestOption = False,
) -> None:
    """Run a grid through Ray Tune; finished runs are not run again."""
    _sweep(file, overrides or [], store, data_dir, device, concurrency, best)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="A sweep file (YAML).")],
    overrides: SetOption = None,
    store: StoreOption = None,
    best: BestOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tables and figures of a sweep's finished runs."""
    from rt_scale.spec.sweep import load_sweep

    spec, points = load_sweep(file, overrides)
    place = open_store(store)
    place.refresh()
    _report(spec, points, place, best, as_json)


def _sweep(
    file: Path,
    overrides: list[str],
    store: str | None,
    data_dir: Path | None,
    device: str,
    concurrency: int | None,
    best: bool,
) -> SweepReport:
    from rt_scale.spec.sweep import as_run, load_sweep

    spec, points = load_sweep(file, overrides)
    from rt_scale.launch.progress import SweepTable
    from rt_scale.launch.sweep import run_sweep

    console, place = open_console(), open_store(store)
    outcome = run_sweep(
        spec,
        points,
        as_run(file, overrides),
        store=place,
        data_dir=find_data_dir(data_dir),
        device=device,
        concurrency=concurrency,
        view=lambda total, done: SweepTable(console, total, done),
    )
    written = _report(spec, points, place, best, as_json=False) if outcome.finished else None
    for label, why in outcome.failed.items():
        print(f"rt-scale: {label} has no result: {why}", file=sys.stderr)
    if outcome.failed or written is None:
        raise typer.Exit(1)
    return written


def _report(spec: SweepSpec, points: list[Point], store: Store, best: bool, as_json: bool) -> SweepReport:
    from rt_scale.launch.sweep import finished_runs
    from rt_scale.report.sweep_report import write_report
    from rt_scale.report.tables import to_rich

    finished = finished_runs(points, store)
    if not finished:
        raise InputError(
            f"None of the {len(points)} runs of sweep '{spec.name}' is finished in '{store.place}'. "
            "Run it with 'rt-scale sweep', or name the store with --store."
        )
    written = write_report(spec.name, finished, len(points), store, "best" if best else "last")
    store.sweep(spec.name).send(store.sweep(spec.name).report)
    if as_json:
        plain: dict[str, Any] = {probe: [row.to_json() for row in rows] for probe, rows in written.tables.items()}
        print(json.dumps(plain, indent=1))
        return written
    console = open_console()
    for probe, rows in written.tables.items():
        if probe.partition("@")[0] in ("linear", "knn"):
            console.print(to_rich(rows, written.which))
    console.print(f"{len(finished)} of {len(points)} runs finished. Written:", highlight=False)
    for path in written.files:
        console.print(f"  {path}", highlight=False)
    console.print(f"TensorBoard: {store.sweep(spec.name).board}", highlight=False)
    return written
