"""Commands that bring sweeps onto clusters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rt_scale.cli import hosts
from rt_scale.cli.options import (
    DataOption,
    PriceOption,
    SetOption,
    StoreOption,
    YesOption,
    examples,
    find_data_dir,
    load_files,
    open_console,
    open_store,
    read_path,
    set_words,
)
from rt_scale.cli.plan import RateOption, TflopsOption
from rt_scale.spec.errors import InputError, RtScaleError, counted
from rt_scale.system.console import amount_text, duration_text, number_text, say

if TYPE_CHECKING:
    from rt_scale.plan.costs import Price, PriceSheet
    from rt_scale.plan.nodes import NodesPlan
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns

app = typer.Typer(
    no_args_is_help=True,
    help="Clusters: files for them, checks, and machines reached by SSH.",
    epilog=examples(
        "rt-scale cluster write hosts sweeps/demo.yaml --store /shared/rt-store --max 2",
        "rt-scale cluster check hosts.yaml sweeps/demo.yaml",
        "rt-scale cluster up hosts.yaml",
    ),
)
app.add_typer(hosts.app)


@app.command(
    epilog=examples(
        "rt-scale cluster write slurm_array sweeps/demo.yaml --store /shared/rt-store",
        "rt-scale cluster write aws paper/fig1 --store s3://my-bucket/rt-scale --max 8",
    )
)
def write(
    kind: Annotated[str, typer.Argument(help="aws, gcp, kuberay, slurm_array, slurm_nodes, hosts or sky.")],
    files: Annotated[list[Path], typer.Argument(parser=read_path, help="Sweep files (YAML), run as one queue.")],
    store: StoreOption = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(parser=read_path, help="The file to write (the kind's name, here).")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--max", min=1, help="Nodes at once, at most (as many as pay off by the plan).")
    ] = None,
    spot: Annotated[bool, typer.Option(help="Nodes that may be interrupted, where there are some.")] = True,
    price: PriceOption = None,
    deadline: Annotated[float | None, typer.Option(min=0, help="Hours in which all should be done.")] = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="What all may cost, in the price sheet's currency.")
    ] = None,
    rate: RateOption = 0.0,
    tflops: TflopsOption = None,
    data_dir: DataOption = None,
    data_origin: Annotated[
        str | None, typer.Option(help="Where nodes fetch prepared data sets: an address, or a shared folder.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster (from the first sweep's).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a file that was edited.")] = False,
    yes: YesOption = False,
) -> None:
    """Write the file of a cluster for sweeps; the last line that it prints starts the cluster.

    Without --max, or with --deadline or --budget, the plan says how many nodes pay off; see rt-scale plan.
    """
    from rt_scale.clusters.shape import plan_nodes
    from rt_scale.clusters.write import find_kind, render, shape_of, start_command, wanted_for, write_file
    from rt_scale.plan.costs import prices_for

    path, sheet = out or Path(find_kind(kind).template.removesuffix(".j2")), prices_for(budget, price)
    place = open_store(store)
    sweeps = load_files(files, overrides or [], {}, place, yes)
    shape = shape_of(kind, sweeps)
    machine, nodes = _machine(sheet, price, kind, sweeps, spot) if sheet else None, most
    if most is None or deadline is not None or budget is not None:
        _refresh(place)
        planned = plan_nodes(
            sweeps, find_data_dir(data_dir), shape, machine, spot=spot, most=most, deadline=deadline, budget=budget,
            rate=rate, teraflops=tflops,
        )  # fmt: skip
        say(_in_words(planned, machine.name if machine else "node"))
        nodes = max(1, planned.nodes)
    assert nodes is not None
    options = [*set_words(overrides, None), *(["--yes"] if yes else [])]
    wanted = wanted_for(
        kind, sweeps, [str(file) for file in files], nodes, machine=machine, spot=spot, data_origin=data_origin,
        deadline=deadline, name=name, options=options,
    )  # fmt: skip
    given = {
        "--store": wanted.store, "--max": nodes, "--price": price, "--deadline": deadline, "--data-origin": data_origin,
        "--name": name,
    }  # fmt: skip
    words = ["rt-scale", "cluster", "write", kind, *wanted.sweeps, *_words(given), *options]
    write_file(path, render(kind, wanted, [*words, *([] if spot else ["--no-spot"])]), replace=replace)
    say(f"Written: {path}. Look at the lines marked '# edit', then start it:")
    say(start_command(kind, wanted, path))


def _machine(sheet: PriceSheet, file: Path | None, kind: str, sweeps: Sequence[SweepRuns], spot: bool) -> Price:
    """The machine of the price sheet in a file that suits the runs best; InputError if none does."""
    from rt_scale.clusters.shape import suitable
    from rt_scale.clusters.write import find_kind, shape_of

    shape, runs = shape_of(kind, sweeps), sum(len(sweep.points) + sweep.to_sample for sweep in sweeps)
    machines = suitable(sheet.prices, shape, find_kind(kind).provider, spot=spot, runs=runs)
    if not machines:
        raise InputError(f"No machine in '{file}' suits these runs on {kind}: {shape.words} are needed on one.")
    return machines[0]


def _refresh(store: Store) -> None:
    try:
        store.refresh(curves=False)
    except RtScaleError as error:
        raise InputError(
            f"{error} The plan asks it what is done already; with --max alone there is no plan."
        ) from error


def _in_words(planned: NodesPlan, machine: str) -> str:
    """How many nodes pay off, and what they take."""
    text = f"Up to {planned.nodes} x {machine}: {planned.why}."
    if planned.hours is None or planned.node_hours is None:
        return text
    paid = "cost unknown" if planned.cost is None else amount_text(planned.cost, planned.currency)
    time = duration_text(planned.hours * 3600)
    return f"{text} By the plan {time}, {number_text(planned.node_hours)} node-hours, {paid}, a head not counted."


def _words(options: dict[str, object]) -> Sequence[str]:
    return [word for option, value in options.items() if value is not None for word in (option, str(value))]


@app.command(
    epilog=examples(
        "rt-scale cluster check aws.yaml",
        "rt-scale cluster check aws.yaml sweeps/demo.yaml   # do its runs fit on nodes?",
    )
)
def check(
    file: Annotated[
        Path, typer.Argument(parser=read_path, help="A Ray launcher file, KubeRay manifest, sbatch script, sky.yaml.")
    ],
    sweeps: Annotated[
        list[Path] | None, typer.Argument(parser=read_path, help="Sweep files whose runs must fit on its nodes.")
    ] = None,
    overrides: SetOption = None,
    store: Annotated[
        str | None, typer.Option("--store", help="Where runs are to be kept (what the file's commands say).")
    ] = None,
    crds: Annotated[
        Path | None,
        typer.Option(
            "--crds", parser=read_path, help="KubeRay's definitions (RT_SCALE_KUBERAY_CRDS, else those of kubectl)."
        ),
    ] = None,
) -> None:
    """Everything that is wrong with a cluster file, before anything is started; exit code 2 if something is."""
    from rt_scale.clusters.check import check_file
    from rt_scale.clusters.check.document import Asked
    from rt_scale.spec.sweep import parse_sweep
    from rt_scale.spec.yaml_files import read_text

    read = [parse_sweep(read_text(path), str(path), overrides or []) for path in sweeps or []]
    found = check_file(file, Asked(store, {sweep.name: sweep.launch for sweep in read}, crds))
    console = open_console()
    for problem in found.problems:
        console.print(f"{file}:{problem.line}: {problem.field}: {problem.text}")
    console.print(f"Checked as a {found.kind}: {'; '.join(found.checked) or 'nothing'}.")
    for what in found.unchecked:
        console.print(f"Not checked: {what}.")
    if found.problems:
        raise InputError(f"{file} has {counted(len(found.problems), 'problem')}; correct the lines named above.")
    console.print(f"Nothing is wrong with {file}.")


@app.command("watch", epilog=examples("rt-scale cluster watch --cloud aws"))
def watch_command(
    cloud: Annotated[Literal["aws", "gcp", "auto"], typer.Option(help="Whose notices; auto: who answers.")] = "auto",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Drain this machine's Ray node when its cloud is about to take it away; runs on every spot node.

    It ends once the node is drained. Lines of its log are on standard error.
    """
    from rt_scale.clusters.watch import watch

    watch(cloud, every, lambda text: say(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", error=True))
