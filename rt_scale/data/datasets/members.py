"""Links inside archives: what each leads to, without anything being unpacked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from rt_scale.spec.wording import printable

Parts = tuple[str, ...]
Member = TypeVar("Member")
_MOST_LINKS = 40
"""Links that one path may lead through, as in Linux."""
_OUTSIDE = "it leads out of the archive"


@dataclass(frozen=True)
class Link:
    """A link as an archive has it."""

    target: str
    hard: bool
    """Whether the target is a path from the archive's root, not from the link's own folder."""


class _Leads(Exception):
    """Why a path leads to nothing."""


def clean(name: str) -> Parts | None:
    """A member's name as a path from the archive's root; None where that is outside of it."""
    found: list[str] = []
    for part in split(name):
        if part != "..":
            found.append(part)
        elif found:
            found.pop()
        else:
            return None
    return tuple(found)


def split(name: str) -> Parts:
    """A path at its slashes, less what says nothing."""
    return tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))


def follow(files: Mapping[Parts, Member], links: Mapping[Parts, Link]) -> tuple[dict[Parts, Member], dict[Parts, str]]:
    """Every path of an archive that is a file, through links too, and the links that are none, with the reason."""
    if not links:
        return dict(files), {}
    inside = _folders([*files, *links])
    found: dict[Parts, Member] = {}
    odd: dict[Parts, str] = {}
    root: Parts = ()
    waiting = [(root, root, frozenset([root]))]
    while waiting:
        shown, folder, above = waiting.pop()
        for name in inside[folder]:
            path, real = (*shown, name), (*folder, name)
            try:
                real = _real(real, links)
                if real in files:
                    found[path] = files[real]
                elif real not in inside:
                    raise _Leads("which the archive does not have")
                elif real in above:
                    raise _Leads("a folder that it lies in")
                else:
                    waiting.append((path, real, above | {real}))
            except _Leads as error:
                odd[path] = f"a link to '{printable(links[(*folder, name)].target)}': {error}"
    return found, odd


def _folders(paths: Iterable[Parts]) -> dict[Parts, set[str]]:
    """The names in each folder."""
    inside: dict[Parts, set[str]] = {(): set()}
    for path in paths:
        for depth in range(len(path) - 1, -1, -1):
            known = path[:depth] in inside
            inside.setdefault(path[:depth], set()).add(path[depth])
            if known:
                break
    return inside


def _real(path: Parts, links: Mapping[Parts, Link]) -> Parts:
    """``path`` without links in it; _Leads where it goes around, or out of the archive."""
    done: Parts = ()
    todo, followed = list(reversed(path)), 0
    while todo:
        part = todo.pop()
        if part == "..":
            if not done:
                raise _Leads(_OUTSIDE)
            done = done[:-1]
        elif (link := links.get((*done, part))) is None:
            done = (*done, part)
        else:
            followed += 1
            if followed > _MOST_LINKS:
                raise _Leads("it leads around in a circle")
            if link.hard:
                done = ()
            elif link.target.startswith("/"):
                raise _Leads(_OUTSIDE)
            todo += reversed(split(link.target))
    return done
