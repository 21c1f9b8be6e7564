"""A report as Markdown: the same verdicts, tables, figures and runs as on the page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from rt_scale.report.contents import (
    JUDGED,
    Contents,
    beside_paper,
    caption,
    cells,
    configurations,
    notes,
    titles,
    unfinished,
)
from rt_scale.store.interval import STATED

_SPECIAL = re.compile(r"([\\`*_\[\]|#~])")


def to_markdown(contents: Contents, *, runs: bool = True) -> str:
    """The whole report; without ``runs`` it names no run directories, and may lie anywhere."""
    finished = len(contents.statuses) - len(unfinished(contents))
    lines = [
        f"# {text(contents.title)}",
        "",
        f"Sweep: {text(', '.join(contents.sweeps))}. {finished} of {len(contents.statuses)} runs finished.",
        "",
        f"Data: {text('; '.join(contents.data) or 'none read yet')}.",
        "",
        *([f"**{text(contents.other_data)}**", ""] if contents.other_data else []),
    ]
    for note in notes(contents):
        lines += [text(note), ""]
    if contents.experiment is not None:
        rows = [[each.verdict.word, each.claim, each.where, each.verdict.why] for each in contents.verdicts]
        lines += ["## The paper's claims", "", *table_lines(["verdict", "claim", "where", "why"], _texts(rows), ":---")]
        lines += [JUDGED, ""]
    for picture in contents.pictures:
        lines += [f"![{text(picture.title)}]({picture.png.name})", ""]
    lines += [STATED, ""]
    for table in contents.tables.values():
        paper = beside_paper(table)
        lines += [f"{text(caption(table, contents.which, paper))}.", ""]
        lines += table_lines(
            [text(title) for title in titles(table)], _texts(cells(row, paper) for row in table), "---:"
        )
    return "\n".join([*lines, *_unfinished(contents), *(_runs(contents) if runs else [])]).rstrip() + "\n"


def _unfinished(contents: Contents) -> list[str]:
    lacking = unfinished(contents)
    if not lacking:
        return []
    rows = _texts([each.label, each.state, each.detail] for each in lacking)
    return [f"## Runs without a result ({len(lacking)})", "", *table_lines(["run", "state", "why"], rows, ":---")]


def _runs(contents: Contents) -> list[str]:
    found = configurations(contents)
    if not found:
        return []
    rows = []
    for values, members in found.values():
        links = [
            f"seed {member.seed} (missing)"
            if member.status.state == "missing"
            else f"[seed {member.seed}]({contents.link(member.status.name)}) "
            f"([spec]({contents.link(member.status.name, 'spec.json')}))"
            for member in members
        ]
        rows.append([*map(text, values.values()), ", ".join(links)])
    shown = next(iter(found.values()))[0]
    return ["## Runs behind the numbers", "", *table_lines([*map(text, shown), "runs"], rows, ":---")]


def _texts(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[text(cell) for cell in row] for row in rows]


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """A table whose columns all have one alignment, ``:---`` or ``---:``, and an empty line; cells are Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{f' {align} |' * len(head)}"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows), ""]


def text(plain: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(" ".join(plain.split()), quote=False))
