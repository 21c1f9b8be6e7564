"""The command that says what sweeps will take before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rt_scale.cli.options import (
    ConcurrencyOption,
    DataOption,
    JsonOption,
    PackOption,
    PriceOption,
    SetOption,
    StoreOption,
    YesOption,
    find_data_dir,
    open_store,
    read_path,
    warn,
    with_launch,
)
from rt_scale.cli.plan_view import show_plan
from rt_scale.spec.errors import InputError

app = typer.Typer()

GpusOption = Annotated[
    int | None, typer.Option("--gpus", min=1, help="GPUs at once (those here); sweeps that ask for none get one a run.")
]
CpusOption = Annotated[
    int | None, typer.Option("--cpus", min=1, help="CPU cores at once, for runs on CPUs (those here).")
]
RateOption = Annotated[float, typer.Option("--rate", min=0, help="Spot interruptions an hour of a running run.")]
TflopsOption = Annotated[
    float | None, typer.Option("--tflops", help="Plan for a GPU that is not here, assumed to reach so many TFLOP/s.")
]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", min=0, help="Exit with 2 where no machine of the price sheet is as cheap.")
]


@app.command()
def plan(
    files: Annotated[
        list[Path], typer.Argument(parser=read_path, help="Sweep files (YAML), planned as one queue of distinct runs.")
    ],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    price: PriceOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    rate: RateOption = 0.0,
    tflops: TflopsOption = None,
    concurrency: ConcurrencyOption = None,
    pack: PackOption = None,
    budget: BudgetOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs, time, machines and money that sweeps will take, and how each number is known."""
    if tflops is not None and not tflops > 0:
        raise InputError(f"--tflops is {tflops:g}; give what a GPU reaches in practice, above 0, e.g. 60.")
    from rt_scale.experiments.other_data import DataHere, compare_sweeps
    from rt_scale.plan.budget import check_budget, prices_for
    from rt_scale.plan.conditions import Conditions
    from rt_scale.plan.plan import make_plan
    from rt_scale.scheduler.search import known_points
    from rt_scale.spec.sweep import GRID_LIMIT, MOST_RUNS, load_sweep

    sheet = prices_for(budget, price)
    given = {} if pack is None else {"pack": pack}
    loaded = [load_sweep(file, overrides, MOST_RUNS if yes else GRID_LIMIT) for file in files]
    sweeps = [(with_launch(spec, given), points) for spec, points in loaded]
    at_once = gpus or (1 if tflops else None)
    conditions = Conditions(gpus=at_once, cpus=cpus, rate=rate, prices=sheet, teraflops=tflops, concurrency=concurrency)
    place = open_store(store)
    place.refresh(curves=False)
    here = find_data_dir(data_dir)
    known = [(spec.name, known_points(spec, points, place)) for spec, points in sweeps]
    warn(compare_sweeps(known, place, DataHere(here))[1])
    made = make_plan(sweeps, place, here, conditions)
    if as_json:
        print(json.dumps(made.to_json(), indent=1))
    else:
        show_plan(made, [sweep for sweep, _ in sweeps], conditions)
    if budget is not None:
        check_budget(made, budget)
