"""The picture of the folders is that of the imports, and the page names files that exist."""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from rt_scale.spec.kinds import KINDS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


@pytest.fixture
def drawing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs" / "draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_todays(drawing: ModuleType) -> None:
    assert drawing.draw() == (ROOT / "docs" / "architecture.svg").read_text(), "run docs/draw_architecture.py"


def test_every_folder_is_in_it(drawing: ModuleType) -> None:
    folders = {path.parent.name for path in (ROOT / "rt_scale").glob("*/__init__.py")}
    assert {name for row in drawing.layers() for name in row} == folders


def test_nothing_but_its_own_files_knows_a_kind_of_run() -> None:
    """No other file names a kind, or the spec of a single one."""
    modules = (name.partition(":")[0] for kind in KINDS.values() for name in (kind.experiment, *kind.report) if name)
    files = [f"{name.removeprefix('rt_scale.').replace('.', '/')}.py" for name in modules]
    own = ("spec/kinds.py", "spec/experiments/", "experiments/plane.py", *files)
    specs = {kind.spec.__name__ for kind in KINDS.values()}
    found = []
    for path in sorted((ROOT / "rt_scale").rglob("*.py")):
        file = path.relative_to(ROOT / "rt_scale").as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in KINDS
            if (named or (isinstance(node, ast.Name) and node.id in specs)) and not file.startswith(own):
                found.append(f"{file}:{node.lineno}")
    assert found == []
    templates = [*(ROOT / "rt_scale").rglob("*.md"), *(ROOT / "rt_scale").rglob("*.html")]
    assert [path.name for path in templates if ".kind" in path.read_text()] == []


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r"`([a-z_]+/[a-z_/.]*)`", PAGE)
    assert len(named) > 30
    package = ROOT / "rt_scale"
    assert [name for name in named if not any((root / name).exists() for root in (package, ROOT))] == []
