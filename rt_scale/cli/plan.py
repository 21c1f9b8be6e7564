"""The command ``plan``, and how a plan is printed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import (
    ConcurrencyOption,
    DataOption,
    DeadlineOption,
    ImportOption,
    JsonOption,
    PackOption,
    PriceOption,
    SetOption,
    StoreOption,
    YesOption,
    assigned,
    examples,
    find_data_dir,
    load_files,
    open_console,
    open_store,
    print_table,
    read_path,
    show_json,
    warn,
)
from rt_scale.spec.errors import InputError
from rt_scale.system.console import amount_text, duration_text, number_text

if TYPE_CHECKING:
    from rt_scale.plan.nodes import OfferPlan
    from rt_scale.plan.plan import Conditions, Group, Plan
    from rt_scale.plan.simulation import Simulated
    from rt_scale.spec.sweep import SweepSpec
    from rt_scale.store.sweep_runs import SweepRuns

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
    float | None,
    typer.Option("--budget", min=0, help="Exit with 2 if every machine of the price sheet costs more."),
]


@app.command(
    epilog=examples(
        "rt-scale plan sweeps/demo.yaml               # here",
        "rt-scale plan paper/fig1 --tflops 60 --gpus 8 --price cluster/prices.yaml",
    )
)
def plan(
    files: Annotated[
        list[Path], typer.Argument(parser=read_path, help="Sweep files (YAML), planned as one queue of distinct runs.")
    ],
    overrides: SetOption = None,
    imports: ImportOption = None,
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
    max_nodes: Annotated[
        int | None, typer.Option(min=1, help="Plan for an autoscaler with at most so many nodes of a row of --price.")
    ] = None,
    deadline: DeadlineOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Runs, time, machines and money that sweeps will take, with the source of each number."""
    if tflops is not None and not tflops > 0:
        raise InputError(f"--tflops is {tflops:g}; give what a GPU reaches in practice, above 0, e.g. 60.")
    from rt_scale.experiments.other_data import DataHere, compare_sweeps
    from rt_scale.plan.costs import check_budget, prices_for
    from rt_scale.plan.plan import Conditions, make_plan

    if price is None and (max_nodes or deadline):
        raise InputError("--max-nodes and --deadline need kinds of node: name a sheet with --price.")
    sheet = prices_for(budget, price)
    place = open_store(store)
    sweeps = load_files(files, assigned(overrides, imports), {"pack": pack}, place, yes)
    at_once = gpus or (1 if tflops else None)
    conditions = Conditions(gpus=at_once, cpus=cpus, rate=rate, prices=sheet, teraflops=tflops, concurrency=concurrency)
    place.refresh(curves=False)
    warn(compare_sweeps(sweeps, DataHere(find_data_dir(data_dir)))[1])
    made = make_plan(sweeps, find_data_dir(data_dir), conditions)
    nodes = _nodes(sweeps, find_data_dir(data_dir), conditions, max_nodes, deadline)
    if as_json:
        show_json({**made.to_json(), **({"nodes": [asdict(each) for each in nodes]} if nodes else {})})
    else:
        show_plan(made, [sweep.spec for sweep in sweeps], conditions)
        _show_nodes(nodes, rate)
    if budget is not None:
        check_budget(made, budget)


def _nodes(
    sweeps: Sequence[SweepRuns], data_dir: Path, conditions: Conditions, most: int | None, deadline: str | None
) -> list[OfferPlan]:
    """What the sweeps take on nodes of each kind of the price sheet; none if neither limit is given."""
    if conditions.prices is None or not (most or deadline):
        return []
    from rt_scale.plan.nodes import offer_plans
    from rt_scale.plan.plan import work_of
    from rt_scale.scheduler.deadline import deadline_at

    hours = None if deadline is None else (deadline_at(deadline) - time.time()) / 3600
    work = work_of(sweeps, data_dir, conditions)
    return offer_plans(work, conditions.prices, most=most, deadline=hours, rate=conditions.rate)


def _show_nodes(offers: Sequence[OfferPlan], rate: float) -> None:
    if not offers:
        return
    from rt_scale.plan.nodes import BOOT, IDLE

    rows: list[tuple[str, ...]] = []
    for offer in offers:
        found = offer.plan
        if found is None:
            rows.append((offer.name, "", "", "", "", "", offer.why))
            continue
        costs = ("unknown" if cost is None else amount_text(cost, found.currency) for cost in (found.cost, offer.spot))
        time_, hours = (
            "unknown" if each is None else duration_text(3600 * each) for each in (found.hours, found.node_hours)
        )
        rows.append((offer.name, str(found.nodes), time_, hours, *costs, found.why))
    _say("On nodes that an autoscaler adds and removes:")
    print_table(["nodes", "number", "until the end", "paid", "on demand", "spot", "why so many"], rows)
    rates = f", {_many(rate, 'interruption')} an hour of each run for spot" if rate else ""
    _say(
        f"Assumed: a node starts within {duration_text(BOOT)}, an idle one is gone after {duration_text(IDLE)}{rates}."
    )


SHOWN = 20
"""Most rows of runs that are printed; --json has all."""
COUNTED = "FLOPs counted"
"""First words of estimates without a measured run."""


def show_plan(made: Plan, sweeps: Sequence[SweepSpec], conditions: Conditions) -> None:
    """Print the plan of sweeps under ``conditions``."""
    _show_runs(made)
    if not made.to_compute:
        _say("Nothing is left to compute." if not made.to_sample else "Nothing else is left to compute.")
        return
    _say(f"{made.to_compute} to compute:")
    _show_groups(made)
    stopping = [sweep.name for sweep in sweeps if sweep.explore is not None and sweep.explore.stop is not None]
    if stopping:
        _say(f"Counted to their ends: runs of {', '.join(stopping)}, some of which a rule will end early.")
    given_gpus = [sweep.name for sweep in sweeps if conditions.gpus and not sweep.launch.gpus]
    if given_gpus:
        _say(f"Assumed: one GPU a run for {', '.join(given_gpus)}; to run so, set launch.gpus: 1 in the sweep file.")
    if made.undisturbed is not None:
        _show_time(made, made.undisturbed, conditions.concurrency)
        _show_costs(made, priced=conditions.prices is not None)


def _show_runs(made: Plan) -> None:
    total = sum(made.runs.values())
    if total or not made.to_sample:
        states = ", ".join(f"{number} {state}" for state, number in made.runs.items())
        _say(f"{_many(total, 'distinct run')}: {states}.")
    if others := made.nodes - total:
        _say(f"They need {others} more, so {made.nodes} in all, each computed once.")
    if failed := made.runs.get("failed"):
        _say(f"{_many(failed, 'run')} failed before: counted here, but tried again with --retry-failed alone.")
    if made.ended:
        _say(f"{_many(made.ended, 'run')} stopped early by a rule: not resumed.")
    if made.to_sample:
        _say(f"{_many(made.to_sample, 'run')} to be sampled while others run: not included in any sum.")
    for name, command in made.missing_data.items():
        _say(f"The data set '{name}' is not prepared: {command}")


def _show_groups(made: Plan) -> None:
    rows: list[tuple[str, ...]] = [(group.what, str(group.runs), *_times(group), group.how) for group in made.groups]
    print_table(["what", "runs", "a run", "left in all", "how that is known"], rows[:SHOWN])
    if len(rows) > SHOWN:
        _say(f"... and {len(rows) - SHOWN} more kinds of runs (--json has all).")
    if any(group.how.startswith(COUNTED) for group in made.groups):
        _say(
            "Estimates from counted FLOPs are right within a factor of about three on an idle machine; after one run "
            "is finished, similar ones are estimated from it."
        )
    _show_packs(made)


def _show_packs(made: Plan) -> None:
    if made.packed:
        alone = made.to_compute - made.packed
        _say(f"Packed: {_many(made.packed, 'run')} in {_many(made.processes - alone, 'process')}; {alone} alone.")
    if made.undecided:
        _say(
            f"Counted as alone: {_many(made.undecided, 'run')} with pack: auto; how many train together is measured as "
            "the first ones start."
        )


def _show_time(made: Plan, undisturbed: Simulated, concurrency: int | None) -> None:
    if made.unknown:
        _say(f"Not included in any sum: {_many(made.unknown, 'run')} without an estimate.")
    hours = [("GPU-hours", made.gpu_hours), ("core-hours", made.core_hours)]
    _say(
        "Computing: "
        + ", ".join(f"{number_text(amount)} {what}" for what, amount in hours if amount)
        + " (the sum of runs)."
    )
    units = {"gpu": "GPU", "cpu": "CPU core"}
    slots = " and ".join(_many(amount, units[kind]) for kind, amount in made.capacity.items())
    took = duration_text(undisturbed.makespan + (made.start or 0.0))
    start = f", {duration_text(made.start)} of it assumed for Ray and its processes to start" if made.start else ""
    most = f", {_many(concurrency, 'run')} at a time" if concurrency else ""
    _say(f"Until the last run is done on {slots}{most}: {took} (simulated{start or '; start-up not counted'}).")
    if made.interrupted is not None and made.slowest is not None:
        from rt_scale.plan.plan import DRAWS
        from rt_scale.plan.simulation import REPLACEMENT
        from rt_scale.scheduler.queue import LOSSES

        found = made.interrupted
        _say(
            f"With {_many(made.rate, 'interruption')} an hour of each run: {duration_text(found.makespan)}, "
            f"{_many(found.interruptions, 'interruption')}, {duration_text(found.lost)} computed twice "
            f"(the median of {DRAWS} simulations, the slowest {duration_text(made.slowest)}; assumed: no notice of an "
            f"interruption, a new machine after {REPLACEMENT:.0f} s)."
        )
        if found.given_up:
            _say(
                f"{_many(found.given_up, 'run')} would be given up: interrupted {LOSSES} times in a row without a new "
                "checkpoint, or started from such a one."
            )


def _show_costs(made: Plan, *, priced: bool) -> None:
    if not made.costs:
        unknown = "no prices were named (--price cluster/prices.yaml)"
        _say(f"Cost: {'no machine in the price sheet is for these runs' if priced else unknown}.")
        return

    rows: list[tuple[str, ...]] = [
        (
            f"{cost.machines} x {cost.name}",
            "unknown" if cost.on_demand is None else amount_text(cost.on_demand, cost.currency),
            "none known" if cost.spot is None else amount_text(cost.spot, cost.currency),
            cost.known,
        )
        for cost in made.costs
    ]
    print_table(["machines", "on demand", "spot", "price"], rows)
    _say("Assumed: those machines compute as fast as the estimates above say, and are paid until the last run is done.")
    if not made.rate:
        _say("Spot without interruptions; give --rate to plan for some.")


def _say(text: str) -> None:
    open_console().print(text)


def _many(number: float, what: str) -> str:
    plural = "es" if what.endswith("s") else "s"
    return f"{number:,g} {what}" + ("" if number == 1 else plural)


def _times(group: Group) -> tuple[str, str]:
    """Times of one run, and of what is still to be computed of all runs, as text."""
    if group.seconds is None:
        return "unknown", "unknown"
    return duration_text(group.seconds), duration_text(group.left)
