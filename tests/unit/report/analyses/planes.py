"""Planes of functions that anybody can check, written as a landscape run writes its file."""

from __future__ import annotations

import io

import numpy as np

from rt_scale.report.analyses.planes import Array

VECTORS = np.array([[3.0, 0.0, 1.0, 2.0], [5.0, 1.0, 1.0, 0.0], [1.0, 4.0, 2.0, 1.0]])
"""The three networks, of four parameters; the first two are the encoder's."""


def grams(vectors: Array = VECTORS) -> dict[str, Array]:
    """Inner products of origin, x - origin and y - origin, whole and of the encoder."""
    rows = np.stack([vectors[0], vectors[1] - vectors[0], vectors[2] - vectors[0]])
    return {"gram": rows @ rows.T, "gram_encoder": rows[:, :2] @ rows[:, :2].T}


def plane_arrays(width: int = 21, height: int = 21, known: float = 1.0, window: float = 0.5) -> dict[str, Array]:
    """A plane from -window to 1 + window: KL 0 at the origin, with a cliff left of it, a barrier at a quarter of the
    way to x and to y, and low ends; ``known`` is the share of points that are computed, evenly spread."""
    x, y = (np.linspace(-window, 1 + window, n) for n in (width, height))
    across, up = np.meshgrid(x, y)
    far = np.hypot(across, up)
    kl = 1e-3 * np.where(across < 0, 30, 1) * far**2 * (1 + 8 * np.exp(-30 * (far - 0.25) ** 2))
    kl *= np.minimum(1, 0.05 + np.hypot(across - 1, up) ** 2) * np.minimum(1, 0.1 + np.hypot(across, up - 1) ** 2)
    linear = 0.2 + 0.25 * np.exp(-2 * ((across - 1.2) ** 2 + up**2))
    values = {"kl_train": kl, "kl_embedding_train": 40 * kl, "linear": linear, "linear_standardized": 0.3 + linear / 9}
    missing = np.random.default_rng(0).random((height, width)) >= known
    values = {name: np.where(missing, np.nan, each) for name, each in values.items()}
    values["norm"] = np.linalg.norm(VECTORS[0] + np.stack([across, up], -1) @ (VECTORS[1:] - VECTORS[0]), axis=-1)
    return {"x": x, "y": y, "corners": np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])} | grams() | values


def npz(arrays: dict[str, Array]) -> bytes:
    """The file of these arrays."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def line_arrays() -> dict[str, Array]:
    """The plane's row at y = 0, as a line to x, with two networks of a path."""
    plane = plane_arrays()
    row = {name: each[5] for name, each in plane.items() if each.shape == (21, 21)}
    parts = {name: plane[name][:2, :2] for name in ("gram", "gram_encoder")}
    path = {"path_at": np.array([[0.2], [0.7]]), "path_off": np.ones(2), "path_kl_train": np.ones(2)}
    return {"x": plane["x"], "corners": np.array([[0.0], [1.0]])} | parts | row | path
