"""Builds the site of docs/ strictly: a broken link or a page that no page leads to is an error.

.venv/bin/python docs/build.py [FOLDER]    # build/site if none is given
"""

from __future__ import annotations

import sys
from pathlib import Path

from sphinx.cmd.build import main as sphinx

ROOT = Path(__file__).parents[1]


def build(folder: Path) -> int:
    """Write the site to ``folder``; 0 if nothing was wrong."""
    options = ["--quiet", "--fail-on-warning", "--fresh-env", "--write-all", "--conf-dir", str(ROOT / "docs")]
    return sphinx([*options, str(ROOT), str(folder)])


if __name__ == "__main__":
    site = Path(sys.argv[1] if sys.argv[1:] else ROOT / "build" / "site")
    if code := build(site):
        sys.exit(code)
    print(f"open {(site / 'docs' / 'index.html').absolute().as_uri()}")
