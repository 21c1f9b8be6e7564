"""Problems of a document by a JSON schema, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jsonschema.exceptions import ValidationError
from jsonschema.validators import validator_for

from rt_scale.clusters.check.document import Document, Findings, Keys, dig, unknown
from rt_scale.spec.errors import cut, guess, shown

TYPES = {
    "object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "null": "null",
}  # fmt: skip


def check_schema(schema: Mapping[str, Any], document: Document, found: Findings, keys: Keys = ()) -> None:
    """Add the problems of the value at ``keys`` in ``document``."""
    for error in validator_for(schema)(schema).iter_errors(document.get(*keys)):
        for where, text in _told(error):
            found.wrong_at(document, (*keys, *where), text)


def strict(schema: Any) -> Any:
    """A copy of a schema of Kubernetes or Google in which every mapping allows its own fields alone."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    made = {key: strict(each) for key, each in schema.items()}
    properties = made.get("properties")
    if isinstance(properties, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        made.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if schema.get("nullable") is True and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    return made


def _told(error: ValidationError) -> Iterator[tuple[Keys, str]]:
    """Where an error is, relative to the instance, and its text; one for each unknown field."""
    where: Keys = tuple(error.absolute_path)
    given = error.instance
    if error.validator == "additionalProperties" and isinstance(given, Mapping):
        known = list(mapping_of(error.schema, "properties"))
        for key in _extra(given, error.schema):
            yield (*where, key), unknown(str(key), [name for name in known if name not in given] or known)
    elif error.validator == "type":
        yield where, _of_type(given, error.validator_value)
    elif error.validator == "enum":
        allowed = [str(each) for each in error.validator_value]
        shown_names = "" if len(allowed) > 30 else f" allowed: {', '.join(allowed)}."
        yield where, f"{shown(given)} is not allowed;{guess(str(given), allowed)}{shown_names}"
    elif error.validator == "required":
        missing = re.findall(r"^'([^']+)' is a required", error.message)
        yield where, f"{', '.join(missing)} is missing; add it"
    elif error.validator in ("anyOf", "oneOf"):
        types = [each.get("type") for each in error.validator_value if isinstance(each, Mapping)]
        texts = [TYPES[each] for each in types if each in TYPES]
        yield where, f"{shown(given)} was given; allowed: {' or '.join(texts) or cut(error.message)}"
    elif error.validator == "minimum":
        yield where, f"{shown(given)} was given; the least is {error.validator_value}"
    elif error.validator == "maximum":
        yield where, f"{shown(given)} was given; the most is {error.validator_value}"
    elif error.validator == "pattern":
        yield where, f"{shown(given)} was given; allowed is what matches {error.validator_value}"
    else:
        yield where, cut(error.message, 300)


def mapping_of(schema: Any, key: str) -> Mapping[str, Any]:
    """A mapping inside a schema; empty if there is none."""
    return dig(schema, key) or {}


def _extra(given: Mapping[str, Any], schema: Any) -> Iterable[str]:
    patterns = mapping_of(schema, "patternProperties")
    for key in given:
        if key not in mapping_of(schema, "properties") and not any(re.search(each, str(key)) for each in patterns):
            yield key


def _of_type(given: Any, allowed: str | list[str]) -> str:
    names = [allowed] if isinstance(allowed, str) else allowed
    hint = ""
    if isinstance(given, str) and {"integer", "number", "boolean"} & set(names):
        hint = "; write it without quotes" if re.fullmatch(r"-?[0-9.]+|true|false", given) else ""
    elif "string" in names and isinstance(given, bool | int | float):
        hint = "; write it in quotes"
    return f"{shown(given)} was given; allowed: {' or '.join(TYPES.get(each, each) for each in names)}{hint}"
