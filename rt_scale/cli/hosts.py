"""The commands ``cluster up``, ``down`` and ``status``: machines that are reached by SSH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import JsonOption, examples, print_table, read_path, show_json
from rt_scale.spec.errors import ExitCode, counted
from rt_scale.system.console import say, say_error

if TYPE_CHECKING:
    from rt_scale.clusters.up import Hosts, State

HostsArgument = Annotated[Path, typer.Argument(parser=read_path, help="The file of machines, e.g. cluster/hosts.yaml.")]
app = typer.Typer()


@app.command(epilog=examples("rt-scale cluster up cluster/hosts.yaml"))
def up(file: HostsArgument) -> None:
    """Make machines that SSH reaches one Ray cluster; run again, it does only what is missing.

    Exit codes: 0 all machines are in it, 1 some failed (which and why is printed, the others are in), 2 refused.
    """
    hosts = _hosts(file)
    states = hosts.up()
    ready = [state for state in states if state.failed is None]
    say(f"{len(ready)} of {counted(len(states), 'machine')} in the cluster")
    if states[0].failed is None:
        for line in hosts.next_steps():
            say(line)
    _end(states, "Mend what is named, and run the same command again: it does only what is missing.")


@app.command(epilog=examples("rt-scale cluster down cluster/hosts.yaml"))
def down(file: HostsArgument) -> None:
    """End what `up` started on the machines, and nothing else; runs write a checkpoint first.

    Exit codes: 0 all has ended, 1 some machines could not be reached, 2 refused.
    """
    _end(_hosts(file).down(), "Ray ends there by itself once its head is gone; run the same command again to be sure.")


@app.command(epilog=examples("rt-scale cluster status cluster/hosts.yaml"))
def status(file: HostsArgument, as_json: JsonOption = False) -> None:
    """Which machines are reached, run Ray and are nodes of the cluster, and what they do; exit code 1 if one is not."""
    from rt_scale.clusters.up import rows

    found = rows(_hosts(file, quiet=True).status())
    if as_json:
        show_json({"hosts": found})
    else:
        titles = ["host", "role", "reached", "Ray", "in the cluster", "free GiB", "GPUs", "runs", "problem"]
        said = {True: "yes", False: "no"}
        table: list[tuple[str, ...]] = [
            (
                row["host"], row["role"], said[row["reachable"]], said[row["ray"]], said[row["in_cluster"]],
                "?" if row["free_gib"] is None else f"{row['free_gib']:.1f}", ", ".join(row["gpus"]) or "none",
                str(row["runs"]), row["problem"] or "",
            )
            for row in found
        ]  # fmt: skip
        print_table(titles, table)
    if not all(row["in_cluster"] for row in found):
        raise typer.Exit(ExitCode.FAILED)


def _hosts(file: Path, quiet: bool = False) -> Hosts:
    from rt_scale.clusters.hosts import read_hosts
    from rt_scale.clusters.up import Hosts

    return Hosts(read_hosts(file), lambda host, text: None if quiet else say(f"{host}: {text}"))


def _end(states: Sequence[State], advice: str) -> None:
    from rt_scale.clusters.up import failed

    if wrong := failed(states):
        say_error(f"{'; '.join(f'{state.label}: {state.failed}' for state in wrong)}. {advice}")
        raise typer.Exit(ExitCode.FAILED)
