"""JSON schemas of spec and sweep files, for editors that complete and check YAML."""

from __future__ import annotations

import inspect
import json

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.kinds import DEFAULT, KINDS
from rt_scale.spec.part import Document
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LOOSE = "Changes"


def run_schema() -> Document:
    """The JSON schema of a single spec file."""
    definitions = _definitions()
    return {"$schema": DIALECT, **definitions["RunSpec"], "$defs": definitions}


def sweep_schema() -> Document:
    """The JSON schema of a sweep file; no field of ``base`` is required, since axes may give it."""
    schema = SweepSpec.model_json_schema()
    definitions = _definitions() | schema.pop("$defs", {})
    description = schema["properties"]["base"].get("description")
    schema["properties"]["base"] = {**definitions[f"RunSpec{_LOOSE}"], "description": description}
    return {"$schema": DIALECT, **schema, "$defs": definitions}


def _definitions() -> Document:
    """Every part of a spec as files may write it, and ``<part>Changes`` for each part with required fields."""
    whole = _kinds()
    whole["EncoderSpec"]["required"].remove("norm")  # the encoder has a default
    whole["EncoderSpec"]["properties"]["norm"]["enum"].append(None)
    del whole["EncoderSpec"]["properties"]["norm"]["type"]
    for part in whole.values():
        if (within := part.get("properties", {}).get("run", {})).get("$ref") == f"#/$defs/{TrainingSpec.__name__}":
            within["$ref"] = "#/$defs/RunSpec"
    run = whole["StartFrom"]["properties"]["run"]
    changed = {
        "type": "object",
        "properties": {"same_but": {"$ref": f"#/$defs/RunSpec{_LOOSE}", "description": "The fields that differ."}},
        "required": ["same_but"],
        "additionalProperties": False,
    }
    del run["$ref"]
    run["anyOf"] = [{"const": "same"}, changed, {"$ref": "#/$defs/RunSpec"}]
    return whole | _loose(whole)


def _kinds() -> Document:
    """Every part, and RunSpec with the fields of all kinds."""
    definitions: Document = {}
    runs: dict[str, Document] = {}
    for kind in KINDS.values():
        schema = kind.spec.model_json_schema()
        definitions |= schema.pop("$defs", {})
        # A model within itself is a definition of its own.
        runs[kind.spec.__name__] = definitions.pop(kind.spec.__name__, schema)
    definitions.pop(TrainingSpec.__name__, None)
    properties = {name: field for run in runs.values() for name, field in run["properties"].items()}
    words = "\n\n".join(f"{name}: {kind.spec.__doc__}" for name, kind in KINDS.items())
    properties["kind"] = {"enum": list(KINDS), "default": DEFAULT, "type": "string", "description": words}
    kinds = zip(KINDS, runs.values(), strict=True)
    definitions["RunSpec"] = {
        "type": "object",
        "description": inspect.getdoc(RunSpec),
        "properties": properties,
        "required": [],
        "allOf": [_demands(name, run.get("required", [])) for name, run in kinds],
        "additionalProperties": False,
    }
    return definitions


def _demands(kind: str, required: list[str]) -> Document:
    """What a run of a kind must have."""
    named: Document = {"properties": {"kind": {"const": kind}}}
    return {"if": named if kind == DEFAULT else {**named, "required": ["kind"]}, "then": {"required": required}}


def _loose(whole: Document) -> Document:
    """Copies, without required fields, of the parts that have any or contain a part that does."""
    texts = {name: json.dumps(part) for name, part in whole.items()}
    names = {name for name, part in whole.items() if "required" in part}
    while more := {name for name in whole if name not in names and any(_reference(n) in texts[name] for n in names)}:
        names |= more
    copies = {}
    for name in sorted(names):
        text = texts[name]
        for other in names:
            text = text.replace(_reference(other), _reference(f"{other}{_LOOSE}"))
        copies[f"{name}{_LOOSE}"] = {
            key: value for key, value in json.loads(text).items() if key not in ("required", "allOf")
        }
    return copies


def _reference(name: str) -> str:
    """The JSON text of a reference to a definition, with both quotes."""
    return f'"#/$defs/{name}"'
