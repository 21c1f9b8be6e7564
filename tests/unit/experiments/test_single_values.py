"""Normalisations that would see one value a channel in training are refused: exactly those that torch refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from rt_scale.data.prepare import Prepared
from rt_scale.data.prepared import noise_set
from rt_scale.experiments.check import fits
from rt_scale.models.networks import Network, empty_network
from rt_scale.spec.errors import InputError
from rt_scale.spec.run import RunSpec

Tiny = Callable[..., RunSpec]

ENCODERS: dict[str, tuple[float, tuple[int, ...]]] = {
    "vgg11": (0.125, (32, 33, 48)),
    "resnet20": (0.5, (4, 5)),
    "resnet18": (0.125, (8, 9, 16)),
    "resnet50": (0.125, (8, 9)),
    "preresnet18": (0.125, (8, 9)),
    "convnet_8_1": (1, (4, 5)),
    "convnet_8_4": (1, (4, 16, 32)),
    "mlp_8_2": (1, (4,)),
    "flatten": (1, (4,)),
}
"""Width, and sides in pixels around those at which the last map becomes 1 x 1."""
CASES = [
    (name, norm)
    for name in ENCODERS
    for norm in ("batch", "instance", "group8", "layer", "none")
    if not name.startswith(("mlp", "flatten")) or norm == "none"
]


def fitting(spec: RunSpec, data: Any) -> bool:
    try:
        fits(spec, data)
    except InputError:
        return False
    return True


def trains(network: Network, views: dict[int, int], images: int) -> bool:
    """Whether torch has nothing against a training pass of ``images`` images of so many views a side."""
    inputs = [torch.zeros(images, 1, side, side) for side, count in views.items() for _ in range(count)]
    try:
        with torch.no_grad():
            network.features_of_views(inputs)
    except (ValueError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(("name", "norm"), CASES)
@pytest.mark.parametrize("projector", [False, True])
def test_what_torch_refuses_is_refused_before_anything_starts(
    tiny: Tiny, name: str, norm: str, projector: bool
) -> None:
    torch.set_num_threads(1)
    width, sizes = ENCODERS[name]
    for size in sizes:
        changes = {
            "encoder": {"name": name, "norm": norm, "width": width},
            "projector.batch_norm": projector,
            "probe": {"also": ["digits"]},
            "data": {"name": "gaussian", "size": size, "channels": 1, "samples": 4},
        }
        # What cannot be built for such images is asked of one for larger images, which has the same layers.
        built = 64 if "resnet" in name else size
        network = empty_network(tiny(changes), 1, built).to_empty(device="cpu").train()
        fine = {images: trains(network, {size: 1}, images) for images in (1, 2)}
        for batch_size, samples in [(1, 4), (4, 1), (16, 17), (2, 4), (16, 18)]:
            spec = tiny(changes | {"train.batch_size": batch_size, "data.samples": samples})
            fewest = samples % batch_size or batch_size
            expected = fine[min(2, fewest)]
            assert fitting(spec, noise_set("gaussian", samples, size, 1, 1.0)) == expected, (size, batch_size, samples)


SIDES = [(4, 4, 1, 1), (4, 4, 1, 2), (4, 4, 2, 0), (8, 4, 1, 1), (8, 4, 1, 2), (8, 4, 2, 1), (5, 8, 1, 1)]
"""Side of global and of local views, and how many there are of each."""


@pytest.mark.parametrize(
    ("encoder", "size", "norm", "projector"),
    [
        *(("convnet_8_4", size, norm, False) for size in (8, 64) for norm in ("batch", "instance", "none")),
        ("convnet_8_4", 64, "none", True),
        ("resnet20", 8, "batch", False),
        ("resnet20", 8, "instance", True),
    ],
)
def test_views_of_one_side_are_normalised_together(
    tiny: Tiny, digits: Prepared, encoder: str, size: int, norm: str, projector: bool
) -> None:
    torch.set_num_threads(1)
    changes = {
        "data": {"name": "digits", "samples": 33, "size": size},
        "encoder": {"name": encoder, "norm": norm},
        "projector.batch_norm": projector,
        "objective.pairing": "opposite",
    }
    multicrop = {"augment": {"kind": "multicrop", "global_size": size}}
    network = empty_network(tiny(changes | multicrop), 1, size).to_empty(device="cpu").train()
    for large, small, count, more in SIDES:
        local = {"local_views": more, "local_size": small} if more else {"local_views": 0}
        views = {"kind": "multicrop", "global_views": count, "global_size": large, **local}
        student = {large: count}
        if more:
            student[small] = student.get(small, 0) + more
        fine = trains(network, student, 1)
        for teacher in ({}, {"mode": "train"}, {"statistics": "data"}):
            spec = tiny(changes | {"augment": views, "teacher": teacher})
            expected = fine and (not teacher or trains(network, {large: count}, 1))
            assert fitting(spec, digits) == expected, (views, teacher)


def test_the_refusal_says_what_is_single_and_what_to_change(tiny: Tiny, digits: Prepared) -> None:
    resnet = {"encoder": {"name": "resnet18", "width": 0.125}, "data.samples": 17, "train.batch_size": 16}
    with pytest.raises(InputError, match=r"encoder.norm batch .* 1 x 1 .* 8 x 8 .*17 training images in batches of 16"):
        fits(tiny(resnet), digits)
    with pytest.raises(InputError, match=r"projector.batch_norm needs .*60 training images in batches of 1\)"):
        fits(tiny({"projector.batch_norm": True, "train.batch_size": 1}), digits)
    views = {"kind": "multicrop", "local_views": 2, "global_size": 64, "local_size": 4}
    changes = {"encoder": {"name": "convnet_8_4"}, "data": {"name": "digits", "size": 64}, "augment": views}
    with pytest.raises(InputError, match=r"augment.local_size is 4: .*'convnet_8_4' as it is built for 64 x 64"):
        fits(tiny(changes | {"objective.pairing": "opposite"}), digits)
