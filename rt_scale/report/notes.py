"""What one sees in the demo, in its own numbers, and what so small a set cannot show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rt_scale.report.tables import Estimate, Row, gain_text
from rt_scale.system.paths import bundled_sweep

ALPHA, OUT_DIM = "student.alpha", "projector.out_dim"


def demo_notes(tables: Mapping[str, Sequence[Row]]) -> str:
    """The demo's tables in sentences.

    Args:
        tables: rows by probe, of a sweep over alpha and the output dimension; those of the linear probe are
            needed, the others are used where they are there.
    """
    grid = {(row.values[ALPHA], row.values[OUT_DIM]): row for row in tables["linear"]}
    alphas, dims = sorted({key[0] for key in grid}), sorted({key[1] for key in grid})
    local, far, narrow = (grid[key] for key in ((alphas[0], dims[-1]), (alphas[-1], dims[-1]), (alphas[0], dims[0])))
    seen = (
        f"What to see. With {dims[-1]} outputs, a student that starts at its random teacher (alpha = {alphas[0]:g}) "
        f"ends {_against(local.gain)} its teacher in the linear probe: {gain_text(local.gain)} points over "
        f"{local.gain.n} seeds, from {100 * local.teacher.mean:.0f} to {100 * local.student.mean:.0f} %. "
        f"One that starts at a draw of its own (alpha = {alphas[-1]:g}): {gain_text(far.gain)}. "
        f"With {dims[0]} outputs: {gain_text(narrow.gain)}."
    )
    others = []
    for probe, name in (("linear_standardized", "the linear probe of standardised embeddings"), ("knn", "kNN")):
        row = next((row for row in tables.get(probe, ()) if row.values == local.values), None)
        if row is not None:
            others.append(f"{name} changes by {gain_text(row.gain)} from {100 * row.teacher.mean:.0f} %")
    unseen = (
        f"What this set cannot show. For the same runs {' and '.join(others)}; pixels alone reach "
        f"{100 * local.input.mean:.0f} % in the linear probe. So on 8 x 8 digits the gain lies in what ten epochs "
        "of a linear probe can use, the scale and conditioning of the embedding, not in new information about "
        f"digits. For photographs see {bundled_sweep('cifar10_small')}."
        if others
        else "What this set cannot show: that the gain is more than scale; probe with standardized and knn, too."
    )
    return f"{seen}\n\n{unseen}"


def _against(gain: Estimate) -> str:
    if gain.low is None or gain.high is None or gain.low < 0 < gain.high:
        return "within seed noise of"
    return "above" if gain.mean > 0 else "below"
