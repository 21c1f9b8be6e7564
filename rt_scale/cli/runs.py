"""Commands that run specs and report on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import (
    AccelerateOption,
    AddressOption,
    BestOption,
    DataOption,
    DeviceOption,
    JsonOption,
    SetOption,
    StoreOption,
    YesOption,
    find_data_dir,
    open_console,
    open_store,
    read_path,
    writable,
)
from rt_scale.cli.reporting import keep_summary, print_reports
from rt_scale.cli.sweep import load_files, open_sweeps, run_loaded, told
from rt_scale.spec.errors import InputError

if TYPE_CHECKING:
    from rt_scale.spec.run import RunSpec
    from rt_scale.spec.sweep import LaunchSpec
    from rt_scale.store.results import RunResult
    from rt_scale.store.store import Store

app = typer.Typer()


@app.command()
def demo(
    overrides: SetOption = None, store: StoreOption = None, data_dir: DataOption = None, yes: YesOption = False
) -> None:
    """The main job in small: bundled digits, no download, about three minutes on two cores."""
    from rt_scale.scheduler.job import Where
    from rt_scale.system.paths import bundled_sweep

    where = Where(open_store(store), find_data_dir(data_dir), "cpu", "local", replace=yes)
    (written,) = run_loaded(load_files([bundled_sweep("demo")], overrides or [], {}, where.store, yes), where)
    if overrides:
        return  # the notes are about the demo as it is
    from rt_scale.report.summary import demo_notes

    open_console().print(f"\n{demo_notes(written.measured)}")


@app.command()
def run(
    spec: Annotated[Path, typer.Argument(parser=read_path, help="A spec file (YAML).")],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads (all that the process may use).")] = None,
    cache_teacher: Annotated[
        bool | None, typer.Option(help="Compute a constant teacher once (where it fits in memory).")
    ] = None,
    loader: Annotated[str, typer.Option(help="What reads images: auto, resident, ffcv, map.")] = "auto",
    accelerate: AccelerateOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that train together, through Ray.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs a worker, of several.")] = 0,
    address: AddressOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run one spec in this process, or go on with it where it stands."""
    from rt_scale.spec.document import build
    from rt_scale.spec.sweep import LaunchSpec, load_run

    value = load_run(spec, overrides)
    from rt_scale.experiments.options import Options
    from rt_scale.experiments.other_data import refuse_other_data
    from rt_scale.experiments.runner import run as run_spec
    from rt_scale.progress.bars import RunBar
    from rt_scale.system.signals import stopping_on_signals

    if address is not None and workers == 1:
        raise InputError(
            f"--address {address} was given for a run of one worker, which needs no Ray. Give --workers 2 or more, or "
            "leave --address out; 'rt-scale sweep' runs on a cluster whatever it is."
        )
    console = open_console(stderr=as_json)
    place = open_store(store)
    place.check_writable()
    place.run(value).refresh()
    if (finished := place.run(value).result()) is not None:
        refuse_other_data(value.name, finished.data, find_data_dir(data_dir))
        console.print("complete already, nothing to do")
    if workers > 1:
        wanted = {"workers": workers, "cpus": threads or 1, "gpus": gpus, "loader": loader}
        wanted |= {"accelerate": accelerate} if accelerate is not None else {}
        launch = build(LaunchSpec, wanted, "the command line")
        result = _with_workers(value, launch, place, find_data_dir(data_dir), device, address, quiet=as_json)
        _show(result, place, as_json)
        return
    with stopping_on_signals(console.print) as stopping, RunBar(console) as bar:
        settings = Options(
            store=place,
            data_dir=find_data_dir(data_dir),
            device=device,
            threads=threads,
            cache_teacher=cache_teacher,
            accelerate=accelerate or "auto",
            loader=loader,
            observer=bar,
            stop=stopping,
        )
        result = run_spec(value, settings)
    _show(result, place, as_json)


def _with_workers(
    value: RunSpec, launch: LaunchSpec, place: Store, data_dir: Path, device: str, address: str | None, quiet: bool
) -> RunResult:
    from rt_scale.progress.bars import RunBar
    from rt_scale.ray_backend.output import console_on, output_to
    from rt_scale.ray_backend.train_workers import run_on_ray
    from rt_scale.ray_backend.trial import TrialConfig
    from rt_scale.system.signals import stopping_on_signals

    config = TrialConfig(
        specs=(value,), launch=launch, store=place.place, data_dir=data_dir.absolute(), device=device, local=True
    )
    log = place.run(value).path / "ray.log"
    with output_to(log) as out:
        console = console_on(out)
        console.quiet = quiet
        console.print(f"Ray's log: {log}")
        with RunBar(console) as bar, stopping_on_signals(bar.warned) as stopping:
            return run_on_ray(config, bar.reported, stopping, address)


def _show(result: RunResult, place: Store, as_json: bool) -> None:
    from rt_scale.progress.bars import probe_text

    if as_json:
        print(json.dumps(result.to_json(), indent=1))
        return
    console = open_console()
    console.print(f"{result.name}: {probe_text(result.last)}")
    console.print(f"in {place.where(result.name)}")


@app.command()
def report(
    files: Annotated[
        list[Path],
        typer.Argument(
            parser=read_path, help="Sweep files (YAML), or a bundle; those of one experiment make one report."
        ),
    ],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    best: BestOption = False,
    out: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Folder to write to, a folder a sweep (beside the sweep, in the store)."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Also keep what is said, without run directories, in this folder."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tables, figures and verdicts of sweeps' finished runs, beside the paper's where they repeat an experiment."""
    place, sweeps = open_sweeps(files, overrides, store)
    place.refresh()
    place = writable(place, [sweep.folder.report for sweep in sweeps], out)
    sweeps = [replace(sweep, store=place) for sweep in sweeps]
    written = print_reports(sweeps, best, as_json, find_data_dir(data_dir))
    if summary is not None:
        assigned = [part for override in overrides or [] for part in ("--set", override)]
        given = [told(file, [sweep.name for sweep in sweeps], number) for number, file in enumerate(files)]
        command = ["rt-scale", "report", *given, *assigned, *(["--best"] if best else [])]
        keep_summary(written, place, command, summary)
