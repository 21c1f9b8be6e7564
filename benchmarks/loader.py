"""Reading batches: our loaders against DataLoader + PIL + ToTensor + Normalize, and against FFCV as it comes.

    python benchmarks/loader.py [--data cifar10] [--batch-size 256] [--threads 2] [--rounds 5]

All read the training images of one prepared set in random order and only take what they are given. Each round every
reader has its turn, so that whatever else the machine does falls on all; ratios are taken within a round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lib import measure
from lib.paper_style import GivenOrder, PilImages, batches

from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Loader, order
from rt_scale.data.loaders.ffcv import FFCVLoader
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared

PAPER, PLAIN, FFCV, RESIDENT = "paper-style, float32", "plain FFCV, uint8", "our FFCV, uint8", "resident, uint8"
FFCV_FLOAT, RESIDENT_FLOAT = "our FFCV, float32", "resident, float32"

RATIOS = [
    *((PAPER, FFCV, 50.0), (PAPER, RESIDENT, 50.0), (PLAIN, FFCV, 0.9)),
    *((PAPER, FFCV_FLOAT, 15.0), (PAPER, RESIDENT_FLOAT, 15.0)),
]
"""What is divided by what, and what is aimed at."""


class PaperStyle:
    """Images opened one by one as PIL images in worker processes."""

    def __init__(self, data: Prepared, batch_size: int, workers: int) -> None:
        info = data.info
        self.samples = data.train.samples
        self.order = GivenOrder()
        pictures = PilImages(data.train.read_all(), data.train.labels, info.mean, info.std)
        self.loader = batches(pictures, self.order, batch_size, workers)

    def __call__(self, epoch: int) -> int:
        """Read an epoch; the number of images."""
        self.order.positions = order(self.samples, 0, epoch).tolist()
        return sum(len(labels) for _, labels in self.loader)


class PlainFFCV:
    """FFCV's own loader with its own random order; its tensors are valid only until the next batch."""

    def __init__(self, data: Prepared, batch_size: int, threads: int) -> None:
        from ffcv.loader import Loader as PlainLoader
        from ffcv.loader import OrderOption

        arguments: dict[str, Any] = {"num_workers": threads, "order": OrderOption.RANDOM, "seed": 0}
        before = torch.get_num_threads()
        self.loader = PlainLoader(str(data.train.path), batch_size, os_cache=True, drop_last=False, **arguments)
        torch.set_num_threads(before)

    def __call__(self, epoch: int) -> int:
        """Read an epoch; the number of images."""
        before = torch.get_num_threads()
        running = iter(self.loader)
        read = sum(len(images) for images, _, _ in running)
        running.close()
        running.join()
        torch.set_num_threads(before)
        return read


def delivered(loader: Loader, convert: Callable[[torch.Tensor], torch.Tensor] | None) -> Callable[[int], int]:
    """Reads an epoch of one of our loaders, as it comes or converted, and counts its images."""

    def read(epoch: int) -> int:
        images = (batch.images if convert is None else convert(batch.images) for batch in loader.epoch(epoch))
        return sum(len(each) for each in images)

    return read


def contenders(data: Prepared, batch_size: int, threads: int) -> dict[str, Callable[[int], int]]:
    """All readers by name; the paper-style one has as many worker processes as the others have threads."""

    def convert(images: torch.Tensor) -> torch.Tensor:
        return to_inputs(images, data.info.mean, data.info.std, None, torch.float32)

    resident = ResidentLoader(data.train, batch_size=batch_size, seed=0, device="cpu")
    streamed = FFCVLoader(data.train, batch_size=batch_size, seed=0, device="cpu", threads=threads)
    return {
        PAPER: PaperStyle(data, batch_size, threads),
        PLAIN: PlainFFCV(data, batch_size, threads),
        FFCV: delivered(streamed, None),
        RESIDENT: delivered(resident, None),
        FFCV_FLOAT: delivered(streamed, convert),
        RESIDENT_FLOAT: delivered(resident, convert),
    }


def seconds_an_epoch(read: Callable[[int], int], epochs: int, samples: int, first: int) -> float:
    """Mean seconds of an epoch over ``epochs`` of them, which all hold every sample."""
    start = time.perf_counter()
    for epoch in range(first, first + epochs):
        if (found := read(epoch)) != samples:
            raise SystemExit(f"An epoch had {found} of {samples} images.")
    return (time.perf_counter() - start) / epochs


def _report(seconds: dict[str, list[float]], samples: int) -> None:
    for name, each in seconds.items():
        summary = measure.summarise(each)
        print(f"{name:<22} {summary}   {samples / summary.median:12,.0f} images/s")
    for slow, fast, aim in RATIOS:
        each = [slower / faster for slower, faster in zip(seconds[slow], seconds[fast], strict=True)]
        best = min(seconds[slow]) / min(seconds[fast])
        print(
            f"{fast + ' : ' + slow:<42} {statistics.median(each):8.2f}  ({min(each):.2f} to {max(each):.2f}; "
            f"of the fastest {best:.2f}; aim {aim:g})"
        )
    print(f"{'load after':<42} {os.getloadavg()[0]:8.2f}  (1 minute; our own threads included)")


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(asked.torch_threads)
    data = measure.open_data(asked.data, asked.data_dir)
    samples = data.train.samples
    measure.print_header(
        f"Reading batches of {asked.batch_size} in random order",
        {
            "FFCV": f"{version('ffcv')}, numba {version('numba')}",
            "data": f"{asked.data}, {samples:,} images, {data.train.image_shape}, in page cache",
            "threads": f"{asked.threads} of the loaders and DataLoader workers, {asked.torch_threads} of torch",
            "repetitions": f"{asked.rounds} rounds, readers in turns: 1 epoch of the paper-style reader, the mean of "
            f"{asked.epochs} of each other; 1 round as warm-up",
        },
    )
    readers = contenders(data, asked.batch_size, asked.threads)
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    for number in range(asked.rounds + 1):
        for name, read in readers.items():
            epochs = 1 if name == PAPER else asked.epochs
            seconds[name].append(seconds_an_epoch(read, epochs, samples, number * asked.epochs))
    _report({name: each[1:] for name, each in seconds.items()}, samples)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="name of a prepared data set")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument(
        "--threads", type=int, default=2, help="of our loaders and plain FFCV; workers of the DataLoader"
    )
    parser.add_argument("--torch-threads", type=int, default=1, help="beside the loaders', which hold the cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5, help="of every fast reader, a round")
    return parser.parse_args()


if __name__ == "__main__":
    main()
