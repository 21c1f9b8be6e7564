"""Good cluster files, and the same with one thing broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rt_scale.clusters.check import check_file
from rt_scale.clusters.check.document import Asked, Findings

GOOD = Path(__file__).parent / "good"
STORES = {"gcp.yaml": "gs://bucket/runs", "slurm.sh": "/shared/runs"}
"""File -> the store for which it is good; s3://bucket/runs for others."""


def crds() -> Path:
    """The folder of KubeRay's definitions; skips the test where there is none."""
    given = os.environ.get("RT_SCALE_TEST_DATA")
    if given is None:
        pytest.skip("KubeRay's definitions are in RT_SCALE_TEST_DATA, which is not set")
    return Path(given) / "kuberay-crds"


def asked(name: str) -> Asked:
    """What the good file ``name`` is checked for."""
    return Asked(STORES.get(name, "s3://bucket/runs"), {}, crds() if name.startswith("kuberay") else None)


def change(text: str, old: str, new: str) -> tuple[str, int]:
    """``text`` with its first ``old`` replaced, and the line of that from 1, or of the first text in ``new``."""
    assert old in text, old
    before, _, after = text.partition(old)
    blank = len(new) - len(new.lstrip("\n"))
    return before + new + after, before.count("\n") + blank + 1


def check_changed(tmp_path: Path, name: str, old: str, new: str, given: Asked | None = None) -> tuple[Findings, int]:
    """What is found in the good file ``name`` with ``old`` replaced by ``new``, and the line of that."""
    text, line = change((GOOD / name).read_text(), old, new)
    file = tmp_path / name
    file.write_text(text)
    return check_file(file, given or asked(name)), line


def told(found: Findings) -> str:
    """The problems as lines of text."""
    return "\n".join(f"{each.line}: {each.field}: {each.text}" for each in found.problems)
