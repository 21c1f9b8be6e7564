"""HTML from elements, in which nothing that is not an element goes unescaped."""

from __future__ import annotations

import html
import re


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, *children: Html | str | int, **attributes: str) -> Html:
    """An element.

    Args:
        name: of the element.
        children: its contents; what is not :class:`Html` is text, and escaped.
        attributes: its attributes; an underscore at the end of a name is left out.
    """
    written = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Html | str | int) -> Html:
    """Contents after one another, texts escaped."""
    return Html("".join(child if isinstance(child, Html) else html.escape(str(child)) for child in children))


def inline_svg(text: str, prefix: str) -> Html:
    """An svg file as an element of a page, whose ids are not those of another figure.

    Args:
        text: the file, as matplotlib writes it.
        prefix: of the ids here.
    """
    svg = text[text.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}{found[1]}"' if found[1] in used else "", svg)
    return Html(re.sub(r'(url\(#|href="#)', lambda found: f"{found[1]}{prefix}", svg))
