"""How near VGG-11's convolutions are to what a core does, and what a ReLU behind its max pool saves: CPU seconds.

    OMP_NUM_THREADS=1 python benchmarks/convolutions.py [--batch-size 256] [--repeats 7]

One thread, so that company disturbs little; the fastest of some repetitions after one as warm-up.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import measure
import torch
from torch import Tensor
from torch.nn import functional

LAYERS = (*((3, 64, 32), (64, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4), (512, 512, 4), (512, 512, 2)),)
"""Channels in and out, and side of the maps, of VGG-11's distinct 3 x 3 convolutions on 32 x 32 pixels."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    measure.print_header(
        f"VGG-11's convolutions, batch {asked.batch_size}, float32, channels last",
        {"repetitions": f"fastest of {asked.repeats}, in CPU seconds, after 1 as warm-up"},
    )
    for inputs, outputs, side in LAYERS:
        _convolution(asked.batch_size, inputs, outputs, side, asked.repeats)
    _relu_and_pool(asked.batch_size, asked.repeats)


def _convolution(batch: int, inputs: int, outputs: int, side: int, repeats: int) -> None:
    maps, kernels, slopes = (
        _random(shape) for shape in ((batch, inputs, side, side), (outputs, inputs, 3, 3), (batch, outputs, side, side))
    )
    flops = 2.0 * 9 * batch * side**2 * inputs * outputs

    def backward(of_maps: bool) -> object:
        wanted = [of_maps, not of_maps, False]
        return torch.ops.aten.convolution_backward(
            slopes, maps, kernels, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, wanted
        )

    ways: dict[str, Callable[[], object]] = {
        "forward": lambda: functional.conv2d(maps, kernels, padding=1),
        "gradient of maps": lambda: backward(True),
        "of kernels": lambda: backward(False),
    }
    rates = ", ".join(f"{name} {flops / _fastest(work, repeats) / 1e9:.0f}" for name, work in ways.items())
    print(f"{inputs:>4} -> {outputs:<4} at {side:>2} x {side:<2}: {rates} GFLOP/s")


def _relu_and_pool(batch: int, repeats: int) -> None:
    """On the first layer's maps, forward and backward."""
    maps, slopes = _random((batch, 64, 32, 32)).requires_grad_(), _random((batch, 64, 16, 16))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "ReLU, then pool": lambda x: functional.max_pool2d(functional.relu(x), 2),
        "pool, then ReLU": lambda x: functional.relu(functional.max_pool2d(x, 2)),
    }
    gradients = [torch.autograd.grad(way(maps), maps, slopes)[0] for way in ways.values()]
    for name, way in ways.items():
        seconds = _fastest(lambda way=way: torch.autograd.grad(way(maps), maps, slopes), repeats)  # type: ignore[misc]
        print(f"{name}, forward and backward on 64 maps of 32 x 32: {1000 * seconds:.0f} ms")
    print(f"gradients equal to the last bit: {torch.equal(*gradients)}")


def _random(shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)


def _fastest(work: Callable[[], object], repeats: int) -> float:
    def once() -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    return min([once() for _ in range(repeats + 1)][1:])


if __name__ == "__main__":
    main()
