"""The command that says what sweeps will take before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import (
    DataOption,
    JsonOption,
    PriceOption,
    SetOption,
    StoreOption,
    YesOption,
    find_data_dir,
    open_console,
    open_store,
    print_table,
)
from rt_scale.launch.pace import duration_text
from rt_scale.spec.errors import InputError

if TYPE_CHECKING:
    from rt_scale.launch.plan import Group, Plan
    from rt_scale.launch.queue_simulation import Simulated

app = typer.Typer()

SHOWN = 20
"""Rows of runs that are printed; --json has all."""
COUNTED = "FLOPs counted"
"""How estimates begin that no run was measured for."""


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
    files: Annotated[list[Path], typer.Argument(help="Sweep files (YAML), planned as one queue of distinct runs.")],
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    price: PriceOption = None,
    gpus: GpusOption = None,
    cpus: CpusOption = None,
    rate: RateOption = 0.0,
    tflops: TflopsOption = None,
    budget: BudgetOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs, time, machines and money that sweeps will take, and how each number is known."""
    if tflops is not None and not tflops > 0:
        raise InputError(f"--tflops is {tflops:g}; give what a GPU reaches in practice, above 0, e.g. 60.")
    from rt_scale.launch.conditions import Conditions
    from rt_scale.launch.plan import make_plan
    from rt_scale.launch.plan_budget import check_budget, prices_for
    from rt_scale.spec.sweep import GRID_LIMIT, load_sweep

    sheet = prices_for(budget, price)
    sweeps = [load_sweep(file, overrides, None if yes else GRID_LIMIT) for file in files]
    conditions = Conditions(gpus=gpus or (1 if tflops else None), cpus=cpus, rate=rate, prices=sheet, teraflops=tflops)
    place = open_store(store)
    place.refresh(curves=False)
    made = make_plan(sweeps, place, find_data_dir(data_dir), conditions)
    if as_json:
        print(json.dumps(made.to_json(), indent=1))
    else:
        _show(made, [sweep.name for sweep, _ in sweeps if conditions.gpus and not sweep.launch.gpus])
    if budget is not None:
        check_budget(made, budget)


def _show(made: Plan, given_gpus: list[str]) -> None:
    """Print the plan; ``given_gpus`` are sweeps that ask for no GPU and are planned with one a run."""
    states = ", ".join(f"{number} {state}" for state, number in made.runs.items())
    total = sum(made.runs.values())
    others = made.nodes - total
    _say(f"{_many(total, 'distinct run')}: {states}.")
    if others:
        _say(f"They start from {others} more, so {made.nodes} in all, each computed once.")
    for name, command in made.missing_data.items():
        _say(f"The data set '{name}' is not prepared: {command}")
    if not made.to_compute:
        _say("Nothing is left to compute.")
        return
    _say(f"{made.to_compute} to compute:")
    _show_groups(made)
    if given_gpus:
        _say(f"Assumed: one GPU a run for {', '.join(given_gpus)}; to run so, set launch.gpus: 1 in the sweep file.")
    if made.undisturbed is not None:
        _show_time(made, made.undisturbed)
        _show_costs(made)


def _show_groups(made: Plan) -> None:
    rows: list[tuple[str, ...]] = [(group.what, str(group.runs), *_times(group), group.how) for group in made.groups]
    print_table(["what", "runs", "a run", "left in all", "how that is known"], rows[:SHOWN])
    if len(rows) > SHOWN:
        _say(f"... and {len(rows) - SHOWN} more kinds of runs (--json has all).")
    if any(group.how.startswith(COUNTED) for group in made.groups):
        _say("Counted FLOPs are right within a factor of about three; one finished run of a kind measures all like it.")
    loaders: dict[tuple[str, str], int] = {}
    for group in made.groups:
        key = (group.loader, group.loader_reason)
        loaders[key] = loaders.get(key, 0) + group.runs
    for (name, reason), runs in loaders.items():
        _say(f"Images of {_many(runs, 'run')}: {name}, as {reason}.")


def _show_time(made: Plan, undisturbed: Simulated) -> None:
    if made.unknown:
        _say(f"In none of these sums: {_many(made.unknown, 'run')} without an estimate.")
    hours = [("GPU-hours", made.gpu_hours), ("core-hours", made.core_hours)]
    _say(
        "Computing: "
        + ", ".join(f"{_number(amount)} {what}" for what, amount in hours if amount)
        + " (the sum of runs)."
    )
    units = {"gpu": "GPU", "cpu": "CPU core"}
    slots = " and ".join(_many(amount, units[kind]) for kind, amount in made.capacity.items())
    took = duration_text(undisturbed.makespan)
    _say(f"Until the last run is done on {slots}: {took} (simulated; start-up not counted).")
    if made.interrupted is not None and made.slowest is not None:
        from rt_scale.launch.plan import DRAWS
        from rt_scale.launch.queue_simulation import REPLACEMENT

        found = made.interrupted
        _say(
            f"With {_many(made.rate, 'interruption')} an hour of each run: {duration_text(found.makespan)}, "
            f"{_many(found.interruptions, 'interruption')}, {duration_text(found.lost)} computed twice "
            f"(the middle of {DRAWS} simulations, the slowest {duration_text(made.slowest)}; assumed: no notice of an "
            f"interruption, a new machine after {REPLACEMENT:.0f} s)."
        )


def _show_costs(made: Plan) -> None:
    if not made.costs:
        _say("Cost: no machine in the price sheet is for these runs, or none was named (--price cluster/prices.yaml).")
        return
    rows: list[tuple[str, ...]] = [
        (
            f"{cost.machines} x {cost.name}",
            f"{cost.on_demand:,.2f} {cost.currency}",
            "not offered" if cost.spot is None else f"{cost.spot:,.2f} {cost.currency}",
            cost.known,
        )
        for cost in made.costs
    ]
    print_table(["machines", "on demand", "spot", "price"], rows)
    _say("Assumed: those machines compute as fast as the estimates above say, and are paid until the last run is done.")
    if not made.rate:
        _say("Spot without interruptions; give --rate to plan for some.")


def _say(text: str) -> None:
    open_console().print(text, highlight=False, markup=False)


def _many(number: float, what: str) -> str:
    return f"{number:,g} {what}" + ("" if number == 1 else "s")


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.2g}"


def _times(group: Group) -> tuple[str, str]:
    """Of one run, and of what is left of all of them."""
    if group.seconds is None:
        return "unknown", "unknown"
    return duration_text(group.seconds), duration_text(group.left)
