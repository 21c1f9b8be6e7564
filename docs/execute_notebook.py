"""Executes the cells of notebooks in this process and stores what they really gave, where there is no Jupyter.

    python docs/execute_notebook.py docs/examples/random_teacher.ipynb

A cell's last expression is shown as Jupyter shows it: as PNG, HTML and text, as far as its value has them.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

FORMS = {"image/png": "_repr_png_", "text/html": "_repr_html_"}


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """The cells with code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def execute(notebook: dict[str, Any]) -> dict[str, Any]:
    """Execute the cells in order and replace their outputs; returns the names that they defined."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        cell["execution_count"], cell["outputs"] = number, outputs_of("".join(cell["source"]), names, number)
    return names


def outputs_of(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Execute one cell; what it prints and its last expression, as outputs of nbformat 4."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
    if value is not None:
        shown = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": _forms(value)}
        outputs.append(shown)
    return outputs


def _forms(value: object) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for form, method in FORMS.items():
        made = getattr(value, method, lambda: None)()
        if isinstance(made, bytes):
            data[form] = base64.b64encode(made).decode()
        elif made is not None:
            data[form] = made.splitlines(keepends=True)
    return data | {"text/plain": repr(value).splitlines(keepends=True)}


def main() -> None:
    """Execute the notebooks that are named, each in an empty folder."""
    for path in map(Path, sys.argv[1:]):
        path = path.absolute()
        notebook = json.loads(path.read_text())
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            os.environ["RT_SCALE_STORE"] = str(Path(folder) / "rt-store")
            execute(notebook)
        path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
