"""Planes as figures of Plotly and as files for other tools."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rt_scale.report.analyses.maps import Column
from rt_scale.report.analyses.planes import Plane, read_plane
from rt_scale.report.analyses.surfaces import surface, write_planes
from tests.unit.report.analyses.planes import npz, plane_arrays

NAMES = ("teacher", "student, alpha 0", "student, alpha 1")


@pytest.fixture(params=[1.0, 0.5])
def plane(request: pytest.FixtureRequest, tmp_path: Path) -> Plane:
    path = tmp_path / "plane.npz"
    path.write_bytes(npz(plane_arrays(width=7, height=5, known=request.param)))
    return read_plane(path)


def numbers(array: ElementTree.Element) -> np.ndarray:
    """What a reader of VTK makes of an element."""
    data = base64.b64decode(array.text or "")
    assert int(np.frombuffer(data[:8], "<u8")[0]) == len(data) - 8
    found = np.frombuffer(data[8:], {"Float64": "<f8", "Int64": "<i8"}[array.attrib["type"]])
    return found.reshape(-1, int(array.get("NumberOfComponents", 1)))


def test_polydata_has_every_point_and_measure(plane: Plane, tmp_path: Path) -> None:
    written, _ = write_planes(plane, tmp_path / "shown")
    root = ElementTree.parse(written).getroot()
    assert (root.tag, root.attrib["type"], root.attrib["header_type"]) == ("VTKFile", "PolyData", "UInt64")
    (piece,) = root.iter("Piece")
    assert (piece.attrib["NumberOfPoints"], piece.attrib["NumberOfPolys"]) == ("35", "24")
    arrays = {array.attrib["Name"]: numbers(array) for array in root.iter("DataArray")}
    points = plane.place(plane.grid).reshape(-1, 2)
    assert (arrays["Points"][:, :2] == points).all()
    assert not arrays["Points"][:, 2].any()
    for name, values in plane.values.items():
        assert np.array_equal(arrays[name].ravel(), values.ravel(), equal_nan=True)
    assert (arrays["offsets"].ravel() == 4 * np.arange(1, 25)).all()
    quads = arrays["connectivity"].reshape(-1, 4)
    places = np.stack(np.meshgrid(range(7), range(5)), axis=-1).reshape(-1, 2)
    for quad in quads:  # one step along each side, all around
        sides = np.diff(places[[*quad, quad[0]]], axis=0)
        assert (np.abs(sides).sum(axis=1) == 1).all()
        assert not sides.sum(axis=0).any()
    assert len({tuple(sorted(quad)) for quad in quads.tolist()}) == 24


def test_arrays_of_a_run_come_with_orthonormal_points(plane: Plane, tmp_path: Path) -> None:
    _, written = write_planes(plane, tmp_path / "shown")
    with np.load(written, allow_pickle=False) as file:
        assert (file["points"] == plane.place(plane.grid)).all()
        assert np.array_equal(file["kl_train"], plane.values["kl_train"], equal_nan=True)
        assert (file["gram_encoder"] == plane.gram_encoder).all()


def test_a_surface_has_a_height_for_each_measure_and_all_at_the_pointer(plane: Plane) -> None:
    figure = surface(Column("view", plane, NAMES), ["kl_train", "linear", "none"])
    json.dumps(figure, allow_nan=False)
    drawn, marks = figure["data"]
    heights = np.array(drawn["z"], float)
    computed = plane.computed
    assert (np.isfinite(heights) == computed).all()
    expected = np.log10(np.maximum(plane.values["kl_train"], 1e-7))
    assert heights[computed] == pytest.approx(expected[computed], rel=1e-4)
    assert (drawn["x"], drawn["y"]) == (pytest.approx(plane.x, rel=1e-4), pytest.approx(plane.y, rel=1e-4))
    assert "alpha 1" in figure["layout"]["scene"]["yaxis"]["title"]["text"]
    assert tuple(marks["text"]) == NAMES
    row, column = next(zip(*np.nonzero(computed), strict=True))
    place, *numbers = drawn["customdata"][column][row]
    assert place == f"({plane.x[column]:.3g}, {plane.y[row]:.3g})"
    linear = list(plane.values).index("linear")
    assert numbers[linear] == f"{100 * plane.values['linear'][row, column]:.1f} %"
    assert f"linear probe: %{{customdata[{linear + 1}]}}" in drawn["hovertemplate"]
    (menu,) = figure["layout"]["updatemenus"]
    assert [button["label"] for button in menu["buttons"]] == [
        "log10 KL to origin (training)",
        "linear probe",
    ]
    (changes, _) = menu["buttons"][1]["args"]
    assert np.array(changes["z"][0], float)[computed] == pytest.approx(plane.values["linear"][computed], rel=1e-4)
