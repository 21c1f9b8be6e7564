"""Writes docs/fields.md: every field of specs and sweep files, from the JSON schemas of their models.

.venv/bin/python docs/write_fields.py
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.kinds import DEFAULT, KINDS
from rt_scale.spec.part import MOST, Document
from rt_scale.spec.schema import described
from rt_scale.spec.sweep import SweepSpec

PAGE = Path(__file__).parent / "fields.md"
UNITS = {
    "images": "data.samples train.batch_size probe.curvature.images probe.layers.images "
    "connect.estimation_images connect.images landscape.images landscape.probe_images",
    "embeddings": "probe.batch_size",
    "pixels": "data.size augment.padding augment.global_size augment.local_size augment.blur.sigma",
    "epochs": "train.epochs probe.epochs",
    "epochs (ep) or steps (it)": "train.freeze_last train.stop probe.every prune.rewind explore.stop.asha.grace "
    "explore.stop.median.grace",
    "units": "projector.hidden projector.bottleneck projector.out_dim",
    "channels": "data.channels",
    "deviations of normalised pixels": "data.sigma",
    "share of images": "objective.label_noise",
    "share of views": "augment.flip augment.grayscale augment.solarize augment.jitter.probability augment.blur.first "
    "augment.blur.others augment.blur.local",
    "share of the area": "augment.global_scale augment.local_scale",
    "width / height": "augment.ratio",
    "teachers": "teacher.count",
    "views": "augment.global_views augment.local_views",
    "share of the range": "augment.solarize_threshold augment.jitter.brightness augment.jitter.contrast "
    "augment.jitter.saturation",
    "share of the circle": "augment.jitter.hue",
    "neighbours": "probe.knn",
    "eigenvalues": "probe.curvature.eigenvalues",
    "products": "probe.curvature.iterations",
    "vectors": "probe.curvature.vectors",
    "share of weights": "prune.fraction",
    "rounds": "prune.round",
    "points": "connect.points landscape.points",
    "distances to x and y": "landscape.window",
    "runs": "landscape.split launch.pack explore.stop.median.min_runs explore.search.optuna.runs",
    "cores": "launch.cpus",
    "GPUs": "launch.gpus",
    "GiB": "launch.memory",
    "processes": "launch.workers",
    "tries": "launch.retries",
    "seeds": "seeds",
    "-": "encoder.width teacher.width teacher.momentum teacher.temperature teacher.center student.alpha "
    "student.epsilon student.temperature student.center train.optimizer.lr train.optimizer.weight_decay "
    "train.optimizer.momentum train.optimizer.clip probe.lr probe.l2 seeds.teacher seeds.student "
    "seeds.data seeds.order seeds.probe landscape.share explore.stop.asha.reduction explore.search.optuna.seed",
}
"""Unit -> the fields of numbers that have it; '-': a pure number, such as a ratio or a seed."""
RANGES = {
    "teacher.momentum": "0 to 1",
    "teacher.center": "0 to 1",
    "student.center": "0 to 1",
    "teacher.temperature": "> 0",
    "student.temperature": "> 0",
    "train.optimizer.lr": "> 0",
    "train.optimizer.weight_decay": ">= 0",
    "augment.ratio": "> 0, <= 16",
    "augment.blur.sigma": "> 0, <= 16",
}
"""Ranges that validators check and schemas do not have."""
DEFAULTS = {"encoder.norm": "the encoder's"}
TITLES = {"StartFrom": "start_from", "NetworkOf": "A network of a run", "Family": "Networks of several runs"}
"""Titles of parts that several fields have."""
LAST = ("reader", "args", "source")
"""What only plugins need."""
UNIT_OF = {field: unit for unit, fields in UNITS.items() for field in fields.split()}
TYPES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true, false",
    "string": "text",
    "object": "mapping",
    "array": "list",
}
START = """# All fields

Made by `docs/write_fields.py` from the models in `rt_scale/spec`; a test holds them equal. A dotted path, such as
`train.optimizer.lr`, is what `--set` and `axes` take. A part has a table of its own. A duration is `5ep` (epochs) or
`500it` (optimiser steps). A schedule is a number that changes during training, pieces joined by '+': `constant(v)`,
`linear(from, to)`, `cosine(from, to)`, `exponential(from, to)` or `multistep(from, factor, 80ep, 120ep)`, each but
the last with a length, such as `linear(0, 5e-4, 10ep) + cosine(5e-4, 1e-6)`.

"""
HEAD = "| field | type | range | unit | default | meaning |\n| --- | --- | --- | --- | --- | --- |\n"


def choices(field: Document) -> Iterator[Document]:
    """The alternatives of a field's schema, each without alternatives; a list's are those of its elements."""
    if "anyOf" in field:
        for each in field["anyOf"]:
            yield from choices(each)
    elif "items" in field:
        yield from ({**each, "list": True} for each in choices(field["items"]))
    elif "prefixItems" in field:
        yield {**field["prefixItems"][0], "pair": True}
    else:
        yield field


def _type(field: Document) -> str:
    found = []
    for each in choices(field):
        if "$ref" in each:
            name = "run" if each["$ref"].endswith("/TrainingSpec") else "part"
        elif "enum" in each or "const" in each:
            name = ", ".join(f"`{value}`" for value in each.get("enum", [each.get("const")]))
        elif each.get("type") == "null":
            name = "null"
        elif str(each.get("pattern", "")).endswith("(ep|it)$"):
            name = "duration"
        else:
            kind = each.get("type", "any")
            name = " or ".join(TYPES.get(each, each) for each in ([kind] if isinstance(kind, str) else kind))
        if each.get("pair"):
            name = f"two of: {name}"
        found.append(f"list of: {name}" if each.get("list") else name)
    text = " or ".join(dict.fromkeys(found))
    return text.replace("number or text", "number or schedule")


def _range(field: Document) -> str:
    for each in choices(field):
        low, above = each.get("minimum"), each.get("exclusiveMinimum")
        high, below = each.get("maximum"), each.get("exclusiveMaximum")
        high = None if high == MOST else high
        if low is not None and high is not None:
            return f"{low:,} to {high:,}"
        bounds = {">=": low, ">": above, "<=": high, "<": below}
        if text := ", ".join(f"{sign} {bound:,}" for sign, bound in bounds.items() if bound is not None):
            return text
    return ""


def _default(field: Document, required: bool) -> str:
    if required:
        return "required"
    if "default" not in field or isinstance(field["default"], dict):
        return "its own" if any("$ref" in each for each in choices(field)) else "{}"
    return f"`{json.dumps(field['default'])}`" if not isinstance(field["default"], str) else f"`{field['default']}`"


def _unit(path: str, field: Document) -> str:
    numbers = any(
        each.get("type") in ("integer", "number") or ("pattern" in each and "ep|it" in each["pattern"])
        for each in choices(field)
    )
    if numbers and path not in UNIT_OF:
        raise KeyError(f"give the unit of {path} in UNITS of docs/write_fields.py")
    return "" if any("$ref" in each for each in choices(field)) else UNIT_OF.get(path, "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<").replace("*", "\\*")


class Page:
    """The text so far; each part is described once."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.seen = {"TrainingSpec"}

    def part(self, path: str, schema: Document, parts: Document, level: int, title: str) -> None:
        """A table of the fields of a part, then the parts within it. ``path``: where it is, empty for a file."""
        self.text.append(f"{'#' * level} {title}\n\n{_cell(schema.get('description', ''))}\n\n{HEAD}")
        inner = []
        for name in sorted(schema["properties"], key=lambda name: name in LAST):
            field, within = schema["properties"][name], f"{path}.{name}".lstrip(".")
            default = DEFAULTS.get(within) or _default(field, name in schema.get("required", ()))
            cells = (_type(field), RANGES.get(within) or _range(field), _unit(within, field), default)
            self.text.append(f"| `{name}` | {' | '.join(map(_cell, (*cells, field.get('description', ''))))} |\n")
            inner += [(within, each["$ref"].rpartition("/")[2]) for each in choices(field) if "$ref" in each]
        self.text.append("\n")
        for within, name in inner:
            if name not in self.seen:
                self.seen.add(name)
                self.part(within, parts[name], parts, min(level + 1, 4), TITLES.get(name, within))


def page() -> str:
    """The text of docs/fields.md."""
    made = Page()
    known: set[str] = set()
    for name, kind in KINDS.items():
        schema = described(kind.spec)
        parts = schema.get("$defs", {})
        schema = parts.get(kind.spec.__name__, schema)
        trains = issubclass(kind.spec, TrainingSpec)
        properties = {key: field for key, field in schema["properties"].items() if key == "kind" or key not in known}
        words = schema["description"] + (" Beside all fields of kind distill:" if trains and known else "")
        title = f"kind: {name}" + (" (the default)" if name == DEFAULT else "")
        known |= set(properties) if trains else set()
        schema |= {"properties": properties, "description": words}
        made.part("" if trains else name, schema, parts, 2, title)
    schema = described(SweepSpec)
    made.part("", schema, schema["$defs"], 2, "Sweep files")
    return START + "".join(made.text).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
