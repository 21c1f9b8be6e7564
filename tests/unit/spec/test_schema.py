"""JSON schemas for editors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rt_scale.spec.document import dotted_fields
from rt_scale.spec.run import RunSpec
from rt_scale.spec.schema import run_schema, sweep_schema
from rt_scale.spec.sweep import load_sweep
from rt_scale.spec.yaml_files import parse_yaml

SWEEPS = Path(__file__).parents[3] / "sweeps"
SMALL: dict[str, Any] = {"data": {"name": "digits"}, "encoder": {"name": "resnet18"}}


def valid(schema: dict[str, Any], document: Any) -> bool:
    return Draft202012Validator(schema).is_valid(document)


def sweep_of(base: dict[str, Any]) -> dict[str, Any]:
    return {"name": "s", "base": base}


def test_the_committed_schema_is_the_current_one() -> None:
    assert json.loads((SWEEPS / "schema.json").read_text()) == sweep_schema()


@pytest.mark.parametrize("schema", [run_schema(), sweep_schema()], ids=["run", "sweep"])
def test_they_are_json_schemas_whose_references_lead_somewhere(schema: dict[str, Any]) -> None:
    Draft202012Validator.check_schema(schema)
    named = {text.split('"')[0] for text in json.dumps(schema).split('"#/$defs/')[1:]}
    assert "StartFrom" in named
    assert named <= set(schema["$defs"])


def test_every_field_has_words_for_the_editor() -> None:
    schema = run_schema()
    for part in (schema, *schema["$defs"].values()):
        for name, field in part["properties"].items():
            assert field.get("description"), name


def properties(schema: dict[str, Any], part: dict[str, Any], path: list[str]) -> dict[str, Any]:
    """What an editor completes below a dotted field."""
    for name in path:
        field = part["properties"][name]
        options = [field, *field.get("anyOf", [])]
        (reference,) = (option["$ref"] for option in options if "$ref" in option)
        part = schema["$defs"][reference.removeprefix("#/$defs/")]
    found: dict[str, Any] = part["properties"]
    return found


@pytest.mark.parametrize("within", [[], ["teacher", "start_from", "run"], ["student", "start_from", "run"] * 2])
def test_every_field_is_completed_within_other_runs_too(within: list[str]) -> None:
    run, sweep = run_schema(), sweep_schema()
    for schema, part in ((run, run), (sweep, sweep["properties"]["base"])):
        for field in dotted_fields(RunSpec):
            *parents, last = field.split(".")
            assert last in properties(schema, part, [*within, *parents]), field


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"encoder": {"name": "vgg11", "norm": None}},
        {"teacher": {"start_from": {"run": "same"}, "update": "ema", "momentum": "cosine(0.996, 1)"}},
        {"student": {"start_from": {"run": {"same_but": {"student": {"alpha": 1}}}, "take": "init"}}},
        {"teacher": {"start_from": {"run": {"same_but": {"teacher": {"start_from": {"run": "same"}}}}}}},
        {"teacher": {"start_from": {"run": SMALL}}},
        {"augment": {"kind": "multicrop", "blur": {"sigma": [0.1, 1]}}, "objective": {"pairing": "all"}},
        {"projector": {"parts": "-/lb/fn/wn/l/-"}, "probe": {"every": "1ep"}, "train": {"freeze_last": None}},
    ],
)
def test_what_a_file_may_hold_passes(changes: dict[str, Any]) -> None:
    assert valid(run_schema(), {**SMALL, **changes})
    assert valid(sweep_schema(), sweep_of({**SMALL, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {"teacher": {"start_from": {"run": "sme"}}},
        {"teacher": {"start_from": {"run": {"same_but": {"studnt": {}}}}}},
        {"teacher": {"start_from": {"run": {"same_but": {}, "seeds": {}}}}},
        {"teacher": {"start_from": {"run": "same", "take": "end"}}},
        {"student": {"alhpa": 1}},
        {"encoder": {"name": "vgg11", "norm": "bach"}},
        {"kind": "prune"},
    ],
)
def test_what_a_file_may_not_hold_is_marked(changes: dict[str, Any]) -> None:
    assert not valid(run_schema(), {**SMALL, **changes})
    assert not valid(sweep_schema(), sweep_of({**SMALL, **changes}))


@pytest.mark.parametrize(
    "document",
    [{"encoder": {"name": "vgg11"}}, {**SMALL, "data": {}}, {**SMALL, "teacher": {"start_from": {"take": "init"}}}],
)
def test_what_a_run_must_have_axes_may_give(document: dict[str, Any]) -> None:
    assert not valid(run_schema(), document)
    assert valid(sweep_schema(), sweep_of(document))
    assert not valid(sweep_schema(), {"base": document})


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("**/*.yaml")), ids=lambda path: path.name)
def test_every_sweep_file_expands_and_passes(path: Path) -> None:
    sweep, points = load_sweep(path)
    assert points
    assert set(sweep.base) <= set(sweep_schema()["properties"]["base"]["properties"])
    problems = Draft202012Validator(sweep_schema()).iter_errors(parse_yaml(path.read_text(), str(path)))
    assert [problem.message for problem in problems] == []
