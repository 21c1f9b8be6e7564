"""Batched augmentation against torchvision, image by image with the same parameters, in float64 and float32."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as classic
from torchvision.transforms.v2 import functional as reference

from rt_scale.data.augment.draws import (
    CropFlipDraws,
    ViewDraws,
    augment_generator,
    draw_crop_flip,
    draw_multicrop,
)
from rt_scale.data.augment.views import (
    augmented_inputs,
    blur_taps,
    blurred,
    greyscaled,
    jittered,
    multicrop,
    padded_crops,
    resized_crops,
)
from rt_scale.data.beton import open_beton, write
from rt_scale.data.loaders.base import Batch
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.spec.data import AugmentSpec

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6}
JITTERS = (
    lambda pixels, draws, row: reference.adjust_brightness(pixels, draws.brightness[row].item()),
    lambda pixels, draws, row: reference.adjust_contrast(pixels, draws.contrast[row].item()),
    lambda pixels, draws, row: reference.adjust_saturation(pixels, draws.saturation[row].item()),
    lambda pixels, draws, row: _adjust_hue(pixels, draws.hue[row].item()),
)


def _adjust_hue(pixels: torch.Tensor, factor: float) -> torch.Tensor:
    # torchvision turns hues in float32, whatever it is given.
    return reference.adjust_hue(pixels.float(), factor).to(pixels.dtype)


def _images(batch: int, height: int = 20, width: int = 20, channels: int = 3) -> torch.Tensor:
    """Smooth and noisy colours, greys, black and white: what every branch of a colour space sees."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, height, width, channels), generator=generator, dtype=torch.uint8)
    ramp = torch.linspace(0, 255, width).to(torch.uint8)
    images[0, : height // 2] = ramp[None, :, None]
    images[1, :, : width // 2] = 255
    images[1, :, width // 2 :] = 0
    return images


def _pixels(images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).to(dtype) / 255


def _draws(batch: int, **changes: torch.Tensor) -> ViewDraws:
    spec = AugmentSpec(kind="multicrop", local_views=0, global_views=1)
    drawn = draw_multicrop(augment_generator(0, 0, 0), spec, batch, 20, 20).global_views
    return ViewDraws(**{**vars(drawn), **changes})


def _close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float | None = None) -> None:
    limit = TOLERANCE[ours.dtype] if tolerance is None else tolerance
    torch.testing.assert_close(ours.cpu(), expected.to(ours.dtype), atol=limit, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [7, 20, 33])
def test_a_resized_crop(size: int, interpolation: str, dtype: torch.dtype, device: str) -> None:
    """Reduced and enlarged, at the borders, a single pixel, the whole image, mirrored or not."""
    corners = [(0, 0, 20, 24), (0, 0, 20, 24), (19, 23, 1, 1), (3, 5, 7, 7), (13, 0, 7, 20), (0, 17, 18, 7)]
    boxes = torch.tensor(corners * 2).T
    flip = torch.tensor([False, True] * 6)
    pixels = _pixels(_images(3, 20, 24), dtype)
    ours = resized_crops(pixels.to(device), boxes, flip, size, interpolation)
    assert ours.shape == (12, 3, size, size)
    for view, (top, left, height, width) in enumerate(corners * 2):
        image = pixels[view % 3]
        mode = reference.InterpolationMode(interpolation)
        expected = reference.resized_crop(image, top, left, height, width, [size, size], mode, antialias=True)
        expected = reference.horizontal_flip(expected) if flip[view] else expected
        _close(ours[view], expected.clamp(0, 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_in_every_order(channels: int, dtype: torch.dtype, device: str) -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))
    pixels = _pixels(_images(24, channels=channels), dtype)
    draws = _draws(24, order=orders, hue=torch.linspace(-0.5, 0.5, 24, dtype=torch.float64))
    ours = jittered(pixels.clone().to(device), draws)
    for row, order in enumerate(orders.tolist()):
        expected = pixels[row]
        for each in order:
            expected = JITTERS[each](expected, draws, row)
        # The hue that torchvision turns in float32 passes through at most three blends of factor < 1.5.
        _close(ours[row], expected, 5e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [4, 20])
def test_blur(size: int, dtype: torch.dtype, device: str) -> None:
    draws = _draws(9)
    taps = blur_taps(2.0, size)
    assert taps == {4: 7, 20: 13}[size]
    pixels = _pixels(_images(9, size, size), dtype)
    ours = blurred(pixels.to(device), draws.sigma, taps)
    for row in range(9):
        _close(ours[row], reference.gaussian_blur(pixels[row], [taps, taps], [draws.sigma[row].item()]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_greyscale_and_solarise(channels: int, dtype: torch.dtype) -> None:
    pixels = _pixels(_images(4, channels=channels), dtype)
    for row in range(4):
        _close(greyscaled(pixels)[row], reference.rgb_to_grayscale(pixels[row], channels), 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("channels", [1, 3])
def test_padded_crops_are_bitwise_equal(channels: int, padding: int, device: str) -> None:
    images = _images(40, 9, 12, channels)
    draws = draw_crop_flip(augment_generator(0, 1, 2), AugmentSpec(kind="crop_flip", padding=padding), 40)
    corners = [torch.tensor([0, 2 * padding, *each[2:].tolist()]) for each in (draws.top, draws.left)]
    draws = CropFlipDraws(*corners, draws.flip)
    ours = padded_crops(images.to(device), draws, padding).cpu()
    for row, image in enumerate(images.permute(0, 3, 1, 2)):
        padded = reference.pad(image, [padding])
        expected = reference.crop(padded, int(draws.top[row]), int(draws.left[row]), 9, 12)
        expected = reference.horizontal_flip(expected) if draws.flip[row] else expected
        assert torch.equal(ours[row].permute(2, 0, 1), expected)


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
SUPERVISED = AugmentSpec(kind="crop_flip")


def _recipe(batch: Batch, epoch: int, step: int) -> torch.Tensor:
    generator = augment_generator(5, epoch, step)
    given = {"mean": MEAN, "std": STD, "size": None, "dtype": torch.float32}
    (inputs,) = augmented_inputs(batch.images, SUPERVISED, generator, **given)
    return inputs.cpu()


@pytest.mark.parametrize("device", DEVICES)
def test_the_supervised_recipe_is_torchvisions_on_pictures(tmp_path: Path, device: str) -> None:
    """Pad 4, crop, flip, ToTensor, Normalize one PIL image after another, whoever reads the images, resumed or not."""
    images = _images(48, 32, 32).numpy()
    write(tmp_path / "train.beton", [images], np.arange(48), image_shape=(32, 32, 3))
    beton = open_beton(tmp_path / "train.beton")
    for host, first in [(True, 0), (False, 0), (False, 2)]:
        loader = ResidentLoader(beton, batch_size=20, seed=0, device=device, host=host)
        for step, batch in enumerate(loader.epoch(3, first), start=first):
            ours = _recipe(batch, 3, step)
            draws = draw_crop_flip(augment_generator(5, 3, step), SUPERVISED, len(batch.index))
            for row, sample in enumerate(batch.index.tolist()):
                picture = classic.pad(Image.fromarray(images[sample]), 4)
                picture = classic.crop(picture, int(draws.top[row]), int(draws.left[row]), 32, 32)
                picture = classic.hflip(picture) if draws.flip[row] else picture
                expected = classic.normalize(classic.to_tensor(picture), MEAN, STD)
                torch.testing.assert_close(ours[row], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_all_views_of_a_batch(channels: int, device: str) -> None:
    """Every step in its order, on the views that its mask names and no other."""
    spec = AugmentSpec(kind="multicrop", local_views=3, global_size=20, local_size=9)
    images = _images(16, channels=channels)
    draws = draw_multicrop(augment_generator(3, 1, 4), spec, 16, 20, 20)
    assert draws.local_views is not None
    ours = multicrop(images.to(device), spec, draws)
    assert [view.shape[-1] for view in ours] == [20, 20, 9, 9, 9]
    drawn = [(draws.global_views, view) for view in range(2)] + [(draws.local_views, view) for view in range(3)]
    for view, (parameters, number) in zip(ours, drawn, strict=True):
        for row in range(16):
            expected = _one(images[row], spec, parameters, 16 * number + row, view.shape[-1])
            _close(view[row], expected, 2e-5)


def _one(image: torch.Tensor, spec: AugmentSpec, draws: ViewDraws, row: int, size: int) -> torch.Tensor:
    box = draws.box[:, row].tolist()
    mode = reference.InterpolationMode(spec.interpolation)
    pixels = reference.resized_crop(_pixels(image[None], torch.float32)[0], *box, [size, size], mode).clamp(0, 1)
    if draws.flip[row]:
        pixels = reference.horizontal_flip(pixels)
    if draws.jitter[row]:
        for each in draws.order[row].tolist():
            pixels = JITTERS[each](pixels, draws, row)
    if draws.grayscale[row]:
        pixels = reference.rgb_to_grayscale(pixels, len(pixels))
    if draws.blur[row]:
        taps = blur_taps(spec.blur.sigma[1], size)
        pixels = reference.gaussian_blur(pixels, [taps, taps], [draws.sigma[row].item()])
    if draws.solarize[row]:
        pixels = reference.solarize(pixels, spec.solarize_threshold)
    return pixels
