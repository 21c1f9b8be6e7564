from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

import rt_scale
from rt_scale.system.console import PlainConsole, broken

ODD = {
    "[x]": "[x]",
    "[/end]": "[/end]",
    "[red]a[/red]": "[red]a[/red]",
    "[link=file:///etc]": "[link=file:///etc]",
    ":smile:": ":smile:",
    "a\x1b[31mb": r"a\x1b[31mb",
    "\u202egnp": r"\u202egnp",
    "\udcff": r"\udcff",
    "\r\x08\x07": r"\r\x08\x07",
}
"""Text -> how it is shown."""


def printed(encoding: str = "utf-8", *, terminal: bool = False) -> tuple[PlainConsole, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    return PlainConsole(file=file, width=80, force_terminal=terminal, color_system=None), raw


@pytest.mark.parametrize(("text", "shown"), list(ODD.items()), ids=ascii)
@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_text_is_shown_as_it_is(text: str, shown: str, encoding: str) -> None:
    console, raw = printed(encoding)
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    console.print(text)
    console.print(table)
    console.print("in", text, style="dim")
    assert raw.getvalue().decode(encoding).count(shown) == 6


LINE = "[1/9] parts=wn/lb/fn,alpha=0.5,seed=1  linear 20.6 (teacher 18.1)  'rt-scale board a --store b' draws it"


@pytest.mark.parametrize("width", range(8, 120, 7))
def test_a_line_is_broken_between_words(width: int) -> None:
    lines = broken(LINE, width)
    assert max(map(len, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(LINE.split())
    assert all(line.startswith(" ") for line in lines[1:]) or width < 40
    for word in ("parts=wn/lb/fn,", "alpha=0.5,", "(teacher", "'rt-scale board a --store b'"):
        assert any(word in line for line in lines) or width < len(word) + 2


def test_a_line_is_broken_at_the_best_place() -> None:
    assert broken("[1/9] alpha=0.5,seed=1  linear 20.6", 30) == ["[1/9] alpha=0.5,seed=1", "  linear 20.6"]
    assert broken("alpha=0.5,out_dim=64,seed=1", 20, indent=4) == ["alpha=0.5,", "    out_dim=64,", "    seed=1"]
    assert broken("short", 80) == ["short"]


def test_no_text_commands_the_terminal_but_rich_does() -> None:
    console, raw = printed(terminal=True)
    with Live(Text("evil\x1b]0;title\x07"), console=console, auto_refresh=False) as live:
        live.refresh()
    written = raw.getvalue().decode()
    assert r"evil\x1b]0;title" in written
    assert "\x1b]" not in written
    assert "\x1b[?25l" in written  # the cursor is hidden meanwhile


def test_what_is_replaced_is_measured_as_it_is_shown() -> None:
    console, raw = printed("ascii")
    table = Table("mean")
    for text in ("10 ± 2", "学", "\x1b"):
        table.add_row(text)
    console.print(table)
    lines = raw.getvalue().decode().splitlines()
    assert len({len(line.rstrip()) for line in lines}) == 1
    assert any("10 +- 2" in line for line in lines)


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Every call in the package: its file, the name that is called, and the call."""
    root = Path(rt_scale.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                yield str(path.relative_to(root)), name, node


def keyword(call: ast.Call, name: str) -> object:
    return next((getattr(each.value, "value", each.value) for each in call.keywords if each.arg == name), None)


def test_consoles_are_made_in_one_way_and_nothing_turns_markup_on() -> None:
    """So no text that the package prints can be markup, whatever it holds."""
    found = [(file, name, call) for file, name, call in calls() if file != "system/console.py"]
    assert len(found) > 10_000
    for file, name, call in found:
        where = f"{file}:{call.lineno}"
        assert name not in {"Console", "get_console", "from_markup", "print_json", "out", "secho"}, where
        assert keyword(call, "markup") in {None, False}, where
        if name == "TextColumn":
            assert keyword(call, "markup") is False, where  # rich's own default is True
        if name in {"Live", "Progress"} and file.startswith(("cli", "progress", "ray_backend", "report")):
            assert keyword(call, "console") is not None, where  # or it makes one of its own


def test_what_is_printed_past_consoles_is_json_or_is_made_visible() -> None:
    for file, name, call in calls():
        if name == "print" and isinstance(call.func, ast.Name) and file != "system/console.py":
            (value,) = call.args
            assert isinstance(value, ast.Call), f"{file}:{call.lineno}: use rt_scale.system.console.say"
            assert ast.unparse(value.func) == "json.dumps", f"{file}:{call.lineno}: use rt_scale.system.console.say"
            assert keyword(value, "ensure_ascii") is None
