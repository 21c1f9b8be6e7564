"""JSON schemas of spec and sweep files, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from rt_scale.spec.run import RunSpec
from rt_scale.spec.sweep import SweepSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """The JSON schema of a single spec file."""
    return {"$schema": DIALECT, **RunSpec.model_json_schema()}


def sweep_schema() -> dict[str, Any]:
    """The JSON schema of a sweep file.

    ``base`` is a RunSpec in which nothing is required, since axes may give what it leaves open.
    """
    schema = SweepSpec.model_json_schema()
    base = RunSpec.model_json_schema()
    definitions = {**base.pop("$defs", {}), **schema.pop("$defs", {})}
    for part in (base, *definitions.values()):
        if "sweep" not in part.get("title", "").lower():
            part.pop("required", None)
    description = schema["properties"]["base"].get("description")
    schema["properties"]["base"] = {**base, "description": description}
    return {"$schema": DIALECT, **schema, "$defs": definitions}
