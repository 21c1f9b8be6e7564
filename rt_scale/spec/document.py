"""Reading what users write: YAML documents, dotted overrides, and errors in their own terms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from rt_scale.spec.errors import InputError, nearest

Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    """The safe loader, with YAML 1.2's floats (1e-3 is a number) and without repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, source: str) -> Any:
    """The value of a YAML document.

    Args:
        text: the document.
        source: what to call it in an error, e.g. the file's path.

    Raises:
        InputError: where it is not YAML, with the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe one
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InputError(f"{source}{where} is not YAML: {problem}. Correct that line and try again.") from None


def read_document(path: Path) -> dict[str, Any]:
    """The mapping in the YAML file ``path``.

    Raises:
        InputError: where the file cannot be read, is not YAML or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        close = nearest(path.name, siblings)
        guess = f" Did you mean {path.parent / close}?" if close else ""
        raise InputError(f"There is no file {path}.{guess}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not YAML: it is not UTF-8 text. Give a .yaml file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Give a .yaml file that can.") from None
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        kind = "nothing" if document is None else f"a {type(document).__name__}"
        raise InputError(f"{path} holds {kind}; expected a mapping such as 'data: {{name: digits}}'.")
    return document


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
        InputError: where an assignment has no '=' or no key, or its value is not YAML.
    """
    result = dict(document)
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not re.match(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", key):
            raise InputError(f"'--set {override}' is no assignment; write for example --set encoder.name=vgg11.")
        result = set_dotted(result, key, parse_yaml(text, f"the value of '--set {override}'"))
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


def _sentence(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    path = ".".join(location)
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
        close = nearest(str(problem["input"]), allowed)
        guess = f" did you mean '{close}'?" if close else ""
        return f"{prefix}'{problem['input']}' is not known;{guess} allowed: {', '.join(allowed)}."
    if cause is not None:
        return f"{prefix}{message}{'' if message.endswith('.') else '.'}"
    return f"{prefix}{message[0].lower()}{message[1:]}, but {problem['input']!r} was given."


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
