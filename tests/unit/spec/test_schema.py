"""JSON schemas for editors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rt_scale.spec.schema import run_schema, sweep_schema

SWEEPS = Path(__file__).parents[3] / "sweeps"


def test_the_committed_schema_is_the_current_one() -> None:
    assert json.loads((SWEEPS / "schema.json").read_text()) == sweep_schema()


def test_every_field_has_words_for_the_editor() -> None:
    schema = run_schema()
    for part in (schema, *schema["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description"), name


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("**/*.yaml")), ids=lambda path: path.name)
def test_every_sweep_file_expands(path: Path) -> None:
    from rt_scale.spec.sweep import load_sweep

    sweep, points = load_sweep(path)
    assert points
    assert set(sweep.base) <= set(sweep_schema()["properties"]["base"]["properties"])
