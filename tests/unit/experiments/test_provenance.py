from __future__ import annotations

import subprocess
from pathlib import Path

import torch

from rt_scale.experiments.provenance import VERSIONS, attempt_record, git_state
from rt_scale.experiments.settings import Execution


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(
        ["git", *who, "-C", folder, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_it_is_what_runs(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "first")
    inside = tmp_path / "package"
    inside.mkdir()
    (inside / "notes.txt").write_text("not followed by git")
    assert git_state(inside) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "code.py").write_text("a = 2\n")
    git_state.cache_clear()
    assert git_state(inside) == (git(tmp_path, "rev-parse", "HEAD"), True)


def test_no_checkout_is_said_to_be_none(tmp_path: Path) -> None:
    assert git_state(tmp_path / "nowhere") == (None, None)


def test_an_attempt_says_what_it_was_computed_with() -> None:
    record = attempt_record(Execution(torch.device("cpu"), 3, True, True, "resident", "it fits"))
    assert record["threads"] == 3
    assert torch.__version__.startswith(record["versions"]["torch"])
    assert set(record["versions"]) == set(VERSIONS)
    assert record["git_commit"] is None or len(record["git_commit"]) == 40
