"""Draws docs/architecture.svg: the folders of rt_scale, what each is for, and who imports whom.

    .venv/bin/python docs/draw_architecture.py

Rows are the layers of pyproject.toml, sentences the docstrings of the folders, arrows are measured from the imports. An
arrow that other arrows imply is left out.
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGE = "rt_scale"
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 250, 62, 40, 34, 20
"""Of a box, between boxes and above all, in pixels."""
LANES, LANE = 110, 14
"""Space beside the boxes, and between the arrows there, in pixels."""
LINE = 38
"""Characters of a line of text in a box."""


def layers() -> list[list[str]]:
    """Folders by layer, the highest first, as the layer rule has them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (rows,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    folders = [[name.strip() for name in row.replace("|", ":").split(":")] for row in rows]
    return [kept for row in folders if (kept := [name for name in row if (ROOT / PACKAGE / name).is_dir()])]


def purpose(folder: str) -> str:
    """The first sentence of the folder's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / PACKAGE / folder / "__init__.py").read_text())) or ""
    return text.partition(". ")[0].rstrip(".")


def imports(folders: list[str]) -> set[tuple[str, str]]:
    """Pairs of folders of which the first imports the second, less those that other pairs imply."""
    graph = grimp.build_graph(PACKAGE)
    modules = {f: {f"{PACKAGE}.{f}", *graph.find_descendants(f"{PACKAGE}.{f}")} for f in folders}
    direct = {
        (one, other)
        for one in folders
        for other in folders
        if one != other and any(graph.find_modules_directly_imported_by(m) & modules[other] for m in modules[one])
    }
    return {pair for pair in direct if not _implied(pair, direct)}


def _implied(pair: tuple[str, str], direct: set[tuple[str, str]]) -> bool:
    start, end = pair
    reached, waiting = set[str](), [other for one, other in direct if one == start and other != end]
    while waiting:
        here = waiting.pop()
        if here not in reached:
            reached.add(here)
            waiting += [other for one, other in direct if one == here]
    return end in reached


def _lines(text: str) -> list[str]:
    found = [""]
    for word in text.split():
        if len(found[-1]) + len(word) >= LINE:
            found.append("")
        found[-1] = f"{found[-1]} {word}".strip()
    return found[:3]


def draw() -> str:
    """The SVG."""
    rows = layers()
    widest = max(len(row) for row in rows) * (WIDTH + GAP_X) - GAP_X
    place: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        left = LANES + (widest - len(row) * (WIDTH + GAP_X) + GAP_X) / 2
        for column, folder in enumerate(row):
            place[folder] = (left + column * (WIDTH + GAP_X), MARGIN + number * (HEIGHT + GAP_Y))
    arrows, lanes = [], {"left": 0, "right": 0}
    for one, other in sorted(imports([*place]), key=lambda pair: [*(place[each][1] for each in pair), *pair]):
        (x1, y1), (x2, y2) = place[one], place[other]
        if y2 - y1 <= HEIGHT + GAP_Y:
            way = f"M {x1 + WIDTH / 2:g} {y1 + HEIGHT:g} L {x2 + WIDTH / 2:g} {y2 - 4:g}"
        else:  # past the boxes between them, on a lane of its own
            side = "left" if x1 + x2 + WIDTH <= widest + 2 * LANES and lanes["left"] <= lanes["right"] else "right"
            lanes[side] += 1
            lane, edge, tip = LANES - LANE * lanes[side], 0, -4
            if side == "right":
                lane, edge, tip = LANES + widest + LANE * lanes[side], WIDTH, 4
            start, end = y1 + HEIGHT * 0.65, y2 + HEIGHT * (0.15 + 0.1 * (lanes[side] % 4))
            way = f"M {x1 + edge:g} {start:g} H {lane:g} V {end:g} H {x2 + edge + tip:g}"
        arrows.append(f'<path d="{way}"><title>{one} imports {other}</title></path>')
    boxes = []
    for folder, (x, y) in place.items():
        text = "".join(
            f'<tspan x="{x + WIDTH / 2:g}" dy="13">{escape(line)}</tspan>' for line in _lines(purpose(folder))
        )
        boxes.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
            f'<text x="{x + WIDTH / 2:g}" y="{y + 17:g}" class="name">{folder}</text>'
            f'<text y="{y + 20:g}" class="what">{text}</text>'
        )
    width, height = widest + 2 * LANES, len(rows) * (HEIGHT + GAP_Y) - GAP_Y + 2 * MARGIN
    style = (
        "rect{fill:#f4f7fb;stroke:#39597a}text{font-family:sans-serif;text-anchor:middle;fill:#1c2733}"
        ".name{font-weight:bold;font-size:14px}.what{font-size:11px}"
        "path{fill:none;stroke:#7a8794;stroke-width:1.3;marker-end:url(#end)}"
    )
    head = (
        '<defs><marker id="end" markerWidth="7" markerHeight="7" refX="6" refY="3" orient="auto">'
        '<path d="M0 0 L6 3 L0 6 z" style="fill:#7a8794;stroke:none;marker-end:none"/></marker></defs>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}">\n<style>{style}</style>\n<rect width="100%" height="100%" '
        f'style="fill:white;stroke:none"/>\n{head}\n' + "\n".join(arrows + boxes) + "\n</svg>\n"
    )


if __name__ == "__main__":
    (ROOT / "docs" / "architecture.svg").write_text(draw())
