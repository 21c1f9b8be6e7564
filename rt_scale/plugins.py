"""Plugins: encoders, data sets, objectives, probes and experiments of users, as ``package.module:attribute``.

Finding one reads source files and executes nothing of them; :func:`load` alone imports, and only what executes runs or
prepares data calls it. Neither torch nor ray is imported here.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rt_scale.spec.errors import InputError, cut, guess, shown, unknown_name

Kind = Literal["encoder", "dataset", "objective", "probe", "experiment"]
"""What a plugin is; packages register theirs as entry points of the group ``rt_scale.<kind>s``."""
_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


class Source(NamedTuple):
    """The file that defines a plugin, its text and its SHA-256."""

    path: Path
    text: str
    sha256: str


class Plugin(NamedTuple):
    """A plugin: ``package.module:attribute``, and the SHA-256 of the file that defines it."""

    reference: str
    source: str


def is_reference(name: str) -> bool:
    """Whether ``name`` has the form of a reference, ``package.module:attribute``; InputError for a malformed one."""
    if ":" in name and not _REFERENCE.fullmatch(name):
        raise InputError(f"{shown(name)} does not name a plugin: write package.module:attribute, e.g. my_nets:Tiny.")
    return ":" in name


def find_source(reference: str, sha256: str | None = None) -> Source:
    """The file that defines the attribute, also if the module only imports it from there; nothing is executed.

    ``sha256``: of the source that is wanted; None: any.

    InputError: no such module or attribute (with the nearest name), no file of Python source, or another source.
    """
    if not is_reference(reference):
        raise InputError(f"{shown(reference)} does not name a plugin: write package.module:attribute.")
    module, attribute = reference.split(":")
    found = _trace(module, attribute, set())
    if found is None:
        file = _read(module)
        raise unknown_name(f"attribute of '{file.source.path}'", attribute, _offered(module, set()))
    if sha256 not in (None, found.sha256):
        raise InputError(
            f"The plugin '{reference}' is another here than the spec names: '{found.path}' has SHA-256 "
            f"{found.sha256[:12]}, and the spec {str(sha256)[:12]}. Restore that file (the run's sources.json has its "
            "text), or start from your own spec file, which makes it another run."
        )
    return found


def _trace(module: str, attribute: str, seen: set[str]) -> Source | None:
    """The source of an attribute, following imports from module to module; None if it is not there."""
    if module in seen:
        return None
    file = _read(module)
    if attribute in file.names:
        origin = file.names[attribute]
        with contextlib.suppress(InputError):  # a library's compiled module: then the file that imports it counts
            if origin is not None and (found := _trace(*origin, seen | {module})) is not None:
                return found
        return file.source
    for other in file.stars:
        with contextlib.suppress(InputError):
            if (found := _trace(other, attribute, seen | {module})) is not None:
                return found
    return None


def _offered(module: str, seen: set[str]) -> set[str]:
    """The public names of a module, those of ``import *`` included."""
    found: set[str] = set()
    with contextlib.suppress(InputError):
        file = _read(module)
        found = {name for name in file.names if not name.startswith("_")}
        for other in set(file.stars) - seen:
            found |= _offered(other, seen | {module})
    return found


class _File(NamedTuple):
    """A module: its source, its top-level names (of an imported one also whence), and the modules of ``import *``."""

    source: Source
    names: dict[str, tuple[str, str] | None]
    stars: list[str]
    defined: list[str]
    """Public classes and functions that the module offers: of a package's ``__init__`` also those of its modules."""


def _read(module: str) -> _File:
    found = _find_module(module)
    path = Path(found.origin) if found.origin and found.has_location else None
    try:
        if path is None or path.suffix != ".py":
            raise OSError
        data = path.read_bytes()
    except OSError:
        raise InputError(
            f"The source of the module '{module}' cannot be found ({found.origin or 'a folder without __init__.py'}). "
            "A plugin is kept with its run as text: put it into a .py file."
        ) from None
    try:
        text = importlib.util.decode_source(data)
        tree = ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise InputError(f"'{path}'{line} is not Python: {error}.") from None
    found_names = _top_names(tree, module, package=path.name == "__init__.py")
    return _File(Source(path, text, hashlib.sha256(data).hexdigest()), *found_names)


def _top_names(
    tree: ast.Module, module: str, *, package: bool
) -> tuple[dict[str, tuple[str, str] | None], list[str], list[str]]:
    """``names``, ``stars`` and ``defined`` of a :class:`_File`."""
    names: dict[str, tuple[str, str] | None] = {}
    stars, defined = [], []
    for statement in _statements(tree.body):
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names[statement.name] = None
            defined.append(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            inner = [each for each in ast.walk(statement) if isinstance(each, ast.Name)]
            names |= dict.fromkeys(each.id for each in inner if isinstance(each.ctx, ast.Store))
        elif isinstance(statement, ast.Import):
            names |= dict.fromkeys(alias.asname or alias.name.partition(".")[0] for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            origin = _absolute(statement, module, package)
            given = {alias.asname or alias.name: (origin, alias.name) for alias in statement.names}
            if given.pop("*", None):
                stars.append(origin)
            names |= given
            defined += list(given) if package and statement.level else []
    return names, stars, [name for name in dict.fromkeys(defined) if not name.startswith("_")]


def _statements(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """The top-level statements, those in ``if`` and ``try`` included."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            handlers = statement.handlers if isinstance(statement, ast.Try) else []
            final = statement.finalbody if isinstance(statement, ast.Try) else []
            yield from _statements([*statement.body, *(s for each in handlers for s in each.body), *statement.orelse])
            yield from _statements(final)


def _absolute(statement: ast.ImportFrom, module: str, package: bool) -> str:
    """The module that a ``from ... import`` names."""
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _find_module(module: str) -> ModuleSpec:
    """Where a module lies: on Python's path, else in the current folder; no parent package is imported."""
    head, *rest = module.split(".")
    found = next((each for finder in sys.meta_path if (each := finder.find_spec(head, None)) is not None), None)
    found = found or PathFinder.find_spec(head, [os.getcwd()])
    for part in rest:
        places = list(found.submodule_search_locations or ()) if found else []
        # By its last name alone: a namespace package would look for its parent among imported modules.
        found = PathFinder.find_spec(part, places)
    if found is None or module == "__main__":
        raise _no_module(module)
    return found


def _no_module(module: str) -> InputError:
    if module == "__main__":
        return InputError(
            "A class or function typed into Python, a notebook or the script itself has no module that can be "
            "imported again: put it into a file, e.g. my_nets.py, and name it as my_nets:Tiny."
        )
    extra = "pip install 'rt_scale[timm]'" if module.startswith("timm") else "install its package"
    return InputError(
        f"There is no module '{module}', neither on Python's path nor in the current folder '{os.getcwd()}'. Run the "
        f"command in the folder of your file, set PYTHONPATH to that folder, or {extra}."
    )


_loaded: dict[str, tuple[str, Callable[..., Any]]] = {}
"""Reference -> the SHA-256 of its source as this process imported it, and the attribute."""


def load(reference: str, sha256: str | None = None) -> Callable[..., Any]:
    """Import a plugin: a class or function.

    ``sha256``: of the source that is wanted; None: the present one.

    InputError: the source here is another, or importing it fails, prints or exits.
    """
    if reference in _loaded and _loaded[reference][0] == sha256:
        return _loaded[reference][1]
    source = find_source(reference, sha256)
    if _loaded.get(reference, (source.sha256,))[0] != source.sha256:
        raise InputError(
            f"'{source.path}' has changed since this process imported the plugin '{reference}': start Python anew."
        )
    module, attribute = reference.split(":")
    found: Callable[..., Any] | None = getattr(_import(module, source.path), attribute, None)
    if not callable(found):
        raise InputError(f"The plugin '{reference}' is no class and no function, but {shown(found)}.")
    _loaded[reference] = (source.sha256, found)
    return found


def _import(module: str, path: Path) -> object:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file there replaces no installed module
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            imported = importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit, too
        frames = [each for each in traceback.extract_tb(error.__traceback__) if each.filename == str(path)]
        line = f", line {frames[-1].lineno}" if frames else ""
        what = "it ends Python" if isinstance(error, SystemExit) else f"{type(error).__name__}: {cut(str(error), 300)}"
        raise InputError(
            f"The module '{module}' cannot be imported ('{path}'{line}): {what}. A plugin only defines classes and "
            "functions when it is imported; correct it, and start again."
        ) from error
    if text := printed.getvalue().strip():
        sys.modules.pop(module, None)
        raise InputError(
            f"The module '{module}' ('{path}') prints when it is imported: {shown(text)}. That would mix with results: "
            "put it under if __name__ == '__main__', or take it out."
        )
    return imported


MOST_SHIPPED = 1 << 27
"""Bytes of a package that is sent to other machines, at most."""


def shipped(references: Iterable[str]) -> list[Path]:
    """What other machines need of these plugins: the file or package folder of each top module that is not installed.

    Installed packages must be on every machine; a worker compares the source. InputError: it cannot be sent.
    """
    found: dict[str, Path] = {}
    for head in dict.fromkeys(reference.partition(":")[0].partition(".")[0] for reference in references):
        module = _find_module(head)
        places = [Path(place) for place in module.submodule_search_locations or [str(module.origin)]]
        if {"site-packages", "dist-packages"} & set(places[0].parts):
            continue
        size = sum(file.stat().st_size for place in places for file in [place, *place.rglob("*")] if file.is_file())
        if len(places) > 1 or size > MOST_SHIPPED:
            why = f"has {size:,} bytes, more than {MOST_SHIPPED:,}" if len(places) == 1 else "lies in several folders"
            raise InputError(
                f"The package '{head}' cannot be sent to the workers of the cluster: it {why} ('{places[0]}'). Put the "
                "plugin into a small package of its own, or install it on every machine."
            )
        found[head] = places[0]
    return list(found.values())


def differences(plugins: Iterable[Plugin]) -> dict[str, str]:
    """The plugins that are missing here or have another source, by reference with which of both; none is executed."""
    found = {}
    for reference, sha256 in plugins:
        try:
            here = find_source(reference)
        except InputError:
            found[reference] = "is missing"
            continue
        if here.sha256 != sha256:
            found[reference] = f"has another source (SHA-256 {here.sha256[:12]}, not {sha256[:12]})"
    return found


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether the signature of ``function`` has a parameter of that name."""
    return name in inspect.signature(function).parameters


def check_arguments(
    what: str, function: Callable[..., Any], args: Mapping[str, object], given: Sequence[str], positional: int = 0
) -> None:
    """InputError, which calls the plugin ``what``, unless it can be called with these arguments.

    ``args``: the user's; ``given``: names of those that rt-scale adds, besides ``positional`` ones before them.
    """
    signature = inspect.signature(function)
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    free = [
        each.name
        for place, each in enumerate(signature.parameters.values())
        if each.kind in kinds and each.name not in given and not (each.kind is kinds[0] and place < positional)
    ]
    anything = any(each.kind is each.VAR_KEYWORD for each in signature.parameters.values())
    for name in args:
        if name in given or (name not in free and not anything):
            its_own = " rt-scale gives it itself;" if name in given else guess(name, free)
            raise InputError(f"{what} takes no argument {shown(name)};{its_own} known: {', '.join(free) or 'none'}.")
    try:
        signature.bind(*[None] * positional, **dict.fromkeys(given), **args)
    except TypeError as error:
        raise InputError(f"{what} cannot be called: {error}. Its arguments are in args.") from None


class Names:
    """What names of plugins stand for.

    Args:
        modules: whose public classes and functions are names; they are read, not imported.
        known: by ``<kind> <name>``, what was found before; if there is any, no other short names are looked for, so
            that the modules need not be there.
    """

    def __init__(self, modules: Sequence[str] = (), known: Mapping[str, Plugin] | None = None) -> None:
        self.modules, self.found, self._settled = () if known else modules, dict(known or {}), bool(known)
        self._short: dict[str, str | None] = {}

    def find(self, kind: Kind, name: str, *, builtin: bool = False) -> Plugin | None:
        """The plugin of that name or reference; None if there is none.

        ``builtin``: whether rt-scale has one of that name itself, which no installed package replaces.
        InputError: several have it.
        """
        key = f"{kind} {name}"
        if key not in self.found:
            if is_reference(name):
                reference: str | None = name
            elif key not in self._short:  # kept, since the many runs of a grid have the same names
                reference = self._short[key] = None if self._settled else self._search(kind, name, builtin)
            else:
                reference = self._short[key]
            if reference is None:
                return None
            self.found[key] = Plugin(reference, find_source(reference).sha256)
        return self.found[key]

    def _search(self, kind: Kind, name: str, builtin: bool) -> str | None:
        places = {f"{module}:{name}": f"--import {module}" for module in self.modules if name in _read(module).defined}
        if not builtin:
            for point in importlib.metadata.entry_points(group=f"rt_scale.{kind}s", name=name):
                places[point.value] = f"the package {point.dist.name if point.dist else '?'}"
        if len(places) + (builtin and bool(places)) > 1:
            both = [*(["rt-scale's own"] if builtin else []), *(f"{ref} ({where})" for ref, where in places.items())]
            raise InputError(f"The name {shown(name)} means more than one {kind}: {' and '.join(both)}. Write which.")
        return next(iter(places), None)

    def unknown(self, kind: Kind, name: str, known: Iterable[str]) -> InputError:
        """The error for a name that is neither ``known`` nor of a plugin."""
        imported = [each for module in self.modules for each in _read(module).defined]
        installed = [point.name for point in importlib.metadata.entry_points(group=f"rt_scale.{kind}s")]
        return unknown_name(kind, name, {*known, *imported, *installed})
