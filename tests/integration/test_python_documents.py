"""The documents on the Python API are executed: the page, the example, the notebook and the package's docstring."""

from __future__ import annotations

import ast
import contextlib
import doctest
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

import rt_scale as rt
from rt_scale.cli import app

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "examples" / "random_teacher.ipynb"


@pytest.fixture
def folder(tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, with its own store."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "rt-store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(data_dir))
    return tmp_path


def test_the_page_is_one_session(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    session: dict[str, Any] = {}
    blocks = re.findall(r"^```(python|yaml)\n(.*?)^```", (DOCS / "python.md").read_text(), re.S | re.M)
    assert len(blocks) > 8
    for language, text in blocks:
        if language == "yaml":
            name = text.partition("\n")[0].removeprefix("# ")
            (folder / name).write_text(text)
        else:
            exec(compile(text, "docs/python.md", "exec"), session)
    assert session["page"].is_file()
    assert session["embeddings"].shape == (1, session["run"].encoder().embed_dim)
    assert "did you mean 'alpha'" in capfd.readouterr().out
    assert not session["sweep"].failed


def test_the_readme_is_one_session(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS.parent / "README.md").read_text()
    (spec,), (code,) = (re.findall(rf"^```{each}\n(.*?)^```", text, re.S | re.M) for each in ("yaml", "python"))
    (folder / "spec.yaml").write_text(spec)
    (command,) = re.findall(r"^rt-scale (run [^#]*)#", text, re.M)
    done = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    session: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), session)
    assert 0.1 < float(capsys.readouterr().out) <= 1
    assert [each.name for each in rt.open_store().runs] == [session["run"].name]


def test_the_docstring_of_the_package() -> None:
    failed, tried = doctest.testmod(rt)
    assert tried
    assert not failed


def test_the_example_is_short_and_finds_what_is_alike(folder: Path) -> None:
    program = DOCS / "examples" / "use_from_python.py"
    assert len(program.read_text().splitlines()) < 60
    (folder / "images").mkdir()
    for name, grey in {"black": 0, "night": 10, "white": 255, "snow": 245}.items():
        image = Image.new("L", (20, 20), grey)
        image.putpixel((10, 10), 128)
        image.save(folder / "images" / f"{name}.png")
    command = [sys.executable, program, "images"]
    for _ in range(2):
        ended = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        alike = dict(line.split(" (cosine")[0].split(": ") for line in ended.stdout.splitlines() if "cosine" in line)
        assert alike["black.png"] == "night.png"
        assert alike["white.png"] == "snow.png"
    assert "epoch" not in ended.stdout  # read, not computed again


@pytest.fixture
def notebook() -> dict[str, Any]:
    read: dict[str, Any] = json.loads(NOTEBOOK.read_text())
    return read


def test_the_notebook_keeps_what_its_cells_gave(notebook: dict[str, Any]) -> None:
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    shown = json.dumps([cell["outputs"] for cell in cells])
    assert "image/png" in shown
    assert "torch.Size([10, 128])" in shown
    (embedding,) = (source for cell in cells if "rt.run(" in (source := "".join(cell["source"])))
    assert len(ast.parse(embedding).body) <= 6


def test_the_notebook_runs(notebook: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("execute_notebook", DOCS / "execute_notebook.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load = rt.load
    small = {"encoder.name": "convnet_4_1", "train.epochs": 1, "probe.epochs": 1}
    monkeypatch.setattr(rt, "load", lambda spec: load(spec, small), raising=False)
    kept = [cell["outputs"] for cell in module.code_cells(notebook)]
    with contextlib.chdir(folder):
        names = module.execute(notebook)
    assert names["run"].spec.train.epochs == 1
    again = [cell["outputs"] for cell in module.code_cells(notebook)]
    # The same kinds of outputs, cell by cell; the numbers are of smaller networks.
    assert [_kinds(each) for each in again] == [_kinds(each) for each in kept]


def _kinds(outputs: list[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    return [(each["output_type"], sorted(each.get("data", {}))) for each in outputs]
