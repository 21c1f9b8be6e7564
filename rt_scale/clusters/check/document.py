"""A cluster file as it is checked: its values, the line of each, and what was found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rt_scale.spec.errors import guess, shown
from rt_scale.spec.sweep import LaunchSpec
from rt_scale.spec.yaml_files import CoreLoader, yaml_errors

Keys = tuple[str | int, ...]
"""The way to a value: keys of mappings and indices of lists."""


class _Loader(CoreLoader):
    """The same safe reader with the scalars of YAML 1.1, which Ray, Kubernetes and SkyPilot read."""

    yaml_implicit_resolvers = yaml.SafeLoader.yaml_implicit_resolvers
    yaml_constructors = yaml.SafeLoader.yaml_constructors


class Document:
    """A YAML document: its ``value``, and the line of every part of it."""

    def __init__(self, value: Any, node: yaml.Node) -> None:
        self.value = value
        self._node = node

    def get(self, *keys: str | int) -> Any:
        """The value at ``keys``; None if there is none."""
        return dig(self.value, *keys)

    def line(self, keys: Keys) -> int:
        """The line of the value at ``keys``, from 1: of its key in a mapping; of its last ancestor if there is none."""
        node, line = self._node, self._node.start_mark.line
        for key in keys:
            found = _step(node, key)
            if found is None:
                break
            node, line = found[0], found[1].start_mark.line
        return line + 1


def _step(node: yaml.Node, key: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The node at ``key``, and the one that shows its line; the last of equal keys, as merged ones come first."""
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key], node.value[key]
    if isinstance(node, yaml.MappingNode):
        for name, value in reversed(node.value):
            if name.value == key:
                return value, name
    return None


def read_documents(text: str, source: str) -> list[Document]:
    """The documents of a YAML file that are not empty; InputError, with ``source`` and the line, if it is no YAML."""
    documents = []
    with yaml_errors(source):
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            value = None if node is None else loader.construct_document(node)
            if node is not None and value is not None:
                documents.append(Document(value, node))
    return documents


def dig(value: Any, *keys: str | int) -> Any:
    """The value at ``keys`` inside ``value``; None if there is none."""
    for key in keys:
        inside = key < len(value) if isinstance(value, list) and isinstance(key, int) else key in mapping(value)
        if not inside:
            return None
        value = value[key]
    return value


def mapping(value: Any) -> Mapping[str, Any]:
    """``value`` if it is a mapping, else an empty one: what has another type is a problem of the schema."""
    return value if isinstance(value, Mapping) else {}


def listed(value: Any) -> list[Any]:
    """``value`` if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Every scalar in ``value``, with its keys."""
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield keys, value
    else:
        for key, each in inner:
            yield from leaves(each, (*keys, key))


def dotted(keys: Sequence[str | int]) -> str:
    """Keys as messages write them, e.g. ``spec.workerGroupSpecs[0].template``."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def unknown(given: str, allowed: Sequence[str], what: str = "field") -> str:
    """The text of a problem with an unknown name: the nearest known one, else all of them."""
    close = guess(given, allowed)
    known = f" known: {', '.join(sorted(allowed)[:40])}{', ...' if len(allowed) > 40 else ''}."
    return f"unknown {what} {shown(given)};{close or known}"


@dataclass(frozen=True, order=True)
class Problem:
    """What is wrong: the line (from 1), the field, and a sentence with what was given, what is allowed, what to do."""

    line: int
    field: str
    text: str


@dataclass(frozen=True)
class Asked:
    """What a file is checked for.

    Attributes:
        store: where runs are to be kept; None: what the file's commands say.
        launches: launch sections of the sweeps to be run, by the sweep's name.
        crds: a folder with KubeRay's custom resource definitions; None: RT_SCALE_KUBERAY_CRDS, else ``kubectl``'s.
    """

    store: str | None = None
    launches: Mapping[str, LaunchSpec] = field(default_factory=dict)
    crds: Path | None = None


@dataclass
class Findings:
    """What was found in a file: problems, and what was and could not be checked, in words."""

    kind: str
    problems: list[Problem] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)

    def wrong(self, line: int, name: str, text: str) -> None:
        """Add a problem."""
        self.problems.append(Problem(line, name, text))

    def wrong_at(self, document: Document, keys: Keys, text: str) -> None:
        """Add a problem of the value at ``keys``."""
        self.wrong(document.line(keys), dotted(keys), text)
