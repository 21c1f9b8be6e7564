"""The files in cluster/ are what their first lines write, and nothing is wrong with them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.clusters.check import check_file
from rt_scale.clusters.check.document import Asked
from rt_scale.clusters.write import KINDS, is_edited
from rt_scale.spec.sweep import load_sweep
from tests.unit.clusters.broken import crds, told

PROJECT = Path(__file__).parents[3]
WRITTEN = "# Written by: rt-scale "
FILES = sorted(file.name for file in (PROJECT / "cluster").iterdir() if WRITTEN in file.read_text())


def words_of(file: str) -> list[str]:
    """The words of the command that writes it, without ``rt-scale``."""
    lines = (PROJECT / "cluster" / file).read_text().splitlines()
    return shlex.split(next(line.removeprefix(WRITTEN) for line in lines if line.startswith(WRITTEN)))


def test_every_kind_has_one() -> None:
    assert {words_of(file)[2] for file in FILES} == set(KINDS)


@pytest.mark.parametrize("file", FILES)
def test_it_is_what_its_first_line_writes(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    done = CliRunner().invoke(app, [*words_of(file), "--out", str(tmp_path / file)])
    assert done.exit_code == 0, done.output
    text = (PROJECT / "cluster" / file).read_text()
    assert (tmp_path / file).read_text() == text
    assert not is_edited(text)
    assert text.count("# edit: ") >= 2
    assert re.search("[^ ]# edit: |# edit: *$", text, re.M) is None


@pytest.mark.parametrize("file", [file for file in FILES if words_of(file)[2] != "hosts"])
def test_nothing_is_wrong_with_it(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    words = words_of(file)
    sweep, _ = load_sweep(Path(words[3]))
    definitions = crds() if words[2] == "kuberay" else None
    asked = Asked(words[words.index("--store") + 1], {sweep.name: sweep.launch}, definitions)
    assert told(check_file(Path("cluster") / file, asked)) == ""
