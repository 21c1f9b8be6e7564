from __future__ import annotations

import inspect
import os
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.cli.options import read_path


def functions(group: typer.Typer) -> Iterator[Callable[..., Any]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from functions(inner.typer_instance)


def test_every_path_of_every_command_knows_the_tilde() -> None:
    """The shell leaves ``--out=~/x`` as it is, and an empty path would be the current folder."""
    paths = []
    for function in functions(app):
        hints = typing.get_type_hints(function, include_extras=True)
        for name in inspect.signature(function).parameters:
            kind, *info = typing.get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
            if "Path" in str(kind):
                paths.append(name)
                assert info, (function.__name__, name)
                assert info[0].parser is read_path, f"{function.__name__}: give {name} parser=read_path"
    assert {"files", "spec", "out", "source", "summary", "price", "data_dir"} <= set(paths)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["data", "list", "--data-dir", ""], "The path is empty"),
        (["data", "list", "--data-dir=s3://bucket"], "an address"),
        (["sweep", "~nobody-here/a.yaml"], "no user 'nobody-here'"),
        (["report", "a.yaml", "--summary=~nobody-here/[/x]"], "nobody-here/[/x]"),
    ],
    ids=lambda given: given[0] if isinstance(given, list) else "",
)
def test_a_path_that_is_none_is_refused_with_its_option(arguments: list[str], why: str) -> None:
    ended = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert ended.exit_code == 2
    assert why in ended.output
    assert "Invalid value for " in ended.output
    assert not isinstance(ended.exception, Exception)


def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RT_SCALE_STORE", "~/store")
    ended = CliRunner().invoke(app, ["data", "prepare", "digits", "--data-dir=~/data"], catch_exceptions=False)
    assert ended.exit_code == 0
    ended = CliRunner().invoke(app, ["data", "show", "digits", "--data-dir=~/data", "--out=~/digits.png"])
    assert ended.stdout == f"{tmp_path / 'home' / 'digits.png'}\n"
    ended = CliRunner().invoke(app, ["gc", "--store=~/other"], catch_exceptions=False)
    assert ended.stdout.replace("\n", "").startswith(f"{tmp_path / 'home' / 'other'}: ")
    assert os.listdir(tmp_path) == ["home"]
