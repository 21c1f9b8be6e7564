"""Parts of a spec that may name a plugin, ``package.module:attribute``, with its arguments and its source's SHA-256."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue, WithJsonSchema, field_validator, model_validator

from rt_scale.plugins import is_reference
from rt_scale.spec.part import Part, added, json_text

Argument = Annotated[JsonValue, WithJsonSchema({})]
"""What a file can hold: text, a number, true, false, null, a list or a mapping."""


class Plugged(Part):
    """A part whose ``name`` may be a plugin's; ``args`` and ``source`` belong to plugins alone."""

    args: dict[str, Argument] | None = added(None)
    """A plugin's arguments, by name, e.g. {width: 32}."""
    source: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = added(None)
    """SHA-256 of the file that defines the plugin; filled in when a file of yours is read."""

    @property
    def plugin(self) -> str | None:
        """The plugin's reference; None for what rt-scale has itself."""
        name: str = self.name  # type: ignore[attr-defined]  # every subclass has one
        return name if is_reference(name) else None

    @property
    def arguments(self) -> Mapping[str, Any]:
        """The plugin's arguments, a copy, which it may change."""
        return copy.deepcopy(self.args or {})

    @field_validator("args")
    @classmethod
    def _none_for_empty(cls, args: dict[str, Argument] | None) -> dict[str, Argument] | None:
        """Equal runs have equal names."""
        return args or None

    @model_validator(mode="after")
    def _of_a_plugin(self) -> Plugged:
        name, plugin = getattr(self, "name", None), self.plugin
        if plugin is None and (self.args is not None or self.source is not None):
            raise ValueError(f"args and source belong to plugins, and '{name}' is none: leave them out")
        if plugin is not None and self.source is None:
            raise ValueError(
                f"'{plugin}' is a plugin, and its source is missing: read the spec from a file, or with rt_scale.load, "
                "which fills it in"
            )
        return self


def data_name(reference: str, args: Mapping[str, object] | None, source: str) -> str:
    """The name that the prepared data set of a plugin has: its attribute, and 8 digits of a digest of everything."""
    digest = hashlib.sha256(json_text([reference, args or None, source]).encode()).hexdigest()
    return f"{reference.partition(':')[2].strip('_')[:40] or 'data'}-{digest[:8]}"
