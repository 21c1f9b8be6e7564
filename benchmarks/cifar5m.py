"""CIFAR-5M at its size: preparing six parts, opening, reading epochs, and FFCV's own writer beside ours.

    python benchmarks/cifar5m.py [--images 5000000] [--deflated] [--writers 1000000] [--folder /tmp] [--threads 2]

The parts are synthetic, in the true format: smooth random images, of which each begins with its number so that what
is read can be checked. They and the prepared set take 6.2 kB an image, 31 GB for 5,000,000; all is deleted at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lib import measure
from lib.footprint import Footprint
from lib.parts import IMAGE, SHAPE, write_parts

from rt_scale.data.beton import Beton, open_beton, write
from rt_scale.data.loaders.ffcv import FFCVLoader
from rt_scale.data.prepare import open_prepared, prepare
from rt_scale.data.subsets import nested_subset

SMALL = 50_000
"""Images of the set whose reading rate is the measure."""


class Reader:
    """Our FFCV loader over one file; checks in every batch that the images are those of its index."""

    def __init__(self, data: Beton, asked: argparse.Namespace) -> None:
        self.loader = FFCVLoader(data, batch_size=asked.batch_size, seed=0, device="cpu", threads=asked.threads)

    def __call__(self, epoch: int, batches: int | None = None) -> tuple[float, int]:
        """Read the batches of an epoch, all or the first; seconds and number of images."""
        seen, start = 0, time.perf_counter()
        running: Any = self.loader.epoch(epoch)
        for number, batch in enumerate(running):
            stamps = batch.images.flatten(1)[:, :8].contiguous().view(torch.int64)[:, 0]
            if not torch.equal(stamps, batch.index):
                raise SystemExit(f"Batch {number} of epoch {epoch} holds other images than its index says.")
            seen += len(stamps)
            if number + 1 == batches:
                break
        running.close()
        return time.perf_counter() - start, seen


def row(what: str, text: str) -> None:
    """Print a line of the table."""
    print(f"{what:<36} {text}", flush=True)


def timed(what: str, samples: int, work: Callable[[], object]) -> float:
    """Do it once; print and return its seconds, with those of CPU (children's, too) and the memory that it took."""
    gc.collect()
    with Footprint() as taken:
        start, before = time.perf_counter(), sum(os.times()[:4])
        work()
        seconds, busy = time.perf_counter() - start, sum(os.times()[:4]) - before
    rate = f"{samples / seconds:12,.0f} images/s" if samples else ""
    row(what, f"{seconds:8.2f} s  {rate:<22} {busy:8.2f} s of CPU  {taken}")
    return seconds


def forget(path: Path) -> None:
    """Ask the system to drop a file from the page cache; no page of it may be mapped."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_through(path: Path) -> None:
    """Bring a file into the page cache, as far as that has room."""
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass


def measure_start(data_dir: Path, asked: argparse.Namespace) -> Reader:
    """The time to the first batch and random reading, neither with the file in the page cache; then the first again."""
    path = data_dir / "cifar5m" / "train.beton"
    made: list[Reader] = []

    def begin() -> None:
        made.append(Reader(open_prepared("cifar5m", data_dir).train, asked))
        made[-1](0, batches=1)

    begin()  # FFCV's import and compilation are not those of this set
    made.clear()
    gc.collect()
    forget(path)
    timed("open, first batch, file on disk", 0, begin)
    seconds, seen = made[-1](1, batches=asked.cold)
    row(
        "random reading, file on disk",
        f"{seconds:8.2f} s  {seen / seconds:12,.0f} images/s  first {seen:,} of an epoch",
    )
    timed("reading the file through", asked.images, lambda: read_through(path))
    timed("open, first batch, file in cache", 0, begin)
    return made[-1]


def measure_epochs(large: Reader, small: Reader, asked: argparse.Namespace) -> None:
    """Epochs of all images and of 50,000 in turns, as many of the small set as make up for its size, at most 20."""
    epochs = max(1, min(large.loader.samples // small.loader.samples, 20))
    rates: dict[str, list[float]] = {"all": [], "small": []}
    with Footprint() as taken:
        for number in range(asked.rounds + 1):
            turn = {"all": [large(number)], "small": [small(number * epochs + each) for each in range(epochs)]}
            for name, done in turn.items():
                rates[name].append(sum(seen for _, seen in done) / sum(seconds for seconds, _ in done))
    for name, reader in (("all", large), ("small", small)):
        low, *_, high = sorted(rates[name][1:])
        middle = statistics.median(rates[name][1:])
        row(
            f"epochs of {reader.loader.samples:,}, file in cache",
            f"{'':>12}{middle:12,.0f} images/s  ({low:,.0f} to {high:,.0f}, n = {asked.rounds})",
        )
    ratio = statistics.median(a / b for a, b in zip(rates["all"][1:], rates["small"][1:], strict=True))
    row("ratio of both", f"{'':>12}{ratio:12.2f} (aim 0.6)   {taken}")


class Pairs:
    """What FFCV's writer takes: (image, label) by position."""

    def __init__(self, data: Beton, samples: int) -> None:
        self.data, self.samples = data, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, position: int) -> tuple[np.ndarray, int]:
        return self.data.gather(np.array([position]))[0], int(self.data.labels[position])


def measure_writers(data: Beton, folder: Path, asked: argparse.Namespace) -> None:
    """Our writer and FFCV's, each once, from the same mapped images in the page cache."""
    from ffcv.fields import IntField, NDArrayField
    from ffcv.writer import DatasetWriter

    samples = min(asked.writers, data.samples)

    def ours() -> None:
        write(folder / "ours.beton", first(data, samples), data.labels[:samples], image_shape=SHAPE)

    def theirs() -> None:
        fields = {"image": NDArrayField(np.dtype(np.uint8), SHAPE), "label": IntField()}
        writer = DatasetWriter(str(folder / "theirs.beton"), fields, num_workers=asked.threads)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            writer.from_indexed_dataset(Pairs(data, samples), chunksize=1000)

    fast = timed(f"our writer, {samples:,}", samples, ours)
    slow = timed(f"FFCV's writer, {samples:,}", samples, theirs)
    row("ratio of both", f"{'':>12}{slow / fast:12.2f}")


def first(data: Beton, samples: int) -> Iterator[np.ndarray]:
    """The first ``samples`` images, in chunks."""
    for start in range(0, samples, 2048):
        yield data.gather(np.arange(start, min(start + 2048, samples)))


def main() -> None:
    """Make the parts, measure, delete."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    folder = Path(tempfile.mkdtemp(prefix="cifar5m-", dir=asked.folder))
    facts = {
        "FFCV": f"{version('ffcv')}, numba {version('numba')}",
        "images": f"{asked.images:,} to train on, {asked.images * IMAGE / 1e9:.1f} GB, "
        f"parts {'deflated' if asked.deflated else 'stored'}",
        "threads": f"{asked.threads}",
        "reading": f"batches of {asked.batch_size}, random order, every batch checked, {asked.rounds} rounds",
    }
    measure.print_header("CIFAR-5M: preparing and reading", facts)
    try:
        _measure(folder, asked)
    finally:
        shutil.rmtree(folder)
    row("load after", f"{os.getloadavg()[0]:8.1f}  (1 minute; our own threads included)")


def _measure(folder: Path, asked: argparse.Namespace) -> None:
    parts, data_dir = folder / "parts", folder / "data"
    parts.mkdir()
    timed("writing the parts", asked.images, lambda: write_parts(parts, asked.images, asked.deflated))
    total = asked.images // 5 * 5
    timed("preparing", total, lambda: prepare("cifar5m", data_dir, parts))
    shutil.rmtree(parts)
    large = measure_start(data_dir, asked)
    data = open_prepared("cifar5m", data_dir).train
    samples = min(SMALL, data.samples)
    write(folder / "small.beton", first(data, samples), data.labels[:samples], image_shape=SHAPE)
    measure_epochs(large, Reader(open_beton(folder / "small.beton"), asked), asked)
    timed("a nested subset of 500", data.samples, lambda: nested_subset(data.labels, 500, 0))
    if asked.writers:
        measure_writers(data, folder, asked)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5_000_000, help="to train on, at least 5")
    parser.add_argument("--deflated", action="store_true", help="compress the parts, as np.savez_compressed does")
    parser.add_argument("--writers", type=int, default=1_000_000, help="images for the comparison of writers; 0: none")
    parser.add_argument("--folder", type=Path, default=Path("/tmp"), help="on the disk that is to be measured")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2, help="of the loader and of torch, and FFCV's writing workers")
    parser.add_argument("--rounds", type=int, default=3, help="of epochs")
    parser.add_argument("--cold", type=int, default=400, help="batches read at random while the file is on disk")
    return parser.parse_args()


if __name__ == "__main__":
    main()
