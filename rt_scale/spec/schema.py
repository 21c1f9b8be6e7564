"""JSON schemas of spec and sweep files, for editors that complete and check YAML."""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import json
import textwrap

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.kinds import DEFAULT, KINDS
from rt_scale.spec.part import Document
from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LOOSE = "Changes"
_REQUIRE = ("required", "allOf")
"""What demands fields of a part."""


class _Described(GenerateJsonSchema):
    """Gives fields the docstrings below them; pydantic's own ``use_attribute_docstrings`` slows down every import."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        """The JSON schema of a model."""
        model: type[BaseModel] = schema["cls"]
        found, texts = super().model_schema(schema), field_docs(model)
        for name, field in model.model_fields.items():
            found["properties"][field.alias or name].setdefault("description", texts[name])
        return found


@functools.cache
def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The docstring of each field of a model that has one, inherited ones included."""
    found = {}
    parts = model.__mro__[: model.__mro__.index(BaseModel)]
    for part in reversed(parts):
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        assert isinstance(defined, ast.ClassDef)
        for pair in itertools.pairwise(defined.body):
            match pair:
                case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                    found[name] = inspect.cleandoc(text)
    return found


def described(model: type[BaseModel]) -> Document:
    """The JSON schema of a model alone, its fields with the docstrings below them."""
    return model.model_json_schema(schema_generator=_Described)


def run_schema() -> Document:
    """The JSON schema of a single spec file."""
    definitions = _definitions()
    return {"$schema": DIALECT, **definitions["RunSpec"], "$defs": definitions}


def sweep_schema() -> Document:
    """The JSON schema of a sweep file; no field of ``base`` is required, since axes may give it."""
    schema = described(SweepSpec)
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
    changed = {
        "type": "object",
        "properties": {"same_but": {"$ref": f"#/$defs/RunSpec{_LOOSE}", "description": "The fields that differ."}},
        "required": ["same_but"],
        "additionalProperties": False,
    }
    for part in ("StartFrom", "NetworkOf"):
        run = whole[part]["properties"]["run"]
        del run["$ref"]  # TrainingSpec
        run["anyOf"] = [{"const": "same"}, changed, {"$ref": "#/$defs/RunSpec"}]
    whole["Family"]["properties"]["run"]["$ref"] = "#/$defs/RunSpec"
    return whole | _loose(whole)


def _kinds() -> Document:
    """Every part, and RunSpec with the fields of all kinds."""
    definitions: Document = {}
    runs: dict[str, Document] = {}
    for kind in KINDS.values():
        schema = described(kind.spec)
        definitions |= schema.pop("$defs", {})
        # A model within itself is a definition of its own.
        runs[kind.spec.__name__] = definitions.pop(kind.spec.__name__, schema)
    definitions.pop(TrainingSpec.__name__, None)
    properties: dict[str, Document] = {}
    for run in runs.values():
        for name, field in run["properties"].items():
            before = properties.setdefault(name, field)
            if field not in (before, *before.get("anyOf", ())):  # kinds may have different fields of one name
                properties[name] = {"anyOf": [before, field], "description": "Of several kinds of runs."}
    words = "\n\n".join(f"{name}: {kind.spec.__doc__}" for name, kind in KINDS.items())
    properties["kind"] = {"enum": list(KINDS), "default": DEFAULT, "type": "string", "description": words}
    required = [
        {
            "if": {"properties": {"kind": {"const": name}}, **({} if name == DEFAULT else {"required": ["kind"]})},
            "then": {"required": runs[kind.spec.__name__].get("required", [])},
        }
        for name, kind in KINDS.items()
    ]
    definitions["RunSpec"] = {
        "type": "object",
        "description": inspect.getdoc(RunSpec),
        "properties": properties,
        "allOf": required,
        "additionalProperties": False,
    }
    return definitions


def _loose(whole: Document) -> Document:
    """Copies, without required fields, of the parts that have any or contain a part that does."""
    texts = {name: json.dumps(part) for name, part in whole.items()}
    names = {name for name, part in whole.items() if any(key in part for key in _REQUIRE)}
    while more := {name for name in whole if name not in names and any(_reference(n) in texts[name] for n in names)}:
        names |= more
    copies = {}
    for name in sorted(names):
        text = texts[name]
        for other in names:
            text = text.replace(_reference(other), _reference(f"{other}{_LOOSE}"))
        copies[f"{name}{_LOOSE}"] = {key: value for key, value in json.loads(text).items() if key not in _REQUIRE}
    return copies


def _reference(name: str) -> str:
    """The JSON text of a reference to a definition, with both quotes."""
    return f'"#/$defs/{name}"'
