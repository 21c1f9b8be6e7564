"""Reading what users write: YAML documents, dotted overrides, and errors in their own terms."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rt_scale.spec.errors import InputError, cut, nearest, shown
from rt_scale.spec.yaml_core import DEEPEST, CoreLoader, Refused

Model = TypeVar("Model", bound=BaseModel)


MOST_BYTES = 1 << 24
"""Bytes of a file that is read, at most: longer ones are not what a person wrote."""


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML document.

    Args:
        text: the document.
        source: what to call it in an error, e.g. the file's path.

    Raises:
        InputError: where it is not YAML 1.2, or holds what no spec can, with the line.
    """
    try:
        return yaml.load(text, Loader=CoreLoader)  # noqa: S506 - a subclass of the safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        if problem.startswith("but "):  # of a sentence that PyYAML begins with its context
            problem = f"{getattr(error, 'context', None)}, {problem}"
        wrong = ":" if isinstance(error, Refused) else " is not YAML:"
        raise InputError(f"{source}{where}{wrong} {problem}. Correct that line and try again.") from None


def read_text(path: Path) -> str:
    """The text of the file ``path``, its byte-order mark left out and its line ends as ``\\n``.

    It is read once, so that it may be a pipe.

    Raises:
        InputError: where the file cannot be read, or is no text of at most ``MOST_BYTES``.
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
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a .yaml file that can.") from None
    if len(data) > MOST_BYTES:
        raise InputError(f"{path} has more than {MOST_BYTES:,} bytes, which no spec or sweep has. Give a .yaml file.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what = "it is UTF-16; save it as UTF-8" if marked else "it is not UTF-8 text. Give a .yaml file"
        raise InputError(f"{path} is not YAML: {what}.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_document(text: str, source: str) -> dict[str, Any]:
    """The mapping in a YAML document; ``source`` and errors as of :func:`parse_yaml`."""
    document = parse_yaml(text, source)
    if not isinstance(document, dict):
        kind = "nothing" if document is None else f"a {type(document).__name__}"
        raise InputError(f"{source} holds {kind}; expected a mapping such as 'data: {{name: digits}}'.")
    return document


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``.

    Raises:
        InputError: where the file cannot be read, is not YAML or holds no mapping.
    """
    return parse_document(read_text(path), str(path))


def set_dotted(document: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of ``document`` in which the dotted field ``key`` is ``value``."""
    head, _, rest = key.partition(".")
    copy = dict(document)
    if rest:
        inner = copy.get(head)
        copy[head] = set_dotted(inner if isinstance(inner, Mapping) else {}, rest, value)
    else:
        copy[head] = value
    return copy


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of ``document`` with ``key=value`` assignments applied in order.

    Raises:
        InputError: where an assignment has no '=' or no key, is of several lines, goes deeper than a file can, or its
            value is not YAML.
    """
    result = dict(document)
    for override in overrides:
        key, sign, text = override.partition("=")
        if override.splitlines() != [override] and override:
            raise InputError(f"--set {shown(override)} is of several lines; write it in one, as in --set 'a=[1, 2]'.")
        if not sign or not re.match(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", key):
            raise InputError(f"'--set {cut(override)}' is no assignment; write for example --set encoder.name=vgg11.")
        if key.count(".") >= DEEPEST:
            raise InputError(f"'--set {cut(override)}' names a field {key.count('.')} levels deep; none is.")
        result = set_dotted(result, key, parse_yaml(text, f"the value of '--set {cut(override)}'"))
    return result


def build(model: type[Model], document: Mapping[str, Any], source: str) -> Model:
    """``document`` validated as ``model``.

    Raises:
        InputError: naming every field that is wrong, what was given and what is allowed.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = problem_lines(model, error)
        raise InputError(f"{source} is not valid: {' '.join(problems)}") from None


def problem_lines(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each problem that pydantic found."""
    return [_sentence(model, problem) for problem in error.errors(include_url=False)]


_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (in quotes where it looks like something else)",
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type"), "a mapping"),
}
"""Pydantic's type of problem -> what to write there."""


def _sentence(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    path = ".".join(part if part.isprintable() and len(part) <= 100 else shown(part) for part in location)
    if problem["type"] == "extra_forbidden":
        allowed = _keys_at(model, location[:-1])
        close = nearest(location[-1], allowed)
        guess = f" did you mean '{close}'?" if close else ""
        return f"{path}: unknown key;{guess} known here: {', '.join(allowed)}."
    if problem["type"] == "missing":
        return f"{path}: required, but not given."
    message = problem["msg"]
    cause = (problem.get("ctx") or {}).get("error")
    if cause is not None:
        message = str(cause)
    prefix = f"{path}: " if path else ""
    if problem["type"] == "literal_error":
        allowed = [name.strip("' ") for name in re.split(r",| or ", str(problem["ctx"]["expected"]))]
        given = problem["input"] if isinstance(problem["input"], str) else shown(problem["input"])
        close = nearest(given, allowed)
        guess = f" did you mean '{close}'?" if close else ""
        return f"{prefix}{shown(given)} is not known;{guess} allowed: {', '.join(allowed)}."
    if problem["type"] in _WANTED:
        return f"{prefix}{_WANTED[problem['type']]} is expected, but {shown(problem['input'])} was given."
    if cause is not None:
        return f"{prefix}{message}{'' if message.endswith('.') else '.'}"
    return f"{prefix}{message[0].lower()}{message[1:]}, but {shown(problem['input'])} was given."


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for name in location:
        field = model.model_fields.get(name)
        inner = _model_of(field.annotation) if field else None
        if inner is None:
            return []
        model = inner
    return list(model.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
