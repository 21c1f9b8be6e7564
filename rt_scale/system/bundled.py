"""What comes with rt-scale, in a checkout and in an installed package alike."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
BOOTSTRAP = PACKAGE.parent / "cluster" / "bootstrap.sh"
"""Is there in a checkout alone."""


def bundled_sweep(name: str) -> Path:
    """The sweep file ``name`` that comes with the package, e.g. ``demo`` or ``small/fig3``."""
    return PACKAGE / "sweeps" / f"{name}.yaml"


def install_command(package: str) -> str:
    """The command that installs a package which rt-scale needs or can use: the checkout's own, or pip's."""
    return "bash cluster/bootstrap.sh" if BOOTSTRAP.is_file() else f"pip install '{package}'"
