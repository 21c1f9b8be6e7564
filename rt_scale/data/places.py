"""Where prepared data lies, and the names it may have."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from rt_scale.data.catalogue import DATASETS
from rt_scale.spec.errors import InputError, shown
from rt_scale.system.paths import cache_folder, path_from, user_path

ORIGINALS = "originals"
"""Folder below the data folder where downloads go and where originals are looked for."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def default_data_dir(given: Path | None = None) -> Path:
    """The folder of prepared data: ``given`` (--data-dir), else RT_SCALE_DATA, else the user cache."""
    if given is not None:
        return user_path(str(given), "--data-dir")
    return path_from("RT_SCALE_DATA") or cache_folder("rt-scale", "--data-dir or RT_SCALE_DATA", may_hold=True)


def prepare_command(name: str, data_dir: Path) -> str:
    """The command that prepares ``name`` in ``data_dir``, as it is typed."""
    words = ["rt-scale", "data", "prepare", name]
    if name not in DATASETS:
        words += ["--from", "FOLDER"]
    if data_dir != default_data_dir():
        words += ["--data-dir", str(data_dir)]
    return shlex.join(words)


def check_name(name: str) -> str:
    """``name`` if it can name a folder of prepared data; InputError otherwise."""
    if not _NAME.fullmatch(name) or name == ORIGINALS:
        raise InputError(
            f"{shown(name)} cannot name a data set: a name has letters, digits, '-' and '_', begins with a letter "
            f"or digit, has at most 64 characters and is not '{ORIGINALS}'."
        )
    return name
