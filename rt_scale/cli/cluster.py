"""Commands that bring sweeps onto clusters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rt_scale.cli.options import (
    JsonOption,
    SetOption,
    StoreOption,
    YesOption,
    load_files,
    open_console,
    open_store,
    print_table,
    read_path,
    set_words,
    show_json,
)
from rt_scale.spec.errors import ExitCode, InputError, counted
from rt_scale.system.console import say, say_error

if TYPE_CHECKING:
    from rt_scale.clusters.up import Hosts, State

HostsArgument = Annotated[Path, typer.Argument(parser=read_path, help="The file of machines, e.g. cluster/hosts.yaml.")]
app = typer.Typer(no_args_is_help=True, help="Clusters: files for them, checks, and machines reached by SSH.")


@app.command()
def write(
    kind: Annotated[str, typer.Argument(help="aws, gcp, kuberay, slurm_array, slurm_nodes, hosts or sky.")],
    files: Annotated[list[Path], typer.Argument(parser=read_path, help="Sweep files (YAML), run as one queue.")],
    store: StoreOption = None,
    overrides: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(parser=read_path, help="The file to write (the kind's name, here).")
    ] = None,
    most: Annotated[int, typer.Option("--max", min=1, help="Nodes at once, at most.")] = 4,
    spot: Annotated[bool, typer.Option(help="Nodes that may be interrupted, where there are some.")] = True,
    deadline: Annotated[float | None, typer.Option(min=0, help="Hours after which all should be done.")] = None,
    data_origin: Annotated[
        str | None, typer.Option(help="Where nodes fetch prepared data sets: an address, or a shared folder.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the cluster (from the first sweep's).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a file that was edited.")] = False,
    yes: YesOption = False,
) -> None:
    """Write the file of a cluster for sweeps; prints the command that starts it."""
    from rt_scale.clusters.write import find_kind, render, start_command, wanted_for, write_file

    path = out or Path(find_kind(kind).template.removesuffix(".j2"))
    sweeps = load_files(files, overrides or [], {}, open_store(store), yes)
    options = [*set_words(overrides, None), *(["--yes"] if yes else [])]
    wanted = wanted_for(
        kind, sweeps, [str(file) for file in files], most, spot=spot, data_origin=data_origin, deadline=deadline,
        name=name, options=options,
    )  # fmt: skip
    given = {
        "--store": wanted.store, "--max": most, "--deadline": deadline, "--data-origin": data_origin, "--name": name,
    }  # fmt: skip
    words = ["rt-scale", "cluster", "write", kind, *wanted.sweeps, *_words(given), *options]
    write_file(path, render(kind, wanted, [*words, *([] if spot else ["--no-spot"])]), replace=replace)
    say(f"Written: {path}. Look at the lines marked '# edit', then start it:")
    say(start_command(kind, wanted, path))


def _words(options: dict[str, object]) -> Sequence[str]:
    return [word for option, value in options.items() if value is not None for word in (option, str(value))]


@app.command()
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


@app.command()
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


@app.command()
def down(file: HostsArgument) -> None:
    """End what `up` started on the machines, and nothing else; runs write a checkpoint first.

    Exit codes: 0 all has ended, 1 some machines could not be reached, 2 refused.
    """
    _end(_hosts(file).down(), "Ray ends there by itself once its head is gone; run the same command again to be sure.")


@app.command("status")
def cluster_status(file: HostsArgument, as_json: JsonOption = False) -> None:
    """Which machines are reached, run Ray and are nodes of the cluster, and what they do; exit code 1 if some fail."""
    from rt_scale.clusters.up import rows

    found = rows(_hosts(file, quiet=True).status())
    if as_json:
        show_json({"hosts": found})
    else:
        titles = ["host", "role", "reached", "Ray", "in the cluster", "free GiB", "GPUs", "runs", "problem"]
        flags = {True: "yes", False: "no", None: "?"}
        print_table(
            titles,
            [
                (
                    row["host"], row["role"], flags[row["reachable"]], flags[row["ray"]], flags[row["in_cluster"]],
                    str(row["free_gib"] or "?"), ", ".join(row["gpus"]) or "none", str(row["runs"]), row["problem"] or "",
                )
                for row in found
            ],
        )  # fmt: skip
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
