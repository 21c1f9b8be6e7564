"""A safe reader of YAML 1.2 files with merge keys, whose errors name the line."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import yaml

from rt_scale.spec.errors import InputError, nearest, shown
from rt_scale.spec.part import Document

DEEPEST = 100
"""Largest depth of nested lists and mappings."""
MOST_VALUES = 1_000_000
"""Largest number of values in a document, after aliases are expanded."""
_CORE = "tag:yaml.org,2002:"
_FIRST = "-+.0123456789"
_PLAIN = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list(_FIRST)),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list(_FIRST),
    ),
    "merge": (r"<<", ["<"]),
}
"""Type of plain scalar -> its pattern and its possible first characters; any other scalar is text."""


class Refused(yaml.MarkedYAMLError):
    """Valid YAML that no spec may contain, with its position."""


def _refuse(problem: str, there: yaml.Node | yaml.Event) -> NoReturn:
    raise Refused(problem=problem, problem_mark=there.start_mark)  # type: ignore[arg-type]  # only libyaml's differ


class CoreLoader(yaml.SafeLoader):
    """Reads one document of at most ``MOST_VALUES`` values, with unique text keys and no recursive aliases."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's names; this drops SafeLoader's YAML 1.1 rules
    yaml_constructors = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._level = 0
        self._extent: dict[yaml.Node, tuple[int, int]] = {}  # finished node -> its number of values and of levels

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """The next node; the size of an alias counts as that of its value."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            anchored = self.anchors.get(event.anchor)
            if anchored is not None and anchored not in self._extent:
                _refuse(f"the alias *{event.anchor} is inside the value that it refers to; repeat the values", event)
            return super().compose_node(parent, index)
        self._level += 1
        if self._level > DEEPEST:
            _refuse(_deep(), event)
        node = super().compose_node(parent, index)
        self._level -= 1
        if node is not None:
            self._measure(node)
        return node

    def _measure(self, node: yaml.Node) -> None:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            inner = [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        extents = [self._extent[each] for each in inner]
        values, levels = 1 + sum(each[0] for each in extents), 1 + max((each[1] for each in extents), default=0)
        if values > MOST_VALUES:
            _refuse(f"with its aliases expanded it has more than {MOST_VALUES:,} values; leave some out", node)
        if levels > DEEPEST:
            _refuse(_deep(), node)
        self._extent[node] = values, levels

    def construct_undefined(self, node: yaml.Node) -> NoReturn:
        """Refuse a tag of another schema, which could create any object."""
        _refuse(f"the tag {shown(node.tag.replace(_CORE, '!!'))} is not supported; leave it out", node)


def _deep() -> str:
    return f"lists and mappings are nested deeper than {DEEPEST} levels; leave some out"


def _check_keys(node: yaml.MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in (f"{_CORE}str", f"{_CORE}merge"):
            what = shown(key.value) if isinstance(key, yaml.ScalarNode) else f"a {key.id}"
            filled = "; fill in a template such as {{ x }} first" if what == "a mapping" else ""
            _refuse(f"{what} is a key, but keys are text, quoted if they look like another type{filled}", key)
        if key.value in lines:
            _refuse(
                f"the key {shown(key.value)} appears twice, first in line {lines[key.value]}; keep one of them", key
            )
        lines[key.value] = key.start_mark.line + 1


def _scalar(kind: str) -> Callable[[CoreLoader, yaml.ScalarNode], object]:
    """The constructor of one type of scalar, plain or tagged, e.g. ``!!int 7``."""
    pattern = re.compile(_PLAIN[kind][0])

    def construct(loader: CoreLoader, node: yaml.ScalarNode) -> object:
        text = loader.construct_scalar(node)
        if not pattern.fullmatch(text):
            _refuse(f"{shown(text)} is tagged {kind}, but is not of that type", node)
        return _VALUES[kind](node)

    return construct


def _integer(node: yaml.ScalarNode) -> int:
    text = node.value
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    try:
        value = int(text if base == 10 else text[2:], base)
    except ValueError:  # thousands of digits
        value = 2**64
    if not -(2**63) <= value < 2**64:
        _refuse(f"the whole number {text[:20]}... has {len(text)} digits; the range is -2^63 to 2^64 - 1", node)
    return value


_VALUES: dict[str, Callable[[yaml.ScalarNode], object]] = {
    "null": lambda node: None,
    "bool": lambda node: node.value.lower() == "true",
    "int": _integer,
    "float": lambda node: float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan")),
}


for _kind, (_written, _begins) in _PLAIN.items():
    CoreLoader.add_implicit_resolver(f"{_CORE}{_kind}", re.compile(rf"(?:{_written})\Z"), _begins)
    if _kind != "merge":
        CoreLoader.add_constructor(f"{_CORE}{_kind}", _scalar(_kind))
for _kind in ("str", "seq", "map"):
    CoreLoader.add_constructor(f"{_CORE}{_kind}", getattr(yaml.SafeLoader, f"construct_yaml_{_kind}"))
CoreLoader.add_constructor(None, CoreLoader.construct_undefined)


MOST_BYTES = 1 << 24
"""Largest file that is read, in bytes: nobody writes a longer spec."""


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML document; raises InputError that names ``source``, e.g. the file's path, and the line."""
    with yaml_errors(source):
        return yaml.load(text, Loader=CoreLoader)  # noqa: S506 - a subclass of the safe one


@contextmanager
def yaml_errors(source: str) -> Iterator[None]:
    """Turn PyYAML's errors into InputErrors that name ``source`` and the line."""
    try:
        yield
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if problem.startswith("but "):  # PyYAML's sentence begins in its context
            problem = f"{getattr(error, 'context', None)}, {problem}"
        wrong = ":" if isinstance(error, Refused) else " is not YAML:"
        raise InputError(f"{source}{where}{wrong} {problem}. Correct that line and try again.") from None


def read_text(path: Path) -> str:
    """The text of the file ``path``, without a byte-order mark and with ``\\n`` as line ends.

    It reads the file once, as that may be a pipe. Raises InputError if that is not UTF-8 of at most ``MOST_BYTES``.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        guess = f" Did you mean {path.parent / close}?" if close else ""
        raise InputError(f"There is no file {path}.{guess}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a readable .yaml file.") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES:,} bytes, too many for a spec or sweep. Give a .yaml file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what = "it is UTF-16; save it as UTF-8" if marked else "it is not UTF-8 text. Give a .yaml file"
        raise InputError(f"{path} is not YAML: {what}.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_document(text: str, source: str) -> Document:
    """The mapping in a YAML document; ``source`` and errors as of :func:`parse_yaml`."""
    document = parse_yaml(text, source)
    if not isinstance(document, dict):
        kind = "nothing" if document is None else f"a {type(document).__name__}"
        raise InputError(f"{source} contains {kind}; expected a mapping such as 'data: {{name: digits}}'.")
    return document


def read_document(path: Path) -> Document:
    """The mapping in the YAML file ``path``; errors as :func:`read_text` and :func:`parse_document`."""
    return parse_document(read_text(path), str(path))
