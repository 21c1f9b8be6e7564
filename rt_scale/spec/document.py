"""Spec documents: dotted fields, overrides, runs to start from, and validation errors as sentences."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from operator import attrgetter
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ValidationError
from pydantic.fields import FieldInfo

from rt_scale.plugins import Kind, Names, is_reference
from rt_scale.spec.data import BUILT_IN, DataSpec
from rt_scale.spec.encoders import encoder_names, parse_encoder
from rt_scale.spec.errors import InputError, cut, guess, shown, unknown_name
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.spec.kinds import DEFAULT, KINDS, import_kinds, model_of
from rt_scale.spec.networks import StartFrom
from rt_scale.spec.part import Document, Part, data_name
from rt_scale.spec.run import RunSpec, SeedSpec
from rt_scale.spec.schedule import Schedule, parse
from rt_scale.spec.training import DISTANCES
from rt_scale.spec.yaml_files import DEEPEST, parse_yaml

Model = TypeVar("Model", bound=BaseModel)


def set_dotted(document: Mapping[str, object], key: str, value: object) -> Document:
    """A copy of ``document`` in which the dotted field ``key`` is ``value``."""
    head, _, rest = key.partition(".")
    copy = dict(document)
    if rest:
        inner = copy.get(head)
        copy[head] = set_dotted(inner if isinstance(inner, Mapping) else {}, rest, value)
    else:
        copy[head] = value
    return copy


def flat_fields(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as dotted field -> value."""
    flat: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            flat |= flat_fields(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def apply_overrides(document: Mapping[str, object], overrides: Iterable[str]) -> Document:
    """A copy of ``document`` with ``key=value`` assignments applied in order; raises InputError for a malformed one."""
    result = dict(document)
    for override in overrides:
        key, sign, text = override.partition("=")
        if override.splitlines() != [override] and override:
            raise InputError(f"--set {shown(override)} has several lines; write one, as in --set 'a=[1, 2]'.")
        if not sign or not re.match(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", key):
            raise InputError(f"'--set {cut(override)}' is not an assignment; write e.g. --set encoder.name=vgg11.")
        if key.count(".") >= DEEPEST:
            raise InputError(f"'--set {cut(override)}' names a field {key.count('.')} levels deep; no field is.")
        result = set_dotted(result, key, parse_yaml(text, f"the value of '--set {cut(override)}'"))
    return result


def build(model: type[Model], document: Mapping[str, object], source: str) -> Model:
    """``document`` validated as ``model``; raises InputError that lists each wrong field with the allowed values."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        problems = problem_lines(model, error)
        raise InputError(f"{source} is not valid: {' '.join(problems)}") from None


def build_run(document: Mapping[str, object], source: str) -> RunSpec:
    """The spec of a document, of the kind that it names; raises as :func:`build`."""
    return build(spec_model(document), document, source)


def problem_lines(model: type[BaseModel], error: ValidationError) -> list[str]:
    """One sentence for each problem that pydantic found."""
    return [_sentence(model, problem) for problem in error.errors(include_url=False)]


def spec_model(document: Mapping[str, object]) -> type[RunSpec]:
    """The spec of a document's kind; RunSpec, whose validation names the known kinds, if there is no such kind."""
    return model_of(document.get("kind", DEFAULT)) or RunSpec


_WANTED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (quoted if it looks like another type)",
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type"), "a mapping"),
}
"""Pydantic's error type -> the value that is expected."""


def _sentence(model: type[BaseModel], problem: Any) -> str:
    location = [str(part) for part in problem["loc"] if not str(part).startswith("function-")]
    path = ".".join(part if part.isprintable() and len(part) <= 100 else shown(part) for part in location)
    if problem["type"] == "extra_forbidden":
        allowed = _keys_at(model, location[:-1])
        return f"{path}: unknown key;{guess(location[-1], allowed)} known here: {', '.join(allowed)}."
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
        return f"{prefix}{shown(given)} is not known;{guess(given, allowed)} allowed: {', '.join(allowed)}."
    if problem["type"] in _WANTED:
        return f"{prefix}{_WANTED[problem['type']]} is expected, but {shown(problem['input'])} was given."
    if cause is not None:
        return f"{prefix}{message}{'' if message.endswith('.') else '.'}"
    return f"{prefix}{message[0].lower()}{message[1:]}, but {shown(problem['input'])} was given."


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for name in location:
        if name.isdecimal():  # in a list
            continue
        field = model.model_fields.get(name)
        inner = _model_of(field) if field else None
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    written = as_written(field)
    for candidate in (written, *get_args(written)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def as_written(field: FieldInfo) -> object:
    """The type that files write for a field; it may have a short form, which validation writes out."""
    forms = (each.json_schema_input_type for each in field.metadata if isinstance(each, BeforeValidator))
    return next((form for form in forms if isinstance(form, UnionType)), field.annotation)


def with_plugins(document: Mapping[str, object], names: Names) -> Document:
    """A copy of a spec's document in which plugins are named by their references, with the SHA-256 of their sources.

    Nothing of them is executed. InputError: a plugin is not found, or several have its name.
    """
    return {key: _with_plugins(key, part, names) for key, part in document.items()} | _own_kind(document, names)


def _with_plugins(key: str, part: object, names: Names) -> object:
    """One part of the document."""
    if not isinstance(part, _NESTED):
        return part
    if key == "encoder":
        return _with_plugin(part, names, "encoder")
    if key == "objective":
        return _with_plugin(part, names, "objective")
    if key == "data":
        return _with_reader(part, names)
    if key == "probe" and isinstance(part, Mapping) and isinstance(extra := part.get("extra"), list | tuple):
        return {**part, "extra": [_with_plugin(each, names, "probe") for each in extra]}
    if key in ROLES:
        start = part.get("start_from") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(start, Mapping) and isinstance(start.get("run"), Mapping):
            return {**part, "start_from": {**start, "run": with_plugins(start["run"], names)}}
        return part
    return _with_runs(part, lambda run: with_plugins(run, names))


def _own_kind(document: Mapping[str, object], names: Names) -> Document:
    """The kind and its source, if the kind is a plugin whose source is not named yet."""
    kind = document.get("kind", DEFAULT)
    if not isinstance(kind, str) or "source" in document:
        return {}
    plugin = names.find("experiment", kind, builtin=kind in KINDS)
    if plugin is None and names.modules and kind not in KINDS:
        raise names.unknown("experiment", kind, KINDS)
    return {} if plugin is None else {"kind": plugin.reference, "source": plugin.source}


def read_run(document: Mapping[str, object], names: Names) -> Document:
    """As :func:`own_run`, but nothing is imported; InputError for a kind of a user's that is not imported yet."""
    written = with_plugins(resolve_same(document), names)
    if is_reference(str(kind := written.get("kind", DEFAULT))) and model_of(kind) is None:
        raise InputError(
            f"Runs of kind {kind}, a plugin, cannot be named from a file without importing it, which only 'rt-scale "
            "run', 'sweep' and 'plan' do. Give the run's name instead; 'rt-scale status' lists them."
        )
    return written


def own_run(document: Mapping[str, object], names: Names) -> Document:
    """A user's document of one run, with its plugins and its runs to start from written out, and its kind imported."""
    written = with_plugins(resolve_same(document), names)
    import_kinds(written, names)
    return written


def _with_runs(part: object, change: Callable[[Document], Document]) -> object:
    """A part, or a list of parts, with ``change`` applied to each whole ``run`` that one holds."""
    if isinstance(part, list):
        return [_with_runs(each, change) for each in part]
    if isinstance(part, dict) and isinstance(run := part.get("run"), dict):
        return {**part, "run": change(run)}
    return part


@functools.cache
def _built_in(kind: Kind, name: str) -> Sequence[str]:
    """The names that rt-scale has itself; of encoders examples, and ``name`` if it is one."""
    if kind == "encoder":
        with suppress(InputError):
            return (*encoder_names(), parse_encoder(name).name)
        return encoder_names()
    return DISTANCES if kind == "objective" else ()


def _with_plugin(part: object, names: Names, kind: Kind) -> object:
    if not isinstance(part, Mapping) or not isinstance(name := part.get("name"), str) or part.get("source") is not None:
        return part
    known = _built_in(kind, name)
    plugin = names.find(kind, name, builtin=name in known)
    if plugin is not None:
        return {**part, "name": plugin.reference, "source": plugin.source}
    if names.modules and name not in known:
        raise names.unknown(kind, name, known)
    return part


def _with_reader(data: object, names: Names) -> object:
    """The images' part; that of a plugin gets the name of its prepared set."""
    if not isinstance(data, Mapping) or not isinstance(name := data.get("name"), str) or data.get("reader") is not None:
        return data
    plugin = names.find("dataset", name, builtin=name in BUILT_IN)
    if plugin is None:
        return data
    args = data.get("args")
    prepared = data_name(plugin.reference, args if isinstance(args, Mapping) else None, plugin.source)
    return {**data, "name": prepared, "reader": plugin.reference, "source": plugin.source}


def own_data(name: str, args: str | None, modules: Sequence[str]) -> DataSpec | None:
    """The data set of the plugin of that name, with arguments in YAML; None if it is no plugin's."""
    part: Document = {"name": name} if args is None else {"name": name, "args": parse_yaml(args, "--args")}
    found = _with_reader(part, Names(modules))
    if found is part:
        if args is not None:
            raise InputError(f"--args belongs to plugins, and {shown(name)} is none: write package.module:attribute.")
        return None
    assert isinstance(found, Mapping)
    return build(DataSpec, found, f"data set {name}")


class Assembler:
    """Makes specs of runs that share equal parts, so that each part is validated and turned into hashed text once."""

    def __init__(self, names: Names) -> None:
        self._parts: dict[tuple[type[Part], str], Any] = {}
        self._names = names

    def make(self, document: Mapping[str, object]) -> RunSpec:
        """The spec of a document; raises the same ValidationError as ``RunSpec.model_validate``."""
        document = {**document, **_own_kind(document, self._names)}
        model = spec_model(document)
        return model.model_validate({name: self._part(model, name, value) for name, value in document.items()})

    def _part(self, model: type[RunSpec], name: str, value: object) -> Any:
        """The validated part; a wrong one is returned unchanged, so that RunSpec reports it with all other problems."""
        part = _part_model(model, name)
        if part is None:
            return _with_plugins(name, value, self._names)
        key = (part, repr(value))  # not the value: 1, 1.0 and true compare equal
        if key not in self._parts:
            value = _with_plugins(name, value, self._names)
            try:
                self._parts[key] = part.model_validate(self._with_run(value))
            except ValidationError:
                self._parts[key] = value
        return self._parts[key]

    def _with_run(self, value: object) -> object:
        """The part, with the run of its ``start_from`` made by this assembler."""
        if not isinstance(value, Mapping):
            return value
        start = value.get("start_from")
        if not isinstance(start, Mapping) or not isinstance(start.get("run"), Mapping):
            return value
        return {**value, "start_from": {**start, "run": self.make(start["run"])}}


@functools.cache
def _part_model(model: type[RunSpec], name: str) -> type[Part] | None:
    field = model.model_fields.get(name)
    found = field and field.annotation
    return found if isinstance(found, type) and issubclass(found, Part) and not issubclass(found, RunSpec) else None


ROLES = ("teacher", "student")
_NESTED = (dict, list)


def resolve_same(document: Mapping[str, object], seed: int | None = None) -> Document:
    """A copy of a spec's document in which every ``start_from.run``, and the ``run`` of every part, is a whole spec.

    ``same`` becomes this document without any ``start_from`` and ``prune``, or in another part than teacher and student
    the run of ``origin``; ``{same_but: {...}}`` becomes that with these fields changed; InputError for any other form.
    ``seed`` fills every named seed that a run does not set.
    """
    resolved = dict(document) if seed is None else {**document, "seeds": _seeds(document.get("seeds"), seed)}
    for role in ROLES:
        part = resolved.get(role)
        start = part.get("start_from") if isinstance(part, Mapping) else None
        if isinstance(part, Mapping) and isinstance(start, Mapping) and "run" in start:
            own = {key: _without_start(value) if key in ROLES else value for key, value in resolved.items()}
            own.pop("prune", None)  # else both runs would be pruned
            run = _written_out(own, start["run"], f"{role}.start_from.run", seed)
            resolved[role] = {**part, "start_from": {**start, "run": run}}
    first = _with_runs(resolved.get("origin"), lambda run: resolve_same(run, seed))
    origin = first["run"] if isinstance(first, dict) and isinstance(first.get("run"), dict) else None
    for key, part in document.items():
        if key in ROLES or not isinstance(part, _NESTED):
            continue
        there = resolved[key] if origin is None or key == "origin" else _with_same(part, origin, key, seed)
        resolved[key] = _with_runs(there, lambda run: resolve_same(run, seed))
    return resolved


def _with_same(part: object, origin: Mapping[str, object], path: str, seed: int | None) -> object:
    """A part, or a list of parts, in which a ``run`` that is that of origin, or nearly, is written out."""
    if isinstance(part, list):
        return [_with_same(each, origin, f"{path}.{number}", seed) for number, each in enumerate(part)]
    run = part.get("run") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and (isinstance(run, str) or (isinstance(run, Mapping) and "same_but" in run)):
        return {**part, "run": _written_out(origin, run, f"{path}.run", seed)}
    return part


def _written_out(origin: Mapping[str, object], run: object, path: str, seed: int | None) -> Document:
    if run == "same":
        return dict(origin)
    if isinstance(run, Mapping) and "same_but" not in run:
        return resolve_same(run, seed)
    if not isinstance(run, Mapping) or len(run) > 1 or not isinstance(run["same_but"], Mapping):
        raise InputError(
            f"{path} must be 'same', {{same_but: {{field: value}}}} without other keys, or a whole run; "
            f"given: {cut(run) if isinstance(run, str) else shown(run)}."
        )
    return resolve_same(merged(origin, run["same_but"]), seed)


def merged(document: Mapping[str, object], changes: Mapping[str, object]) -> Document:
    """A copy of ``document`` with the fields of ``changes``; mappings are merged recursively."""
    result = dict(document)
    for key, value in changes.items():
        before = result.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result


def _seeds(given: object, seed: int) -> object:
    if given is not None and not isinstance(given, Mapping):
        return given  # validation reports this more clearly
    every = {name: seed for name in SeedSpec.model_fields if name != "order"}  # which follows data
    return {**every, **(given or {})}


def _without_start(part: object) -> object:
    return {key: value for key, value in part.items() if key != "start_from"} if isinstance(part, Mapping) else part


def check_field(what: str, key: str, models: Sequence[type[RunSpec]]) -> None:
    """Raise InputError, which calls ``key`` a ``what``, unless one of ``models`` has it, or a run within one."""
    if key.count(".") >= DEEPEST:
        raise InputError(f"Unknown {what} {shown(key)}, {key.count('.')} levels deep; no field is.")
    fields = list(dict.fromkeys(field for model in models for field in dotted_fields(model)))
    start, inside, _ = key.partition(".start_from.")
    if inside and f"{start}.start_from" in fields:
        fields += [f"{start}.start_from.{name}" for name in ("run", "take", "part")]
    before, inside, rest = key.partition(".run.")
    if inside and f"{before}.run" in fields:
        trainings = [kind.spec for kind in KINDS.values() if issubclass(kind.spec, TrainingSpec)]
        check_field(what, rest.removeprefix("same_but."), trainings)
        return
    part, argument, _ = key.partition(".args.")  # of a plugin, which knows them
    if key not in fields and not (argument and f"{part}.args" in fields):
        raise unknown_name(what, key, fields)


def dotted_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every field of ``model`` and of its parts, as ``part.field``."""
    return [name for name, _ in _annotated(model, prefix)]


def schedules(spec: RunSpec) -> Iterator[tuple[str, Schedule]]:
    """Every dotted field of ``spec`` whose value is a schedule, with that schedule."""
    for name, annotation in _annotated(type(spec)):
        if _may_be(annotation, str) and _may_be(annotation, float) and isinstance(value := attrgetter(name)(spec), str):
            yield name, parse(value)


def _may_be(annotation: object, kind: type) -> bool:
    return annotation is kind or any(_may_be(each, kind) for each in get_args(annotation))


def _annotated(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, field in model.model_fields.items():
        inner = field.annotation if as_written(field) is field.annotation else _model_of(field)
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not issubclass(inner, RunSpec):
            yield from _annotated(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner
        if (part := _optional_part(inner)) is not None:
            yield from _annotated(part, f"{prefix}{name}.")


def _optional_part(annotation: object) -> type[Part] | None:
    """The part of a field that may be null; None for another run's, whose fields are not this one's."""
    inner = get_args(annotation)
    parts = [each for each in inner if isinstance(each, type) and issubclass(each, Part)]
    return parts[0] if parts and type(None) in inner and not issubclass(parts[0], StartFrom) else None
