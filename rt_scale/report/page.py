"""A report as one HTML page that needs nothing but itself: no scripts, no requests, figures inside."""

from __future__ import annotations

from collections.abc import Sequence

from rt_scale.report.beside import BesideRow, Member
from rt_scale.report.contents import (
    JUDGED,
    NOTHING,
    Contents,
    beside_paper,
    caption,
    cells,
    configurations,
    notes,
    titled_probe,
    titles,
    unfinished,
)
from rt_scale.report.elements import Html, inline_svg, join, tag
from rt_scale.report.judging import Judged
from rt_scale.spec.errors import counted
from rt_scale.store.interval import STATED

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1e21; max-width: 1280px; margin: 2em auto; padding: 0 1.2em; }
h1 { font-size: 1.6em; margin-bottom: .2em; } h2 { font-size: 1.2em; margin-top: 2em; }
h3 { font-size: 1em; margin-bottom: .3em; }
table { border-collapse: collapse; margin: .4em 0 1.2em; font-size: .87em; font-variant-numeric: tabular-nums; }
th, td { padding: .28em .7em; text-align: right; border-bottom: 1px solid #e3e5e8; vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid #b9bdc3; } td.text, th.text { text-align: left; }
tr:target { background: #fff6d6; } .wide { overflow-x: auto; } td { white-space: nowrap; }
td small { display: block; color: #5a6068; font-size: .88em; }
td.why { white-space: normal; min-width: 22em; }
td.claim { white-space: normal; min-width: 14em; overflow-wrap: anywhere; }
a { color: #0b57a4; text-decoration: none; } a:hover { text-decoration: underline; } td a { color: inherit; }
td.links a, p a, figcaption a { color: #0b57a4; }
.note { color: #5a6068; font-size: .87em; } figure { margin: 1em 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #5a6068; font-size: .87em; } summary { cursor: pointer; color: #5a6068; }
.word { display: inline-block; padding: .05em .6em; border-radius: .8em; font-weight: 600; }
.holds { background: #d9f2df; color: #12642a; } .fails { background: #fbdcdc; color: #8f1d1d; }
.undecided { background: #eceef0; color: #4d535a; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_TEXT = {"class": "text"}


def to_html(contents: Contents) -> str:
    """The whole page."""
    head = tag(
        "head",
        Html('<meta charset="utf-8">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        tag("title", f"rt-scale: {contents.title}"),
        tag("style", Html(STYLE)),
    )
    body = [_heading(contents)]
    if contents.experiment is not None:
        body.append(_verdicts(contents))
    body += [_pictures(contents), _tables(contents), _unfinished(contents), _runs(contents)]
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', *body), lang='en')}\n"


def _heading(contents: Contents) -> Html:
    finished = len(contents.statuses) - len(unfinished(contents))
    named = f"{'Sweep' if len(contents.sweeps) == 1 else 'Sweeps'} {', '.join(contents.sweeps)}"
    return join(
        tag("h1", contents.title),
        tag("p", f"{named}. {finished} of {len(contents.statuses)} runs finished.", id="standing"),
        tag("p", f"Data: {'; '.join(contents.data) or 'none read yet'}.", id="data"),
        tag("p", tag("strong", contents.other_data), id="other-data") if contents.other_data else Html(""),
        tag("p", " ".join(notes(contents)), **{"class": "note"}),
    )


def _verdicts(contents: Contents) -> Html:
    head = tag("tr", *(tag("th", title, **_TEXT) for title in ("verdict", "claim", "where", "why")))
    rows = [_verdict(judged, contents) for judged in contents.verdicts]
    table = tag("div", tag("table", head, *rows, id="verdicts"), **{"class": "wide"})
    return join(tag("h2", "The paper's claims"), table, tag("p", JUDGED, **{"class": "note"}))


def _verdict(judged: Judged, contents: Contents) -> Html:
    word = judged.verdict.word
    rule = tag(
        "details",
        tag("summary", "rule and runs"),
        tag("p", judged.rule),
        tag(
            "p",
            f"{counted(len(judged.runs), 'run')}: ",
            *_spaced([_run_link(contents, name, name.partition("-")[2][:6]) for name in judged.runs]),
        ),
    )
    return tag(
        "tr",
        tag("td", tag("span", word, **{"class": f"word {word}"}), **_TEXT),
        tag("td", judged.claim, **{"class": "text claim"}),
        tag("td", judged.where, **{"class": "text claim"}),
        tag("td", judged.verdict.why, rule, **{"class": "text why"}),
    )


def _pictures(contents: Contents) -> Html:
    if not contents.pictures:
        return Html("")
    drawn = [
        tag(
            "figure",
            inline_svg(picture.svg.read_text(encoding="utf-8"), f"f{number}-"),
            tag(
                "figcaption",
                f"{picture.title} Lines are means over seeds, bands and bars their 95 % intervals. ",
                tag("a", "svg", href=picture.svg.name),
                " ",
                tag("a", "png", href=picture.png.name),
            ),
        )
        for number, picture in enumerate(contents.pictures)
    ]
    return join(tag("h2", "Figures"), *drawn)


def _tables(contents: Contents) -> Html:
    parts = [tag("h2", "Tables"), tag("p", STATED, **{"class": "note"})]
    for probe, rows in contents.tables.items():
        paper = beside_paper(rows)
        head = tag("tr", *(tag("th", title) for title in titles(rows)))
        body = [_row(row, paper) for row in rows]
        text = caption(rows, contents.which, paper)
        title = titled_probe(rows)
        parts += [tag("h3", title[0].upper() + title[1:]), tag("p", f"{text}.", **{"class": "note"})]
        parts.append(tag("div", tag("table", head, *body, id=f"table-{probe}"), **{"class": "wide"}))
    return join(*parts)


def _row(row: BesideRow, paper: bool) -> Html:
    """Every number of ours leads to the runs that it is of."""
    texts = cells(row, paper)
    axes, measured = len(row.values), len(row.values) + 5
    found = []
    for place, text in enumerate(texts):
        ours = axes <= place < measured and text != NOTHING
        found.append(tag("td", tag("a", *_two_lines(text), href=f"#{row.key}") if ours else text))
    return tag("tr", *found)


def _two_lines(text: str) -> list[Html | str]:
    """A mean, and its interval below it."""
    mean, bracket, interval = text.partition(" [")
    return [mean, tag("small", f"[{interval}")] if bracket else [text]


def _unfinished(contents: Contents) -> Html:
    lacking = unfinished(contents)
    if not lacking:
        return Html("")
    head = tag("tr", *(tag("th", title, **_TEXT) for title in ("run", "state", "why", "attempts")))
    rows = [
        tag("tr", tag("td", _link_unless_missing(contents, status.name, status.label, status.state),
                       **{"class": "text claim"}),
            tag("td", status.state, **_TEXT), tag("td", status.detail, **{"class": "text why"}),
            tag("td", status.attempts))
        for status in lacking
    ]  # fmt: skip
    table = tag("div", tag("table", head, *rows, id="unfinished"), **{"class": "wide"})
    return join(tag("h2", f"Runs without a result ({len(lacking)})"), table)


def _runs(contents: Contents) -> Html:
    """The runs of every configuration, with their directories and specs."""
    rows = []
    for key, (values, members) in configurations(contents).items():
        links = [_member(contents, member) for member in members]
        texts = [tag("td", value) for value in values.values()]
        rows.append(tag("tr", *texts, tag("td", *_spaced(links), **{"class": "text links"}), id=key))
    if not rows:
        return Html("")
    shown = next(iter(configurations(contents).values()))[0]
    head = tag("tr", *(tag("th", title) for title in shown), tag("th", "runs: seed, directory and spec", **_TEXT))
    table = tag("div", tag("table", head, *rows, id="runs"), **{"class": "wide"})
    return join(tag("h2", "Runs behind the numbers"), table)


def _member(contents: Contents, member: Member) -> Html:
    name, state = member.status.name, member.status.state
    if state == "missing":
        return join(f"seed {member.seed} (missing)")
    told = "" if state == "done" else f" {state}"
    directory = _run_link(contents, name, f"seed {member.seed}")
    return join(directory, " (", tag("a", "spec", href=contents.link(name, "spec.json")), f"){told}")


def _run_link(contents: Contents, name: str, text: str) -> Html:
    return tag("a", text, href=contents.link(name), title=name)


def _link_unless_missing(contents: Contents, name: str, text: str, state: str) -> Html:
    return join(text) if state == "missing" else _run_link(contents, name, text)


def _spaced(items: Sequence[Html]) -> list[Html]:
    return [join(item, " ") for item in items]
