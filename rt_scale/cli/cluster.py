"""Commands that bring sweeps onto clusters."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import typer

from rt_scale.system.console import say

app = typer.Typer(no_args_is_help=True, help="Clusters: files for them, checks, and machines reached by SSH.")


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
