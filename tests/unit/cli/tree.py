"""The commands of rt-scale."""

from __future__ import annotations

from typing import Any

import typer

from rt_scale.cli import app


def every_command() -> list[tuple[list[str], Any]]:
    """Every command and group of commands: how it is typed after ``rt-scale``, and what typer made of it."""
    found: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    for words, command in found:
        found += [([*words, name], inner) for name, inner in getattr(command, "commands", {}).items()]
    return found
