"""Views as the training loop asks for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rt_scale.data.augment.draws import augment_generator, draw_crop_flip, draw_multicrop
from rt_scale.data.augment.views import augmented_inputs, multicrop, padded_crops
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Share
from rt_scale.spec.data import AugmentSpec
from rt_scale.spec.errors import InputError

MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
MULTICROP = {"kind": "multicrop", "local_views": 2, "global_size": 12, "local_size": 8}


def _images(channels: int = 3, batch: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 12, 12, channels), generator=generator, dtype=torch.uint8)


def _augmented(
    spec: dict[str, Any], images: torch.Tensor, *, step: int = 0, **changes: Any
) -> tuple[torch.Tensor, ...]:
    channels = images.shape[-1]
    given = {"mean": MEAN[:channels], "std": STD[:channels], "size": None, "dtype": torch.float32, **changes}
    return augmented_inputs(images, AugmentSpec(**spec), augment_generator(0, 0, step), **given)


def test_none_is_the_images_alone_and_draws_nothing() -> None:
    generator = augment_generator(0, 0, 0)
    before = generator.get_state()
    (inputs,) = augmented_inputs(_images(), AugmentSpec(), generator, mean=MEAN, std=STD, size=8, dtype=torch.float64)
    assert torch.equal(inputs, to_inputs(_images(), MEAN, STD, 8, torch.float64))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("size", [None, 8])
def test_crop_flip_is_one_view_of_shifted_and_mirrored_images(size: int | None) -> None:
    spec = {"kind": "crop_flip", "padding": 2}
    (inputs,) = _augmented(spec, _images(), size=size)
    draws = draw_crop_flip(augment_generator(0, 0, 0), AugmentSpec(**spec), 16)
    shifted = padded_crops(_images(), draws, 2)
    assert torch.equal(inputs, to_inputs(shifted, MEAN, STD, size, torch.float32))
    assert not torch.equal(shifted, _images())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_multicrop_gives_normalised_views(channels: int, dtype: torch.dtype, device: str) -> None:
    views = _augmented(MULTICROP, _images(channels).to(device), dtype=dtype)
    assert [tuple(view.shape) for view in views] == [(16, channels, side, side) for side in (12, 12, 8, 8)]
    drawn = draw_multicrop(augment_generator(0, 0, 0), AugmentSpec(**MULTICROP), 16, 12, 12)
    plain = multicrop(_images(channels), AugmentSpec(**MULTICROP), drawn, torch.float64)
    tolerance = {torch.float32: 3e-4, torch.float64: 1e-12, torch.bfloat16: 4e-2}[dtype]
    for view, expected in zip(views, plain, strict=True):
        assert view.dtype == dtype
        assert view.device.type == device
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert expected.min() >= 0
        assert expected.max() <= 1
        mean, std = (torch.tensor(each[:channels], dtype=torch.float64).view(-1, 1, 1) for each in (MEAN, STD))
        torch.testing.assert_close(view.double().cpu(), (expected - mean) / std, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["crop_flip", "multicrop"])
def test_views_are_a_function_of_the_key(kind: str) -> None:
    spec = MULTICROP if kind == "multicrop" else {"kind": kind}
    state = torch.get_rng_state()
    first, again, other = (_augmented(spec, _images(), step=step) for step in (3, 3, 4))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_views_of_an_image_differ_and_do_not_depend_on_its_neighbours() -> None:
    images = _images()
    views = _augmented(MULTICROP, images)
    assert not torch.equal(views[0], views[1])
    assert not torch.equal(views[2], views[3])
    changed = images.clone()
    changed[0] = 255 - changed[0]
    others = _augmented(MULTICROP, changed)
    for before, after in zip(views, others, strict=True):
        assert not torch.allclose(before[0], after[0])
        torch.testing.assert_close(before[1:], after[1:], atol=1e-5, rtol=0)


def test_images_are_left_as_they_are() -> None:
    images = _images()
    for spec in (MULTICROP, {"kind": "crop_flip"}):
        _augmented(spec, images)
        assert torch.equal(images, _images())


def test_autocast_around_it_changes_nothing() -> None:
    expected = _augmented(MULTICROP, _images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = _augmented(MULTICROP, _images())
    assert all(torch.equal(one, two) for one, two in zip(expected, views, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"flip": 0.0},
        {"global_scale": (0.9, 1.0)},
        {"local_scale": (0.9, 1.0)},
        {"ratio": (0.5, 0.6)},
        {"interpolation": "bilinear"},
        {"jitter": {"probability": 0.1}},
        {"jitter": {"brightness": 0.9}},
        {"jitter": {"contrast": 0.9}},
        {"jitter": {"saturation": 0.9}},
        {"jitter": {"hue": 0.5}},
        {"grayscale": 1.0},
        {"blur": {"first": 0.0}},
        {"blur": {"others": 1.0}},
        {"blur": {"local": 1.0}},
        {"blur": {"sigma": (1.9, 2.0)}},
        {"solarize": 1.0},
        {"solarize_threshold": 0.1},
        {"global_views": 3},
        {"local_views": 0},
        {"global_size": 10},
        {"local_size": 10},
    ],
)
def test_every_field_of_multicrop_changes_the_views(change: dict[str, Any]) -> None:
    plain, changed = _augmented(MULTICROP, _images()), _augmented({**MULTICROP, **change}, _images())
    shapes = [[view.shape for view in views] for views in (plain, changed)]
    assert shapes[0] != shapes[1] or any(not torch.equal(*pair) for pair in zip(plain, changed, strict=True))


@pytest.mark.parametrize("change", [{"flip": 0.0}, {"padding": 1}])
def test_every_field_of_crop_flip_changes_the_view(change: dict[str, Any]) -> None:
    spec = {"kind": "crop_flip"}
    assert not torch.equal(_augmented(spec, _images())[0], _augmented({**spec, **change}, _images())[0])


def test_greyscale_has_equal_channels() -> None:
    spec = {**MULTICROP, "grayscale": 1.0}
    for view in multicrop(
        _images(), AugmentSpec(**spec), draw_multicrop(augment_generator(0, 0, 0), AugmentSpec(**spec), 16, 12, 12)
    ):
        torch.testing.assert_close(view[:, 0], view[:, 1])
        torch.testing.assert_close(view[:, 0], view[:, 2])


def test_two_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"1 or 3 channels; these have 2"):
        _augmented(MULTICROP, _images(2))


@pytest.mark.parametrize("spec", [{"kind": "none"}, {"kind": "crop_flip", "padding": 2}, MULTICROP])
@pytest.mark.parametrize(("start", "end"), [(0, 16), (0, 5), (5, 16), (15, 16)])
def test_a_share_of_a_batch_gets_the_views_that_it_has_in_the_whole(spec: dict[str, Any], start: int, end: int) -> None:
    whole = _augmented(spec, _images(), dtype=torch.float64)
    part = _augmented(spec, _images()[start:end], dtype=torch.float64, share=Share(16, start))
    for own, view in zip(part, whole, strict=True):
        torch.testing.assert_close(own, view[start:end], rtol=0, atol=1e-12)
