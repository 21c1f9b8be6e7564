"""The small twins of the paper's experiments vary the same as these, at a small size."""

from __future__ import annotations

import pytest

from tests.unit.spec.sweep_files import ORDER, hashes, load, runs, values

OTHERS = {"encoder.width", "data.size", "probe.every"}
"""What a small twin may vary or not: for encoders to be equally quick, and when it is probed."""


@pytest.mark.parametrize("name", ORDER)
def test_a_twin_varies_the_same_in_small(name: str) -> None:
    def varied(folder: str) -> set[str]:
        return {key for group in [load(folder, name)[0].axes, *load(folder, name)[0].zip] for key in group}

    assert varied("paper") - OTHERS == varied("small") - OTHERS
    assert len(runs("small", name)) <= len(runs("paper", name))
    assert not hashes("small", name) & hashes("paper", name)
    for field in ("student.alpha", "projector.parts", "encoder.name", "encoder.norm", "encoder.attention",
                  "teacher.update", "teacher.momentum"):  # fmt: skip
        assert values(name, field, "small") <= values(name, field)
    for spec in runs("small", name):
        assert spec.data.samples is not None
        assert spec.data.samples <= 10_000
        assert max(spec.projector.hidden) <= 512


@pytest.mark.parametrize("name", ["fig1", "fig3", "fig10"])
def test_a_twin_as_published_differs_in_the_weight_norm_alone(name: str) -> None:
    ours, theirs = runs("small", name), runs("small", f"{name}_as_published")
    for spec, twin in zip(ours, theirs, strict=True):
        parts = {"parts": "-/lb/fn/-/l/-"}
        assert spec.model_copy(update={"projector": spec.projector.model_copy(update=parts)}) == twin


def test_half_the_width_is_the_default_run_of_figure_1_in_small() -> None:
    (ours,) = {(spec.encoder.name, spec.encoder.width, spec.data.samples, spec.projector.out_dim, spec.train.epochs)
               for spec in runs("small", "fig1_half")}  # fmt: skip
    assert ours == ("vgg11", 0.5, 20_000, 4096, 100)


def test_small_outputs_lie_on_both_sides_of_their_bottleneck() -> None:
    (width,) = values("fig10", "projector.bottleneck", "small")
    sizes = values("fig10", "projector.out_dim", "small")
    for least, most in ((0, width // 4), (width // 4, width), (width, 4 * width + 1), (4 * width + 1, 2**16)):
        assert any(least <= size < most for size in sizes)
