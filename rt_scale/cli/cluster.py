"""Commands that bring sweeps onto clusters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from rt_scale.cli.options import (
    SetOption,
    StoreOption,
    YesOption,
    load_files,
    open_console,
    open_store,
    read_path,
    set_words,
)
from rt_scale.spec.errors import InputError, counted
from rt_scale.system.console import say

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


@app.command("watch")
def watch_command(
    cloud: Annotated[Literal["aws", "gcp", "auto"], typer.Option(help="Whose notices; auto: who answers.")] = "auto",
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Drain this machine's Ray node when its cloud is about to take it away; runs on every spot node.

    It ends once the node is drained. Lines of its log are on standard error.
    """
    from rt_scale.clusters.watch import watch

    watch(cloud, every, lambda text: say(f"{datetime.now():%Y-%m-%d %H:%M:%S} {text}", error=True))
