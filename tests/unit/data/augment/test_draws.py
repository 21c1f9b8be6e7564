"""The parameters of views: their ranges, shares and keys."""

from __future__ import annotations

import pytest
import torch

from rt_scale.data.augment.draws import ViewDraws, augment_generator, draw_crop_flip, draw_multicrop
from rt_scale.spec.data import AugmentSpec, BlurSpec, JitterSpec

N = 4000


def _global(height: int = 40, width: int = 30, **changes: object) -> ViewDraws:
    spec = AugmentSpec.model_validate({"kind": "multicrop", "local_views": 0, "global_views": 1, **changes})
    return draw_multicrop(augment_generator(0, 0, 0), spec, N, height, width).global_views


def _share(mask: torch.Tensor) -> float:
    return mask.double().mean().item()


@pytest.mark.parametrize("key", [(1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_the_generator_depends_on_seed_epoch_and_step(key: tuple[int, int, int]) -> None:
    plain = torch.rand(3, generator=augment_generator(0, 0, 0))
    assert torch.equal(plain, torch.rand(3, generator=augment_generator(0, 0, 0)))
    assert not torch.equal(plain, torch.rand(3, generator=augment_generator(*key)))


def test_boxes_lie_in_the_image_and_have_the_area_and_shape_asked_for() -> None:
    top, left, height, width = _global(global_scale=(0.2, 0.5), ratio=(0.5, 1.5)).box
    assert min(top.min(), left.min()) == 0
    assert (top + height).max() == 40
    assert (left + width).max() == 30
    area = height * width / 1200
    assert 0.18 < area.min() < 0.22
    assert 0.48 < area.max() < 0.52
    assert area.mean().item() == pytest.approx(0.35, abs=0.01)
    ratio = width / height
    assert 0.46 < ratio.min() < 0.53
    assert 1.4 < ratio.max() < 1.6
    # Uniform in its logarithm: as many boxes on each side of the geometric mean.
    assert _share(ratio < (0.5 * 1.5) ** 0.5) == pytest.approx(0.5, abs=0.04)


def test_places_are_uniform() -> None:
    top, left, height, width = _global(20, 20, global_scale=(0.25, 0.25), ratio=(1.0, 1.0)).box
    assert height.unique().tolist() == width.unique().tolist() == [10]
    for start in (top, left):
        assert start.unique().tolist() == list(range(11))
        assert start.double().mean().item() == pytest.approx(5, abs=0.2)


@pytest.mark.parametrize(
    ("height", "width", "ratio", "expected"),
    [
        (40, 20, (2.0, 2.0), (15, 0, 10, 20)),
        (20, 40, (0.5, 0.5), (0, 15, 20, 10)),
        (20, 41, (1.5, 2.1), (0, 0, 20, 41)),
    ],
)
def test_boxes_that_never_fit_are_central(
    height: int, width: int, ratio: tuple[float, float], expected: tuple[int, ...]
) -> None:
    """As torchvision: the largest central box of an allowed shape, the whole image where its shape is allowed."""
    box = _global(height, width, global_scale=(1.0, 1.0), ratio=ratio).box
    assert expected in set(map(tuple, box.T.tolist()))
    top, left, tall, wide = box
    assert ((top >= 0) & (top + tall <= height)).all()
    assert ((left >= 0) & (left + wide <= width)).all()


def test_factors_fill_their_ranges() -> None:
    jitter = JitterSpec(brightness=1.5, contrast=0.4, saturation=0.2, hue=0.1)
    draws = _global(jitter=jitter, blur=BlurSpec(sigma=(0.5, 3.0)))
    for name, low, high in [
        ("brightness", 0.0, 2.5),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
        ("sigma", 0.5, 3.0),
    ]:
        values = getattr(draws, name)
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))


def test_every_order_of_jitter_is_as_likely() -> None:
    orders, counts = _global().order.unique(dim=0, return_counts=True)
    assert len(orders) == 24
    assert orders.sort(dim=1).values.tolist() == [[0, 1, 2, 3]] * 24
    assert counts.min() > 0.7 * N / 24


def test_shares_of_the_views() -> None:
    spec = AugmentSpec(kind="multicrop", global_views=3, local_views=2, solarize=0.3)
    draws = draw_multicrop(augment_generator(0, 0, 0), spec, N, 8, 8)
    assert draws.local_views is not None
    for views in draws:
        assert _share(views.flip) == pytest.approx(0.5, abs=0.03)
        assert _share(views.jitter) == pytest.approx(0.8, abs=0.03)
        assert _share(views.grayscale) == pytest.approx(0.2, abs=0.03)
    blur = [_share(view) for view in draws.global_views.blur.view(3, N)]
    assert blur == [1.0, pytest.approx(0.1, abs=0.03), pytest.approx(0.1, abs=0.03)]
    solarize = [_share(view) for view in draws.global_views.solarize.view(3, N)]
    assert solarize == [0.0, pytest.approx(0.3, abs=0.03), pytest.approx(0.3, abs=0.03)]
    assert _share(draws.local_views.blur) == pytest.approx(0.5, abs=0.03)
    assert _share(draws.local_views.solarize) == 0


def test_no_local_views() -> None:
    spec = AugmentSpec(kind="multicrop", local_views=0)
    assert draw_multicrop(augment_generator(0, 0, 0), spec, 2, 8, 8).local_views is None


def test_crop_flip_reaches_every_place() -> None:
    draws = draw_crop_flip(augment_generator(0, 0, 0), AugmentSpec(kind="crop_flip", padding=3, flip=0.2), N)
    assert draws.top.unique().tolist() == draws.left.unique().tolist() == list(range(7))
    assert not torch.equal(draws.top, draws.left)
    assert _share(draws.flip) == pytest.approx(0.2, abs=0.03)


def test_selected_views_keep_their_parameters() -> None:
    draws = _global()
    some = draws.select(draws.flip.nonzero().squeeze(1))
    assert some.flip.all()
    assert torch.equal(some.order, draws.order[draws.flip])
    assert torch.equal(some.box, draws.box[:, draws.flip])
