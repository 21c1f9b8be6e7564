"""Commands that show, report and export results, models and versions."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal

from rt_scale.cli.options import (
    GIVEN,
    BestOption,
    DataOption,
    ImportOption,
    JsonOption,
    OpenOption,
    PriceOption,
    SetOption,
    StoreOption,
    assigned,
    examples,
    find_data_dir,
    given_words,
    open_console,
    open_in_browser,
    open_runs,
    open_store,
    print_table,
    read_path,
    send,
    set_words,
    show_json,
    told,
    warn,
    writable,
)
from rt_scale.spec.errors import InputError, counted
from rt_scale.system.console import say
from rt_scale.system.garbage import no_collection

if TYPE_CHECKING:
    from rt_scale.report.page import Report
    from rt_scale.store.sweep_runs import SweepRuns
    from rt_scale.store.usage import NodeRate

app = typer.Typer()


@app.command(
    epilog=examples(
        "rt-scale report sweeps/demo.yaml --open",
        "rt-scale report sweeps/demo.yaml --best --out figures",
        "rt-scale report sweeps/demo.yaml --serve --open",
    )
)
def report(
    files: Annotated[
        list[Path],
        typer.Argument(parser=read_path, help=f"{GIVEN}; sweeps of one experiment make one report."),
    ],
    overrides: SetOption = None,
    imports: ImportOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    best: BestOption = False,
    out: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Folder to write to, a folder a sweep (beside the sweep, in the store)."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(parser=read_path, help="Also write the report, without run directories, to this folder."),
    ] = None,
    price: PriceOption = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page, which shows what is running and follows it, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of --serve (6007); 0 takes a free one.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address of --serve to listen on (localhost).")] = None,
    open_it: OpenOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tables, figures, verdicts and the bill of sweeps' finished runs, beside the paper's if they repeat it."""
    from rt_scale.report.summary import write_summary

    _refuse_with_serve(serve, {"--port": port, "--host": host}, {"--json": as_json, "--summary": summary})
    with nullcontext() if serve else no_collection():
        place, sweeps = open_runs(files, assigned(overrides, imports), store)
        place.refresh(events=False)
        place = writable(place, [sweep.folder.report for sweep in sweeps], out)
        sweeps = [replace(sweep, store=place) for sweep in sweeps]
        data, rates = find_data_dir(data_dir), rates_in(price)
        if serve:
            _serve(sweeps, partial(_written, sweeps, best, data, rates), host, port, open_it)
            return
        written = print_reports(sweeps, best, as_json, data, rates)
    if summary is not None:
        given = [told(file, [sweep.name for sweep in sweeps], number) for number, file in enumerate(files)]
        command = ["rt-scale", "report", *given, *set_words(overrides, imports), *(["--best"] if best else [])]
        made = write_summary(written, place, shlex.join(command), summary)
        size = decimal(sum(path.stat().st_size for path in made))
        say(f"Summary: {made[0]} ({counted(len(made), 'file')}, {size})", error=True)
    if not as_json:
        show_ways(written, given_words(files, overrides, imports, store, data_dir))
    if open_it:
        open_pages(written)


def _refuse_with_serve(serve: bool, only: Mapping[str, object], never: Mapping[str, object]) -> None:
    """InputError for options that need ``--serve``, or go without it."""
    found = [name for name, given in (never if serve else only).items() if given is not None and given is not False]
    if found and serve:
        raise InputError(f"--serve shows a page until Ctrl-C, without {' and '.join(found)}: leave out one of them.")
    if found:
        raise InputError(f"Without --serve nothing listens: add it, or leave out {' and '.join(found)}.")


def _serve(
    sweeps: Sequence[SweepRuns], make: Callable[..., Report], host: str | None, port: int | None, open_it: bool
) -> None:
    from rt_scale.report.serving.server import PORT, serve_report

    if len(reports := _by_experiment(sweeps)) > 1:
        names = "; ".join(", ".join(sweep.name for sweep in members) for members in reports)
        raise InputError(f"--serve shows one report, and these are {len(reports)}: {names}. Serve them one by one.")
    serve_report(
        sweeps,
        partial(make, empty=True),
        host=host or "localhost",
        port=PORT if port is None else port,
        say=say,
        show=open_in_browser if open_it else None,
    )


def rates_in(price: Path | None) -> list[NodeRate]:
    """What nodes cost by the price sheet, if one was named."""
    from rt_scale.plan.costs import load_prices

    return [] if price is None else load_prices(price).rates


def print_reports(
    sweeps: Sequence[SweepRuns], best: bool, as_json: bool, data_dir: Path, rates: Sequence[NodeRate] = ()
) -> list[Report]:
    """Print and write reports, with ``rates`` of nodes; sweeps that repeat the same experiment of the paper share one.

    InputError: sweeps of one experiment have different data, or none of a report's runs is finished.
    """
    from rt_scale.report.report import bill_json

    reports = []
    for members in _by_experiment(sweeps):
        report = _written(members, best, data_dir, rates)
        if as_json:
            show_json({"tables": report.to_json(), **bill_json(report)})
        else:
            _show_report(report)
        reports.append(report)
    return reports


def _by_experiment(sweeps: Sequence[SweepRuns]) -> list[list[SweepRuns]]:
    """The sweeps of each report."""
    together: dict[str, list[SweepRuns]] = {}
    for number, sweep in enumerate(sweeps):
        together.setdefault(sweep.spec.experiment or f"#{number}", []).append(sweep)
    return list(together.values())


def _written(
    sweeps: Sequence[SweepRuns], best: bool, data_dir: Path, rates: Sequence[NodeRate] = (), *, empty: bool = False
) -> Report:
    """The report of sweeps, written, also to an object store; ``empty``: even if no run is finished."""
    from rt_scale.experiments.other_data import DataHere
    from rt_scale.report.report import make_report

    report = make_report(sweeps, "best" if best else "last", DataHere(data_dir), rates, empty=empty)
    folder = sweeps[0].folder
    send(folder, folder.report)
    warn(report.other_data)
    return report


def show_ways(reports: Sequence[Report], words: Sequence[str]) -> None:
    """Print how to look at reports, and at the curves of the runs that ``words`` of a command line stand for."""
    for report in reports:
        say(f"open {_page(report).as_uri()}")
    say(shlex.join(["rt-scale", "board", *words, "--open"]))


def open_pages(reports: Sequence[Report]) -> None:
    """Open the pages of reports in the browser."""
    for report in reports:
        open_in_browser(_page(report).as_uri())


def _page(report: Report) -> Path:
    return next(path for path in report.files if path.suffix == ".html").absolute()


def _show_report(report: Report) -> None:
    from rich.text import Text

    from rt_scale.report.beside import beside_cells
    from rt_scale.report.page import plain_to_rich, to_rich

    console = open_console()
    if report.data:
        console.print(f"Data: {'; '.join(report.data)}")
    for probe, rows in report.measured.items():
        if probe.partition("@")[0] in ("linear", "knn"):
            console.print(to_rich(rows, report.which))
    if printed := [row for row in report.beside if row.printed is not None]:
        titles, *lines = beside_cells(printed)
        print_table(titles, [tuple(line) for line in lines])
    if report.metrics:
        console.print(plain_to_rich(report.plain))
    for judged in report.verdicts:
        style = {"holds": "green", "fails": "red", "undecided": "yellow"}[judged.verdict.word]
        text = f" {judged.claim} ({judged.where}) {judged.verdict.why}"
        console.print(Text.assemble((judged.verdict.word, style), text))
    if report.bill is not None:
        console.print(report.bill.summary)
    console.print(f"{report.finished} runs finished. Written to {report.folder}:")
    console.print(f"  {', '.join(str(path.relative_to(report.folder)) for path in report.files)}")


@app.command(
    epilog=examples(
        "rt-scale board sweeps/demo.yaml --open",
        "rt-scale board sweeps/demo.yaml --runs --port 0   # every run; a free port",
    )
)
def board(
    files: Annotated[
        list[Path] | None,
        typer.Argument(parser=read_path, help=f"{GIVEN}; without them, every run of the store."),
    ] = None,
    overrides: SetOption = None,
    imports: ImportOption = None,
    runs: Annotated[
        bool, typer.Option("--runs", help="Every run, not only the means over seeds; loads longer.")
    ] = False,
    store: StoreOption = None,
    data_dir: DataOption = None,
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one.")] = 6006,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "localhost",
    open_it: OpenOption = False,
) -> None:
    """Open TensorBoard on the comparison view of sweeps: means over seeds, HParams, and the report's figures."""
    from rt_scale.experiments.other_data import DataHere, compare, compare_sweeps
    from rt_scale.report.board import open_board

    place, sweeps = open_runs(files or [], assigned(overrides, imports), store)
    say = open_console().print
    here = DataHere(find_data_dir(data_dir))
    place.refresh(curves=False)
    if sweeps:
        warn(compare_sweeps(sweeps, here)[1])
    else:
        warn(compare(place, place.names(), here, "of the store")[1])
    kept = writable(place, [each.folder.board for each in sweeps] or [place.root / "board"])
    sweeps = [replace(sweep, store=kept) for sweep in sweeps]
    try:
        show = open_in_browser if open_it else None
        open_board(sweeps, kept, every_run=runs, host=host, port=port, say=say, show=show)
    finally:
        if kept.derived is not None:
            shutil.rmtree(kept.derived, ignore_errors=True)


@app.command(
    epilog=examples(
        "rt-scale compare spec.yaml other.yaml        # files, or names of runs as",
        "rt-scale compare distill-01 distill-8f       # rt-scale status prints them",
    )
)
def compare(
    files: Annotated[list[Path], typer.Argument(parser=read_path, help=f"{GIVEN}: two runs at least.")],
    overrides: SetOption = None,
    imports: ImportOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    best: BestOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs side by side: the fields in which they differ, their results, and their learning curves in one figure."""
    from rt_scale.report.compare import compare_specs
    from rt_scale.store.sweep_runs import single_runs

    place, sweeps = open_runs(files, assigned(overrides, imports), store)
    place.refresh(events=False)
    found = compare_specs(sweeps)
    runs = single_runs(list(found.specs.values()), place, seeds_apart=True)
    runs = replace(runs, store=writable(place, [runs.folder.report]))
    done = any(place.status(name).state == "done" for name in found.specs)
    if not as_json:
        print_table(*found.table())
        for note in found.notes:
            open_console().print(note)
    report = _written([runs], best, find_data_dir(data_dir)) if done else None
    if as_json:
        tables = {} if report is None else {"tables": report.to_json(), "files": [str(file) for file in report.files]}
        show_json({**found.to_json(), **tables})
    elif report is None:
        open_console().print("None of them is finished, so there are no results to compare yet.")
    else:
        _show_report(report)


@app.command(epilog=examples("rt-scale models"))
def models(
    as_json: JsonOption = False,
) -> None:
    """Encoders by name, with parameters and embedding size at 32 x 32 x 3."""
    from rt_scale.models.encoders import list_encoders

    rows = [(row.name, row.parameters, row.embed_dim) for row in list_encoders()]
    if as_json:
        names = ("name", "parameters", "embed_dim")
        show_json({"encoders": [dict(zip(names, row, strict=True)) for row in rows]})
    else:
        print_table(["encoder", "parameters", "embedding"], [(name, f"{n:,}", str(dim)) for name, n, dim in rows])


@app.command(epilog=examples("rt-scale sweeps"))
def sweeps(as_json: JsonOption = False) -> None:
    """Sweeps of the package: the paper's and their small twins; their names are taken wherever a sweep file is."""
    from rt_scale.system.paths import bundled_sweeps

    found = bundled_sweeps()
    if as_json:
        show_json({"sweeps": [{"name": name, "purpose": purpose} for name, purpose in found.items()]})
    else:
        print_table(["sweep", "purpose"], list(found.items()))


@app.command(
    epilog=examples("rt-scale doctor", "rt-scale doctor --store /data/rt-store       # whether it can be written")
)
def doctor(store: StoreOption = None, data_dir: DataOption = None, as_json: JsonOption = False) -> None:
    """What this machine can do, what is missing and how to get it."""
    from dataclasses import asdict

    from rt_scale.cli.doctor import examine

    findings = examine(open_store(store), find_data_dir(data_dir))
    if as_json:
        show_json({"findings": [asdict(finding) for finding in findings]})
    else:
        print_table(["", "", "found", "remedy"], [(f.what, f.state, f.detail, f.remedy) for f in findings])


@app.command(epilog=examples("rt-scale schema > sweep-schema.json", "rt-scale schema run > run-schema.json"))
def schema(kind: Annotated[str, typer.Argument(help="run or sweep.")] = "sweep") -> None:
    """The JSON schema of spec or sweep files, for editors."""
    from rt_scale.spec.errors import unknown_name
    from rt_scale.spec.schema import run_schema, sweep_schema

    makers = {"run": run_schema, "sweep": sweep_schema}
    if kind not in makers:
        raise unknown_name("kind of file", kind, makers)
    print(json.dumps(makers[kind](), indent=1))
