"""Commands that bring sweeps onto clusters."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Clusters: files for them, checks, and machines reached by SSH.")
