from __future__ import annotations

import pytest
import torch

from rt_scale.data.inputs import to_inputs
from rt_scale.spec.errors import InputError

MEAN, STD = (0.5, 0.25, 0.1), (0.2, 0.3, 0.4)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def _images(channels: int, size: int = 6, device: str = "cpu") -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (5, size, size, channels), generator=generator, dtype=torch.uint8)
    return pixels.to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
def test_pixels_are_normalised(channels: int, dtype: torch.dtype, tolerance: float, device: str) -> None:
    images = _images(channels, device=device)
    inputs = to_inputs(images, MEAN[:channels], STD[:channels], None, dtype)
    mean = torch.tensor(MEAN[:channels], dtype=torch.float64, device=device)
    std = torch.tensor(STD[:channels], dtype=torch.float64, device=device)
    expected = ((images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    assert inputs.dtype == dtype
    assert inputs.device == images.device
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(inputs.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("size", [3, 12])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_images_are_resized_with_antialiasing(size: int, dtype: torch.dtype) -> None:
    images = _images(3)
    inputs = to_inputs(images, MEAN, STD, size, dtype)
    scaled = torch.nn.functional.interpolate(
        images.permute(0, 3, 1, 2).double(), size=(size, size), mode="bilinear", antialias=True
    )
    mean, std = (torch.tensor(each, dtype=torch.float64).view(3, 1, 1) for each in (MEAN, STD))
    assert inputs.shape == (5, 3, size, size)
    assert inputs.dtype == dtype
    assert inputs.is_contiguous(memory_format=torch.channels_last)
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(inputs.double(), (scaled / 255 - mean) / std, atol=tolerance, rtol=tolerance)


def test_a_flat_image_stays_flat_when_resized() -> None:
    images = torch.full((1, 7, 7, 1), 100, dtype=torch.uint8)
    inputs = to_inputs(images, (0.0,), (1.0,), 3, torch.float64)
    torch.testing.assert_close(inputs, torch.full((1, 1, 3, 3), 100 / 255, dtype=torch.float64))


def test_the_size_it_has_already_changes_nothing() -> None:
    images = _images(3)
    same = to_inputs(images, MEAN, STD, 6, torch.float32)
    assert torch.equal(same, to_inputs(images, MEAN, STD, None, torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [None, 3, 12])
def test_the_memory_format_is_a_choice_and_no_number_changes(size: int | None, dtype: torch.dtype) -> None:
    pixels = to_inputs(_images(3), MEAN, STD, size, dtype, channels_last=True)
    maps = to_inputs(_images(3), MEAN, STD, size, dtype, channels_last=False)
    assert torch.equal(pixels, maps)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert not pixels.is_contiguous()
    assert maps.is_contiguous()


@pytest.mark.parametrize("size", [None, 3, 12])
def test_grey_images_have_the_strides_of_the_format_too(size: int | None) -> None:
    """A convolution looks at strides, which one channel leaves open: both formats are contiguous to torch."""
    pixels, maps = (
        to_inputs(_images(1), MEAN[:1], STD[:1], size, torch.float32, channels_last=layout) for layout in (True, False)
    )
    side = size or 6
    assert torch.equal(pixels, maps)
    assert maps.stride() == (side**2, side**2, side, 1)
    assert pixels.stride() == (side**2, 1, side, 1)


def test_constants_made_in_inference_mode_serve_outside_of_it() -> None:
    images = _images(1)
    with torch.inference_mode():
        to_inputs(images, (0.123,), (0.456,), None, torch.float32)
    weight = torch.ones(1, 1, 1, 1, requires_grad=True)
    (to_inputs(images, (0.123,), (0.456,), None, torch.float32) * weight).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize(
    ("mean", "std", "size", "message"),
    [
        ((0.5,), STD, None, "3 channels"),
        (MEAN, (0.5,), None, "3 channels"),
        (MEAN, (0.1, 0.0, 0.1), None, "std above 0"),
    ],
)
def test_impossible_requests_are_refused(
    mean: tuple[float, ...], std: tuple[float, ...], size: int | None, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        to_inputs(_images(3), mean, std, size, torch.float32)
