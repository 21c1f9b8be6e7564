"""What a bundle is: a compressed tar file whose members are named as in a store, the last a manifest of checksums.

Members are ordered and dated alike, so that the same store gives the same bytes (with one version of zlib). The
checksums tell damage, not forgery: a bundle may come from elsewhere, and nothing in it is believed before it is read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rt_scale.spec.errors import InputError
from rt_scale.store.run_dir import ENVIRONMENT, FAILURE, METRICS, RESULT, SPEC, State
from rt_scale.system.paths import cache_folder

FORMAT = "rt-scale bundle 2"
SUFFIX = ".tar.gz"
FORMER = ".zip"
"""The suffix of bundles before December 2026."""
MANIFEST = "manifest.json"
MAGIC, FORMER_MAGIC = b"\x1f\x8b", b"PK\x03\x04"
"""What gzip files, and zip files with members, begin with."""

MOST_FILES = 250_000
"""Members of a bundle."""
MOST_TEXT = 1 << 26
"""Bytes of a member that is read as a whole: JSON, YAML."""
MOST_BYTES = 1 << 40
"""Bytes of all members together, unpacked."""
MOST_RATIO = 200
"""Times the bundle's own size that its members may take, unpacked; the first 64 MiB are free."""
FREE_BYTES = 1 << 26

Weights = Literal["none", "final", "all"]
WEIGHTS = ".safetensors"
RUN_FILES = (SPEC, ENVIRONMENT, METRICS, RESULT, FAILURE)

_RUN = r"[a-z]{1,40}-[0-9a-f]{16}"
_SWEEP = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.,=@+ -]{0,199}"
_OF_RUN = "|".join(
    [
        *map(re.escape, RUN_FILES),
        r"events\.out\.tfevents\.[A-Za-z0-9_.-]{1,100}",
        r"lease/[1-9][0-9]{0,5}\.json",
        r"checkpoints/(0|[1-9][0-9]{0,17})/(manifest\.json|[a-z][a-z0-9_]{0,99}\.safetensors)",
    ]
)
_OF_SWEEP = rf"sweep\.yaml|[a-z][a-z0-9_]{{0,99}}\.json|report/({_PLAIN}/){{0,3}}{_PLAIN}"
_MEMBER = re.compile(rf"runs/{_RUN}/({_OF_RUN})|sweeps/{_SWEEP}/({_OF_SWEEP})", re.ASCII)
_RUN_NAME = re.compile(_RUN, re.ASCII)


class File(BaseModel):
    """A member: its size in bytes and its SHA-256."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a bundle says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["rt-scale bundle 2"]
    rt_scale: str
    """Version that made it."""
    made: dict[str, str]
    """How: the command."""
    weights: Weights
    """Whose checkpoints are in it."""
    sweeps: list[str]
    """Names, in the order in which they were given."""
    runs: dict[str, State]
    """How each run stood, those that others start from included."""
    notes: list[str]
    """What could not be packed, and what a reader should know."""
    files: dict[str, File]
    """Every other member."""


def is_member(name: str) -> bool:
    """Whether a bundle may have a member of that name: a file of a run or a sweep, and nothing else."""
    return _MEMBER.fullmatch(name) is not None and ".." not in name


def is_run(name: str) -> bool:
    """Whether a run may have that name."""
    return _RUN_NAME.fullmatch(name) is not None


def is_whole(name: str) -> bool:
    """Whether that member is read into memory as a whole, and must be small."""
    return name.endswith((".json", ".yaml"))


def is_bundle(path: Path) -> bool:
    """Whether the file is meant to be a bundle, sound or not: no sweep file is named or begins so."""
    if path.name.endswith((SUFFIX, FORMER)) or not os.path.isfile(path):  # what is read of a pipe is gone
        return path.name.endswith((SUFFIX, FORMER))
    try:
        with open(path, "rb") as file:
            return file.read(len(FORMER_MAGIC)).startswith((MAGIC, FORMER_MAGIC))
    except OSError:
        return False


def refusal(path: Path, why: str) -> InputError:
    """The error for a bundle that is not opened."""
    return InputError(
        f"'{path}' is not opened: {why}. It may be damaged, cut short, or not made by 'rt-scale bundle': get it again "
        "from where it was made."
    )


def default_cache() -> Path:
    """The folder that bundles are unpacked in, each by its checksum: in the user's cache."""
    return cache_folder("rt-scale-bundles", "HOME")
