"""Planes for looking at from all sides: as figures of Plotly, and as files for ParaView and NumPy."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from rt_scale.report.analyses.maps import Column, measure
from rt_scale.report.analyses.planes import PLANE, Array, Plane, read_plane
from rt_scale.spec.errors import InputError
from rt_scale.store.atomic import write_bytes
from rt_scale.store.sweep_runs import SweepRuns

_LIFT = 0.03
"""How far above the surface the networks are marked, as a share of its height."""

_SCALES = {
    name: [[float(place), to_hex(colormaps[name](place))] for place in np.linspace(0, 1, 11)]
    for name in ("YlGnBu", "viridis")
}
"""The colour maps as Plotly takes them."""


def surface(column: Column, shown: Sequence[str]) -> dict[str, Any]:
    """The figure of Plotly: one of the measures ``shown`` at a time as height and colour, all of them at the pointer.

    Coordinates are affine, as orthonormal planes can be long strips; heights of KL are log10, cut at the low end of the
    paper's scale.
    """
    plane = column.plane
    names, corners = [name for name in shown if name in plane.values], plane.corners[plane.inside]
    choices = [_choice(plane, name) for name in names]
    marks = [_marks(plane, name) for name in names]
    first, (numbers, template) = choices[0], _pointed(plane)
    traces = [
        {"type": "surface", "x": _plain(plane.x), "y": _plain(plane.y), "z": first["z"],
         "colorscale": first["colorscale"], "colorbar": {"title": {"text": first["title"]}, "len": 0.7},
         "customdata": numbers, "hovertemplate": template},
        {"type": "scatter3d", "x": _plain(corners[:, 0]), "y": _plain(corners[:, 1]), "z": marks[0],
         "mode": "markers+text", "text": [column.names[corner] for corner in plane.inside], "hoverinfo": "text",
         "marker": {"size": 4, "color": "black"}},
    ]  # fmt: skip
    buttons = [
        {"label": each["title"], "method": "update", "args": [
            {"z": [each["z"], mark], "colorscale": [each["colorscale"], None],
             "colorbar.title.text": [each["title"], None]},
            {"scene.zaxis.title.text": each["title"]}]}
        for each, mark in zip(choices, marks, strict=True)
    ]  # fmt: skip
    x_axis, y_axis = ({"title": {"text": f"to {name}"}} for name in column.names[1:])
    layout = {
        "height": 620, "margin": {"l": 0, "r": 0, "t": 40, "b": 0}, "showlegend": False,
        "scene": {"xaxis": x_axis, "yaxis": y_axis, "zaxis": {"title": {"text": first["title"]}},
                  "aspectratio": {"x": 1.3, "y": 1.3, "z": 0.7}, "camera": {"eye": {"x": 1.1, "y": -2.1, "z": 1.5}}},
        "updatemenus": [{"buttons": buttons, "x": 0, "xanchor": "left", "y": 1.05}],
    }  # fmt: skip
    return {"data": traces, "layout": layout}


def _choice(plane: Plane, name: str) -> dict[str, Any]:
    """The height, its title and colours of a measure."""
    about, values = measure(name), plane.values[name]
    title = f"log10 {about.title}" if about.log else about.title
    return {
        "z": _plain(_height(name, values)),
        "title": title,
        "colorscale": _SCALES[about.colours],
    }


def _height(name: str, values: Array) -> Array:
    about = measure(name)
    return np.log10(np.maximum(values, about.low)) if about.log else values


def _marks(plane: Plane, name: str) -> list[float | None]:
    """Just above the height of the measure at the grid's point nearest to each network inside."""
    rows, columns = (
        [int(np.abs(axis - value).argmin()) for value in plane.corners[plane.inside, number]]
        for axis, number in ((plane.y, 1), (plane.x, 0))
    )
    heights = _height(name, plane.filled(name))
    found: list[float | None] = _plain(heights[rows, columns] + _LIFT * np.ptp(heights))
    return found


def _pointed(plane: Plane) -> tuple[list[list[list[str]]], str]:
    """What the pointer shows at each point: numbers as text, and the template that they fill.

    They are [W][H], as Plotly looks up what belongs to a point of a surface by x first, though its heights are [H][W].
    """
    titles = ["at", *(measure(name).title for name in plane.values)]
    template = "<br>".join(f"{title}: %{{customdata[{number}]}}" for number, title in enumerate(titles))

    def texts(row: int, column: int) -> list[str]:
        place = f"({plane.x[column]:.3g}, {plane.y[row]:.3g})"
        return [place, *(measure(name).text(values[row, column]) for name, values in plane.values.items())]

    numbers = [[texts(row, column) for row in range(len(plane.y))] for column in range(len(plane.x))]
    return numbers, f"{template}<extra></extra>"


def _plain(values: Array) -> Any:
    """Nested lists with 5 digits; None where there is no number, as JSON has none."""
    if values.ndim > 1:
        return [_plain(each) for each in values]
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def export_planes(sweeps: Iterable[SweepRuns], folder: Path) -> list[Path]:
    """Write the planes of sweeps, finished or not, as :func:`write_planes` does, each by the name of its run.

    InputError: there are none.
    """
    runs = {point.spec.name: sweep.store.run(point.spec) for sweep in sweeps for point in sweep.points}
    begun = {name: path for name, run in runs.items() if (path := run.artifacts / PLANE).exists()}
    if not begun:
        raise InputError(
            f"None of these runs ({len(runs)}) has a plane: run one of kind landscape first, or name the store with "
            "--store."
        )
    return [written for name, path in begun.items() for written in write_planes(read_plane(path), folder / name)]


def write_planes(plane: Plane, path: Path) -> list[Path]:
    """Write ``path`` with the suffixes vtp and npz; orthonormal coordinates, and every measure at every point.

    vtp: VTK XML PolyData of Float64, quadrilaterals in the plane z = 0 (ParaView: Warp By Scalar). npz: ``points``
    [H, W, 2], and the arrays of the run.
    """
    points = plane.place(plane.grid)
    file = io.BytesIO()
    places = {name: getattr(plane, name) for name in ("x", "y", "corners", "gram", "gram_encoder")}
    np.savez_compressed(file, allow_pickle=False, points=points, **places, **plane.values)
    written = {path.with_suffix(".vtp"): _polydata(points, plane), path.with_suffix(".npz"): file.getvalue()}
    for each, data in written.items():
        write_bytes(each, data)
    return list(written)


def _polydata(points: Array, plane: Plane) -> bytes:
    """The text of a vtp file, numbers in base64, which keeps NaN and every digit."""
    height, width = points.shape[:2]
    corner = (np.arange(height - 1)[:, None] * width + np.arange(width - 1)).ravel()
    quads = np.stack([corner, corner + 1, corner + width + 1, corner + width], axis=1)
    flat = np.concatenate([points, np.zeros((height, width, 1))], axis=-1).reshape(-1, 3)
    measured = "".join(_data_array(values.ravel(), name) for name, values in plane.values.items())
    connected = _data_array(quads.ravel(), "connectivity") + _data_array(4 * np.arange(1, len(quads) + 1), "offsets")
    return (
        '<?xml version="1.0"?>\n'
        '<VTKFile type="PolyData" version="1.0" byte_order="LittleEndian" header_type="UInt64">\n<PolyData>\n'
        f'<Piece NumberOfPoints="{len(flat)}" NumberOfPolys="{len(quads)}">\n'
        f"<Points>\n{_data_array(flat, 'Points')}</Points>\n<Polys>\n{connected}</Polys>\n"
        f"<PointData>\n{measured}</PointData>\n</Piece>\n</PolyData>\n</VTKFile>\n"
    ).encode()


def _data_array(values: np.ndarray[Any, Any], name: str) -> str:
    """An element with the numbers, after their size in bytes."""
    whole = values.dtype.kind == "i"
    data = values.astype("<i8" if whole else "<f8").tobytes()
    text = base64.b64encode(np.array(len(data), "<u8").tobytes() + data).decode()
    parts = f' NumberOfComponents="{values.shape[1]}"' if values.ndim > 1 else ""
    kind = "Int64" if whole else "Float64"
    return f'<DataArray type="{kind}" Name={quoteattr(name)}{parts} format="binary">{text}</DataArray>\n'
