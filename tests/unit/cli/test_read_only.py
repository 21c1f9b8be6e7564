"""A store that one may only read: everything is shown, and written elsewhere."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import Result
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.cli.options import send
from rt_scale.report import board
from rt_scale.spec.errors import InputError
from rt_scale.spec.sweep import load_sweep
from rt_scale.store.store import Store, SweepDir
from rt_scale.system.files import remove
from tests.unit.cli.test_other_data import BASE, begin
from tests.unit.store.test_atomic import as_nobody


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, nothing_is_timed: None) -> Iterator[Path]:
    """A folder that everybody may enter, with a store that nobody may write, and one for temporary files."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        (folder / "out").mkdir()
        (folder / "out").chmod(0o777)
        (folder / "a.yaml").write_text(yaml.safe_dump({"name": "a", "base": BASE, "axes": {"student.alpha": [0.5, 1]}}))
        store = Store(folder / "store")
        begin(store, load_sweep(folder / "a.yaml")[1][0], "ab" * 32, finished=True)
        monkeypatch.setenv("RT_SCALE_STORE", str(store.root))
        monkeypatch.setenv("RT_SCALE_DATA", str(folder / "data"))
        monkeypatch.setattr(tempfile, "tempdir", str(folder / "out"))
        yield folder
        permit(store.root, 0o755)


def permit(root: Path, mode: int) -> None:
    for each in (root, *(path for path in root.rglob("*") if path.is_dir())):
        each.chmod(mode)


def tree(root: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in (root, *root.rglob("*"))}


Call = Callable[..., Result]


@pytest.fixture
def call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Runs a command in the store that may be read; once in a copy before, so that nothing is left to be imported."""
    served: list[list[str]] = []
    monkeypatch.setattr(board, "serve", lambda view, *given, **more: served.append(sorted(os.listdir(view))))

    def run(*words: object) -> Result:
        result: Any = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result

    def reads(*words: object, before: tuple[object, ...] = ()) -> Result:
        run(*words, *before)
        for path in (folder / "out").iterdir():
            remove(path)
        permit(folder / "store", 0o555)
        was = tree(folder / "store")
        try:
            with as_nobody():
                result = run(*words, *before)
        finally:
            assert tree(folder / "store") == was
        if words[0] == "board":
            assert served[0] == served[1]
        return result

    return reads


def test_a_report_is_printed_and_kept_in_a_temporary_folder(call: Call, folder: Path) -> None:
    result = call("report", folder / "a.yaml")
    assert "1 of 2 runs finished" in result.stdout
    assert "is read-only here" in result.stderr
    (page,) = (folder / "out").rglob("report.html")
    assert str(page) in result.stdout
    assert str(page.parents[2]) in result.stderr


def test_a_report_is_kept_where_it_is_asked_for(call: Call, folder: Path) -> None:
    out, kept = folder / "out" / "mine", folder / "out" / "kept"
    result = call("report", folder / "a.yaml", "--out", out, "--summary", kept)
    assert "is read-only" not in result.stderr
    assert str(out / "a" / "report" / "report.html") in result.stdout
    assert (out / "a" / "report" / "report.md").exists()
    assert (kept / "README.md").exists()


def test_tables_for_other_programs(call: Call, folder: Path) -> None:
    result = call("export", folder / "a.yaml", "--to", "csv")
    (runs,) = (folder / "out").rglob("runs.csv")
    assert str(runs) in result.stdout
    assert "is read-only here" in result.stderr


@pytest.mark.parametrize("given", [["a.yaml"], []])
def test_a_board_has_its_view_elsewhere_while_it_is_open(call: Call, folder: Path, given: list[str]) -> None:
    result = call("board", *(folder / name for name in given))
    assert "is read-only here" in result.stderr
    assert not [path for path in (folder / "out").iterdir() if path.name.startswith("rt-scale-")]


@pytest.mark.parametrize("words", [["status"], ["status", "a.yaml"], ["plan", "a.yaml"]])
def test_what_writes_nothing(call: Call, folder: Path, words: list[str]) -> None:
    result = call(*(folder / word if "." in word else word for word in words))
    assert result.stderr == ""


def test_a_bundle_is_packed(call: Call, folder: Path) -> None:
    call("bundle", folder / "a.yaml", before=("--out", folder / "out" / "b.tar.gz"))
    assert (folder / "out" / "b.tar.gz").exists()


def test_what_an_object_store_refuses_stays_on_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(self: SweepDir, path: Path) -> None:
        raise InputError("The store refuses to write.")

    monkeypatch.setattr(SweepDir, "send", refuse)
    send(SweepDir(tmp_path), tmp_path / "report")
    said = capsys.readouterr().err
    assert "refuses to write" in said
    assert str(tmp_path / "report") in said


def test_a_bundle_that_another_has_unpacked_is_read(folder: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cache is the other's, and may be read alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "store"))
    packed = folder / "b.tar.gz"
    CliRunner().invoke(app, ["bundle", str(folder / "a.yaml"), "--out", str(packed)], catch_exceptions=False)
    packed.chmod(0o644)
    monkeypatch.delenv("RT_SCALE_STORE")
    assert "1 of 2 runs finished" in call("report", packed).stdout
