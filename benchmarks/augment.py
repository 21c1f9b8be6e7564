"""Multi-crop views of a batch: ours against torchvision v2 and kornia, which is faster and which is exact.

    python benchmarks/augment.py [--batch 64] [--locals 10] [--global-size 32] [--local-size 16] [--rounds 5]

Exact means: what torchvision gives for each image on its own with the same parameters. kornia is no
dependency of rt-scale; it is measured where it can be imported (PYTHONPATH=folder of a --target install).
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path

import measure
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from rt_scale.data.augment import multicrop
from rt_scale.data.blur import blur_taps, blurred
from rt_scale.data.colour import jittered
from rt_scale.data.crops import resized_crops
from rt_scale.data.draws import ViewDraws, augment_generator, draw_multicrop
from rt_scale.spec.augment import AugmentSpec

Views = Callable[[torch.Tensor], object]


def torchvision_views(spec: AugmentSpec) -> list[v2.Transform]:
    """One transform a view, with the parameters of ``spec``."""
    return [_torchvision_view(spec, view) for view in range(spec.global_views + spec.local_views)]


def _torchvision_view(spec: AugmentSpec, view: int) -> v2.Transform:
    size, scale, blur, solarize = _settings(spec, view)
    jitter = spec.jitter
    change = v2.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    taps = blur_taps(spec.blur.sigma[1], size)
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale, spec.ratio, v2.InterpolationMode(spec.interpolation), antialias=True),
            v2.RandomHorizontalFlip(spec.flip),
            v2.Lambda(lambda pixels: pixels.clamp(0, 1)),
            v2.RandomApply([change], jitter.probability),
            v2.RandomGrayscale(spec.grayscale),
            v2.RandomApply([v2.GaussianBlur(taps, spec.blur.sigma)], blur),
            v2.RandomSolarize(spec.solarize_threshold, solarize),
        ]
    )


def kornia_views(spec: AugmentSpec) -> list[torch.nn.Module]:
    """One module a view. kornia neither antialiases crops nor clamps them, and draws from the global generator."""
    import kornia.augmentation as kornia

    views = []
    for view in range(spec.global_views + spec.local_views):
        size, scale, blur, solarize = _settings(spec, view)
        jitter, taps = spec.jitter, blur_taps(spec.blur.sigma[1], size)
        changes = (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        views.append(
            torch.nn.Sequential(
                kornia.RandomResizedCrop(
                    (size, size), scale, spec.ratio, resample=spec.interpolation.upper(), align_corners=False
                ),
                kornia.RandomHorizontalFlip(p=spec.flip),
                kornia.ColorJiggle(*changes, p=jitter.probability),
                kornia.RandomGrayscale(p=spec.grayscale),
                kornia.RandomGaussianBlur((taps, taps), spec.blur.sigma, p=blur),
                kornia.RandomSolarize((spec.solarize_threshold,) * 2, (0.0, 0.0), p=solarize),
            )
        )
    return views


def _settings(spec: AugmentSpec, view: int) -> tuple[int, tuple[float, float], float, float]:
    if view == 0:
        return spec.global_size, spec.global_scale, spec.blur.first, 0.0
    if view < spec.global_views:
        return spec.global_size, spec.global_scale, spec.blur.others, spec.solarize
    return spec.local_size, spec.local_scale, spec.blur.local, 0.0


def print_exactness(images: torch.Tensor, spec: AugmentSpec) -> None:
    """Largest difference in grey levels of 255 from torchvision image by image, on the same parameters."""
    pixels = images.permute(0, 3, 1, 2).float() / 255
    draws = draw_multicrop(augment_generator(0, 0, 0), spec, *images.shape[:3]).global_views
    draws = draws.select(torch.arange(len(images)))
    size, taps = spec.global_size, blur_taps(spec.blur.sigma[1], images.shape[1])
    wanted = _one_by_one(pixels, draws, size, taps)
    found = {
        "crop": ("ours", resized_crops(pixels, draws.boxes, torch.zeros(len(pixels), dtype=bool), size, "bicubic")),
        "jitter": ("ours", jittered(pixels.clone(), draws)),
        "blur": ("ours", blurred(pixels, draws.sigma, taps)),
    }
    for name, (who, given) in found.items():
        print(f"{who + ', ' + name:<28} {255 * (given - wanted[name]).abs().max().item():10.5f} grey levels")
    for name, given in (_kornia_on(pixels, draws, size, taps) if _has_kornia() else {}).items():
        print(f"{'kornia, ' + name:<28} {255 * (given - wanted[name]).abs().max().item():10.5f} grey levels")


def _one_by_one(pixels: torch.Tensor, draws: ViewDraws, size: int, taps: int) -> dict[str, torch.Tensor]:
    """torchvision's functional, with the parameters of each row."""
    numbers = {name: getattr(draws, name).tolist() for name in ("brightness", "contrast", "saturation", "hue", "sigma")}
    places = [getattr(draws.boxes, name).tolist() for name in ("top", "left", "height", "width")]
    adjust = {name: getattr(functional, f"adjust_{name}") for name in list(numbers)[:4]}
    every = {
        name: torch.stack([change(image, value) for image, value in zip(pixels, numbers[name], strict=True)])
        for name, change in adjust.items()
    }
    jitter = []
    for row, image in enumerate(pixels):
        for step in draws.order[row].tolist():
            name = list(adjust)[step]
            image = adjust[name](image, numbers[name][row])
        jitter.append(image)
    mode = v2.InterpolationMode.BICUBIC
    crops = [
        functional.resized_crop(image, *box, [size, size], mode, antialias=True).clamp(0, 1)
        for image, box in zip(pixels, zip(*places, strict=True), strict=True)
    ]
    blurs = [
        functional.gaussian_blur(image, taps, [sigma]) for image, sigma in zip(pixels, numbers["sigma"], strict=True)
    ]
    return {**every, "jitter": torch.stack(jitter), "crop": torch.stack(crops), "blur": torch.stack(blurs)}


def _kornia_on(pixels: torch.Tensor, draws: ViewDraws, size: int, taps: int) -> dict[str, torch.Tensor]:
    """kornia's batched functions, with the parameters of all rows."""
    import kornia

    boxes = draws.boxes
    right, bottom = boxes.left + boxes.width - 1, boxes.top + boxes.height - 1
    corners = [(boxes.left, boxes.top), (right, boxes.top), (right, bottom), (boxes.left, bottom)]
    source = torch.stack([torch.stack(corner, dim=1) for corner in corners], dim=1)
    crop = kornia.geometry.transform.crop_by_indices
    enhance, sigma = kornia.enhance, draws.sigma.float()[:, None].expand(-1, 2)
    return {
        "crop": crop(pixels, source, (size, size), interpolation="bicubic", align_corners=False).clamp(0, 1),
        "brightness": (pixels * draws.brightness.float().view(-1, 1, 1, 1)).clamp(0, 1),
        "contrast": enhance.adjust_contrast_with_mean_subtraction(pixels, draws.contrast.float()),
        "saturation": enhance.adjust_saturation_with_gray_subtraction(pixels, draws.saturation.float()),
        "hue": enhance.adjust_hue(pixels, 2 * torch.pi * draws.hue.float()),
        "blur": kornia.filters.gaussian_blur2d(pixels, (taps, taps), sigma),
    }


def _has_kornia() -> bool:
    return importlib.util.find_spec("kornia") is not None


def _seconds(views: Views, images: torch.Tensor) -> float:
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    views(images)
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def candidates(spec: AugmentSpec) -> dict[str, Views]:
    """From a name to what makes all views of uint8 [B, H, W, C]."""
    generator = augment_generator(0, 0, 0)
    transforms = torchvision_views(spec)

    def pixels(images: torch.Tensor) -> torch.Tensor:
        return images.permute(0, 3, 1, 2).float() / 255

    def one_by_one(images: torch.Tensor) -> object:
        return [torch.stack([transform(image) for image in pixels(images)]) for transform in transforms]

    ways: dict[str, Views] = {
        "ours": lambda images: multicrop(images, spec, draw_multicrop(generator, spec, *images.shape[:3])),
        "torchvision, image by image": one_by_one,
        "torchvision, one draw a batch": lambda images: [transform(pixels(images)) for transform in transforms],
    }
    if _has_kornia():
        modules = kornia_views(spec)
        ways["kornia"] = lambda images: [module(pixels(images)) for module in modules]
    return ways


def main() -> None:
    """Print the differences and the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [("batch", 64), ("locals", 10), ("global-size", 32), ("local-size", 16), ("rounds", 5)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    spec = AugmentSpec(
        kind="multicrop",
        local_views=options.locals,
        global_size=options.global_size,
        local_size=options.local_size,
    )
    train = measure.open_data(options.data, options.data_dir).train
    images = torch.from_numpy(train.gather(torch.arange(options.batch).numpy())).to(options.device)
    ways = candidates(spec)
    facts = {
        "device": torch.cuda.get_device_name() if images.is_cuda else "cpu",
        "batch": f"{options.batch} images of {options.data}, {tuple(images.shape[1:])}",
        "views": f"2 of {spec.global_size} and {spec.local_views} of {spec.local_size} pixels",
        "order": "all in turn, one round of each to warm up",
        "kornia": "measured" if "kornia" in ways else "cannot be imported, left out",
    }
    measure.print_header("multi-crop views of a batch", facts)
    print_exactness(images.cpu(), spec)
    rounds = [{name: _seconds(way, images) for name, way in ways.items()} for _ in range(options.rounds + 1)][1:]
    for name in ways:
        print(f"{name:<32} {measure.summarise([each[name] for each in rounds])}")


if __name__ == "__main__":
    main()
