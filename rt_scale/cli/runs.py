"""Commands that run the demo, one spec, or sweeps."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import (
    AccelerateOption,
    AddressOption,
    BestOption,
    ConcurrencyOption,
    DataOption,
    DeadlineOption,
    DeviceOption,
    ImportOption,
    JsonOption,
    NotifyOption,
    OpenOption,
    PackOption,
    PriceOption,
    SetOption,
    StoreOption,
    YesOption,
    assigned,
    examples,
    find_data_dir,
    given_words,
    load_files,
    open_console,
    open_store,
    read_path,
    warn,
)
from rt_scale.cli.results import open_pages, print_reports, show_ways
from rt_scale.spec.errors import ExitCode, InputError, RtScaleError, counted, some
from rt_scale.system.console import say, say_error

if TYPE_CHECKING:
    from rt_scale.experiments.options import Options
    from rt_scale.plan.costs import PriceSheet
    from rt_scale.ray_backend.sweep import SweepOutcome
    from rt_scale.report.page import Report
    from rt_scale.scheduler.job import Where
    from rt_scale.spec.run import RunSpec
    from rt_scale.store.results import RunResult
    from rt_scale.store.store import Store
    from rt_scale.store.sweep_runs import SweepRuns

app = typer.Typer()
LISTED = 20
"""Most runs without a result whose reasons are printed."""


@app.command(
    epilog=examples("rt-scale demo --open", "rt-scale demo --set train.epochs=5     # other runs: a field differs")
)
def demo(
    overrides: SetOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    open_it: OpenOption = False,
    yes: YesOption = False,
) -> None:
    """A small example sweep: bundled digits, no download, about three minutes on two cores."""
    from rt_scale.scheduler.job import Where
    from rt_scale.system.paths import bundled_sweep

    where = Where(open_store(store), find_data_dir(data_dir), "cpu", "local", replace=yes)
    sweeps = load_files([bundled_sweep("demo")], overrides or [], {}, where.store, yes)
    (written,) = run_loaded(sweeps, where, given_words([Path("demo")], overrides, None, store, data_dir), show=open_it)
    if overrides:
        return  # the notes are about the unchanged demo
    from rt_scale.report.summary import demo_notes

    open_console().print(f"\n{demo_notes(written.measured)}")


@app.command(
    epilog=examples(
        "rt-scale run spec.yaml                           # again: resumes, or reads it",
        "rt-scale run spec.yaml --set student.alpha=0.5   # another run",
        "rt-scale run spec.yaml --workers 2               # two processes",
    )
)
def run(
    spec: Annotated[Path, typer.Argument(parser=read_path, help="A spec file (YAML).")],
    overrides: SetOption = None,
    imports: ImportOption = None,
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
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run one spec in this process, or resume it."""
    from rt_scale.experiments.options import Options

    if address is not None and workers == 1:
        raise InputError(
            f"--address {address} was given for a run of one worker, which needs no Ray. Give --workers 2 or more, or "
            "leave --address out; 'rt-scale sweep' runs on a cluster with any number of workers."
        )
    value = _load(spec, assigned(overrides, imports), yes)
    options = Options(
        store=open_store(store), data_dir=find_data_dir(data_dir), device=device, threads=threads,
        cache_teacher=cache_teacher, accelerate=accelerate or "auto", loader=loader,
    )  # fmt: skip
    _say_whether_complete(value, options, as_json)
    if workers == 1:
        result = _run_alone(value, options, as_json)
    else:
        wanted = {"workers": workers, "cpus": threads or 1, "gpus": gpus, "loader": loader}
        wanted |= {"accelerate": accelerate} if accelerate is not None else {}
        result = _run_with_workers(value, wanted, options, address, as_json)
    _show(result, options.store, as_json)


def _load(spec: Path, overrides: list[str] | None, yes: bool) -> RunSpec:
    """The run, which if it is large must be meant."""
    from rt_scale.spec.grid import refuse_large_runs
    from rt_scale.spec.sweep import load_run

    value = load_run(spec, overrides)
    if not yes:
        refuse_large_runs([value])
    return value


def _say_whether_complete(value: RunSpec, options: Options, as_json: bool) -> None:
    from rt_scale.experiments.other_data import refuse_other_data
    from rt_scale.store.sweep_runs import changed_plugins, single_runs

    options.store.check_writable()
    run_dir = options.store.run(value)
    run_dir.refresh()
    warn(changed_plugins(single_runs([value], options.store)))
    if (finished := run_dir.result()) is not None:
        refuse_other_data(value.name, finished.data, options.data_dir)
        open_console(stderr=as_json).print("complete already, nothing to do")


def _run_alone(value: RunSpec, options: Options, as_json: bool) -> RunResult:
    from rt_scale.experiments.runner import run
    from rt_scale.progress.bars import RunBar
    from rt_scale.system.signals import stopping_on_signals

    console = open_console(stderr=as_json)
    with stopping_on_signals(console.print) as stopping, RunBar(console) as bar:
        return run(value, replace(options, observer=bar, stop=stopping))


def _run_with_workers(
    value: RunSpec, wanted: Mapping[str, object], options: Options, address: str | None, quiet: bool
) -> RunResult:
    from rt_scale.progress.bars import RunBar
    from rt_scale.ray_backend.output import console_on, output_to
    from rt_scale.ray_backend.train_workers import run_on_ray
    from rt_scale.ray_backend.trial import TrialConfig
    from rt_scale.scheduler.preflight import refuse_hidden_gpus
    from rt_scale.spec.document import build
    from rt_scale.spec.sweep import LaunchSpec
    from rt_scale.system.signals import stopping_on_signals

    launch = build(LaunchSpec, wanted, "the command line")
    refuse_hidden_gpus([launch], options.device)
    config = TrialConfig(
        specs=(value,), launch=launch, store=options.store.place, data_dir=options.data_dir.absolute(),
        device=options.device, local=True,
    )  # fmt: skip
    log = options.store.run(value).path / "ray.log"
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
    plain = ", ".join(f"{name} {value:.6g}" for name, value in [*result.last.items()][:4])
    console.print(f"{result.name}: {probe_text(result.last) or plain}")
    console.print(f"in {place.where(result.name)}")


@app.command(
    epilog=examples(
        "rt-scale sweep sweeps/demo.yaml              # again: what is not done",
        "rt-scale sweep paper/fig3 --set seeds=1      # of the package, one seed",
        "rt-scale sweep demo --retry-failed --notify http://localhost:8080/",
    )
)
def sweep(
    files: Annotated[list[Path], typer.Argument(parser=read_path, help="Sweep files (YAML), run as one queue.")],
    overrides: SetOption = None,
    imports: ImportOption = None,
    store: StoreOption = None,
    data_dir: DataOption = None,
    device: DeviceOption = "auto",
    address: AddressOption = None,
    concurrency: ConcurrencyOption = None,
    cpus: Annotated[int | None, typer.Option(help="CPU cores a worker, in place of launch.cpus.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs a worker, in place of launch.gpus.")] = None,
    memory: Annotated[float | None, typer.Option(help="GiB of main memory a worker, for launch.memory.")] = None,
    accelerator: Annotated[str | None, typer.Option(help="Type of GPU, in place of launch.accelerator.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers a run, in place of launch.workers.")] = None,
    accelerate: AccelerateOption = None,
    pack: PackOption = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try runs again that failed before.")] = False,
    leave_others: Annotated[
        bool, typer.Option("--leave-others", help="Do not wait for runs that other drivers execute.")
    ] = False,
    max_nodes: Annotated[
        int | None, typer.Option(min=1, help="Ask an autoscaler for no more than so many nodes hold.")
    ] = None,
    wait_nodes: Annotated[
        int | None, typer.Option(min=1, help="Start once so many nodes with room for a run are there.")
    ] = None,
    deadline: DeadlineOption = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Start nothing where the plan costs more; see rt-scale plan.")
    ] = None,
    price: PriceOption = None,
    best: BestOption = False,
    notify: NotifyOption = None,
    open_it: OpenOption = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run grids through Ray Tune; finished runs are not run again.

    Exit codes: 0 all done, 1 some runs failed, 2 refused, 3 the cluster was lost (the same command continues), 4 only
    runs of other drivers are left (with --leave-others), 5 runs are left at the deadline, 130 stopped by a signal.
    """
    from rt_scale.plan.costs import prices_for
    from rt_scale.scheduler.deadline import Deadline, deadline_at
    from rt_scale.scheduler.job import Where

    if max_nodes is not None and wait_nodes is not None and wait_nodes > max_nodes:
        raise InputError(f"--wait-nodes {wait_nodes} waits for more nodes than --max-nodes {max_nodes} lets come.")
    end = None if deadline is None else Deadline(deadline_at(deadline))
    prices = prices_for(budget, price)
    launch = {
        "cpus": cpus, "gpus": gpus, "memory": memory, "accelerator": accelerator, "workers": workers,
        "accelerate": accelerate, "pack": pack,
    }  # fmt: skip
    where = Where(
        open_store(store), find_data_dir(data_dir), device, address, concurrency, retry_failed,
        replace=yes, leave_others=leave_others, max_nodes=max_nodes, wait_nodes=wait_nodes, deadline=end,
    )  # fmt: skip
    sweeps = load_files(files, assigned(overrides, imports), launch, where.store, yes)
    if budget is not None or deadline is not None or prices is not None:
        where = _check_plan(sweeps, budget, prices, where, lambda text: say(text, error=as_json))
    words = given_words(files, overrides, imports, store, data_dir)
    run_loaded(sweeps, where, words, best, notify, as_json=as_json, show=open_it)


def _check_plan(
    sweeps: list[SweepRuns], budget: float | None, prices: PriceSheet | None, where: Where, tell: Callable[[str], None]
) -> Where:
    """Hold the plan to the budget (InputError) and compare it with the deadline; ``where`` with what the plan says."""
    from rt_scale.plan.deadline import TimeLeft, held_to
    from rt_scale.plan.plan import conditions_of, make_plan, planned, refuse_over_budget

    conditions = conditions_of(where, dict.fromkeys(each.spec.launch for each in sweeps), prices, tell)
    if budget is not None:
        tell(refuse_over_budget(sweeps, budget, where.data_dir, conditions))
    made = make_plan(sweeps, where.data_dir, conditions)
    where = replace(where, planned=planned(made, prices))
    if where.deadline is None:
        return where
    tell(held_to(made, where.deadline))
    return replace(where, deadline=replace(where.deadline, left=TimeLeft(sweeps, where.data_dir, conditions)))


def run_loaded(
    sweeps: Sequence[SweepRuns],
    where: Where,
    words: Sequence[str],
    best: bool = False,
    notify: str | None = None,
    *,
    as_json: bool = False,
    show: bool = False,
) -> list[Report]:
    """Run sweeps as one queue, print and write their reports; exits with an ``ExitCode`` if a run has no result.

    Args:
        words: what stands for the sweeps on a command line.
        notify: the command or URL that is told of failed runs and of the end; InputError if it cannot be used.
        as_json: whether standard output is the reports' JSON alone, without progress.
        show: whether to open the reports in the browser.
    """
    from rt_scale.ray_backend.terminal import run_shown
    from rt_scale.system.notify import Notifier

    name = ", ".join(sweep.name for sweep in sweeps)
    with Notifier(notify, warn) as notifier:

        def failed(label: str, why: str, counts: Mapping[str, int]) -> None:
            notifier.send("run_failed", sweep=name, counts=counts, failed=[{"run": label, "reason": why}])

        def lost(why: str) -> None:
            notifier.send("sweep_stopped", sweep=name, reason=why)
            notifier.close()  # the process ends without leaving this block

        try:
            outcomes = run_shown(sweeps, where, failed, lost, show=not as_json)
            reports = _show_outcomes(sweeps, outcomes, where, best, notifier.send, as_json)
            if not as_json:
                show_ways(reports, words)
        except (KeyboardInterrupt, RtScaleError) as error:
            notifier.send("sweep_stopped", sweep=name, reason=str(error) or "it was interrupted")
            raise
    if show:
        open_pages(reports)
    if any(outcome.left for outcome in outcomes):
        raise typer.Exit(ExitCode.OTHERS_LEFT)
    if any(outcome.failed for outcome in outcomes):
        raise typer.Exit(ExitCode.FAILED)
    return reports


def _show_outcomes(
    sweeps: Sequence[SweepRuns],
    outcomes: Sequence[SweepOutcome],
    where: Where,
    best: bool,
    tell: Callable[..., None],
    as_json: bool,
) -> list[Report]:
    from rt_scale.report.status import count_states

    written = []
    for each, outcome in zip(sweeps, outcomes, strict=True):
        reports = print_reports([each], best, as_json, where.data_dir) if outcome.finished else []
        written += reports
        for label, why in outcome.ended.items():
            say(f"{label} was ended early: {why}", error=as_json)
        if outcome.left:
            named = some([f"{label} ({who})" for label, who in outcome.left.items()])
            say(f"{counted(len(outcome.left), 'run')} left to other drivers: {named}", error=as_json)
        tell(
            "sweep_ended", sweep=each.name, counts=count_states(each),
            failed=[{"run": label, "reason": why} for label, why in outcome.failed.items()],
            left=[{"run": label, "by": who} for label, who in outcome.left.items()],
            preempted={name: lost.times for name, lost in each.preempted.items()},
            report=str(each.folder.report) if reports else None,
        )  # fmt: skip
    _say_failed({label: why for outcome in outcomes for label, why in outcome.failed.items()}, as_json)
    return written


def _say_failed(failed: Mapping[str, str], as_json: bool) -> None:
    """Why runs have no result, and the command that tries them again."""
    for label, why in list(failed.items())[:LISTED]:
        say_error(f"{label} has no result: {why}")
    if len(failed) > LISTED:
        say_error(f"{len(failed) - LISTED:,} more have no result; 'rt-scale status' with --state failed says why")
    if failed:
        say(f"Once that is set right: {again(sys.argv[1:])}", error=as_json)


def again(words: Sequence[str]) -> str:
    """The command that was given in ``words``, trying failed runs again; without --notify, which may hold a secret."""
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before != "--notify" and word not in ("--notify", "--retry-failed") and not word.startswith("--notify="):
            kept.append(word)
    kept = ["sweep", "demo", *kept[1:]] if kept[:1] == ["demo"] else kept
    return shlex.join(["rt-scale", *kept, "--retry-failed"])
