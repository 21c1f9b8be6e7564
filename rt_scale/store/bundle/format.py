"""The format of a bundle: a tar.gz file with members named as in a store, and last a manifest of checksums.

The same store gives the same bytes (with one version of zlib). Checksums detect damage, not forgery: a bundle may come
from anyone, so everything in it is validated.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from rt_scale.spec.errors import InputError
from rt_scale.store.run_dir import ARTIFACT, ARTIFACTS, ENVIRONMENT, FAILURE, METRICS, RESULT, SOURCES, SPEC, State
from rt_scale.system.paths import cache_folder

FORMAT = "rt-scale bundle 2"
SUFFIX = ".tar.gz"
MANIFEST = "manifest.json"
MAGIC = b"\x1f\x8b"
"""First bytes of gzip files."""

MOST_FILES = 250_000
"""Members of a bundle."""
MOST_TEXT = 1 << 26
"""Bytes of a JSON or YAML member, which is read into memory."""
MOST_BYTES = 1 << 40
"""Bytes of all members together, unpacked."""
MOST_RATIO = 200
"""Unpacked size over the bundle's own, at most; the first 64 MiB are exempt."""
FREE_BYTES = 1 << 26

Weights = Literal["none", "final", "all"]
WEIGHTS = ".safetensors"
RUN_FILES = (SPEC, SOURCES, ENVIRONMENT, METRICS, RESULT, FAILURE)

_RUN = r"[a-z]{1,40}-[0-9a-f]{16}"
_SWEEP = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}"
_PLAIN = r"[A-Za-z0-9_][A-Za-z0-9_.,=@+ -]{0,199}"
_OF_RUN = "|".join(
    [
        *map(re.escape, RUN_FILES),
        r"events\.out\.tfevents\.[A-Za-z0-9_.-]{1,100}",
        rf"{ARTIFACTS}/{ARTIFACT}",
        r"lease/[1-9][0-9]{0,5}\.json",
        r"checkpoints/(0|[1-9][0-9]{0,17})/(manifest\.json|[a-z][a-z0-9_]{0,99}\.safetensors)",
    ]
)
_OF_SWEEP = rf"sweep\.yaml|[a-z][a-z0-9_]{{0,99}}\.json|report/({_PLAIN}/){{0,3}}{_PLAIN}"
_MEMBER = re.compile(rf"runs/{_RUN}/({_OF_RUN})|sweeps/{_SWEEP}/({_OF_SWEEP})", re.ASCII)
RUN_NAME = re.compile(_RUN, re.ASCII)


class File(BaseModel):
    """Size in bytes and SHA-256 of a member."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """A bundle's list of contents."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["rt-scale bundle 2"]
    rt_scale: str
    """Version that made the bundle."""
    made: dict[str, str]
    """The command."""
    weights: Weights
    """Which checkpoints are in it."""
    sweeps: list[str]
    """Names, in the order given."""
    runs: dict[str, State]
    """State of each run, including those that others start from."""
    notes: list[str]
    """What could not be added, and other remarks."""
    files: dict[str, File]
    """Every other member."""


def is_member(name: str) -> bool:
    """Whether a bundle may have a member of that name: a file of a run or a sweep."""
    return _MEMBER.fullmatch(name) is not None and ".." not in name


def is_bundle(path: Path) -> bool:
    """Whether the file is a bundle, sound or not, by its name or first bytes."""
    if path.name.endswith(SUFFIX) or not os.path.isfile(path):  # a pipe can be read only once
        return path.name.endswith(SUFFIX)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
    return False


def refusal(path: Path, why: str) -> InputError:
    """The error for a bundle that cannot be opened because of ``why``."""
    return InputError(
        f"'{path}' is not opened: {why}. It may be damaged, cut short, or not made by 'rt-scale bundle': get it again "
        "from where it was made."
    )


def default_cache() -> Path:
    """The folder in the user's cache that bundles are unpacked in, each in a subfolder named by its checksum."""
    return cache_folder("rt-scale-bundles", "HOME")
