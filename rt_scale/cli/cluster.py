"""Commands that bring sweeps onto clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rt_scale.cli.options import SetOption, open_console, read_path
from rt_scale.spec.errors import InputError, counted

app = typer.Typer(no_args_is_help=True, help="Clusters: files for them, checks, and machines reached by SSH.")


@app.callback()
def _about() -> None:
    """Make typer take the first command for one of several."""


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
