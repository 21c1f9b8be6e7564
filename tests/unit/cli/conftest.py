"""`rt-scale plan` in an empty store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rt_scale.cli import app
from rt_scale.plan import measure
from rt_scale.plan import plan as plan_module
from tests.unit.cli.planning import PRICES, SWEEP


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(SWEEP))
    return path


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(yaml.safe_dump(PRICES))
    return path


@pytest.fixture
def nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations are timed as briefly as possible."""
    monkeypatch.setattr(measure, "SECONDS", 0.0)
    monkeypatch.setattr(plan_module, "START", 5.0)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nothing_is_timed: None) -> Callable[..., str]:
    monkeypatch.setenv("RT_SCALE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("RT_SCALE_DATA", str(tmp_path / "data"))

    def call(*arguments: object) -> str:
        ended = CliRunner().invoke(app, ["plan", *map(str, arguments)], catch_exceptions=False)
        assert ended.exit_code == 0, ended.output
        return " ".join(ended.stdout.split())

    return call
