"""A user's own images through the encoder of a stored run, computed as the run's probes computed theirs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rt_scale.data.datasets.images import plain, scaled
from rt_scale.data.inputs import to_inputs
from rt_scale.data.loaders.base import Batch
from rt_scale.experiments.check import probed_size
from rt_scale.experiments.networks import images_of, stored_spec
from rt_scale.experiments.options import find_device
from rt_scale.models.networks import to_device
from rt_scale.probes.features import embed
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.errors import InputError
from rt_scale.store.results import ImageRecord
from rt_scale.store.run_dir import RunDir
from rt_scale.training.checkpoint import restore_rng, rng_state
from rt_scale.training.precision import parameter_dtype, set_precision

Images: TypeAlias = Tensor | np.ndarray | Sequence[Image.Image]
"""uint8 [N, H, W, C] or [N, C, H, W], or N images of PIL of any sizes."""


class OwnImages:
    """Images given by a user as a split for probes (``probes.features.Split``), scaled to the run's size if needed.

    InputError: they are not uint8 of these shapes, have another number of channels, or there are none.
    """

    def __init__(self, images: Images, record: ImageRecord, batch_size: int, device: torch.device) -> None:
        self._images = _checked(images, record.channels)
        self._record, self._batch_size, self._device = record, batch_size, device

    @property
    def samples(self) -> int:
        """Number of images."""
        return len(self._images)

    def sequential(self) -> Iterator[Batch]:
        """All images in order, in batches on the device."""
        for start in range(0, self.samples, self._batch_size):
            index = torch.arange(start, min(start + self._batch_size, self.samples), device=self._device)
            yield Batch(self._pixels(start).to(self._device), torch.zeros_like(index), index)

    def _pixels(self, start: int) -> Tensor:
        """A batch, uint8 [b, size, size, C]."""
        size, some = self._record.size, self._images[start : start + self._batch_size]
        if isinstance(some, Tensor):
            if some.shape[1:3] == (size, size):
                return some
            some = [Image.fromarray(each.squeeze(-1).numpy()) for each in some]
        upright = (plain(each, self._record.channels)[0] for each in some)
        # As `data prepare --size` scales them; an image of the right size is not touched.
        fitting = (each if each.size == (size, size) else scaled(each, size) for each in upright)
        return torch.from_numpy(np.stack([np.asarray(each).reshape(size, size, -1) for each in fitting]))


def _checked(images: Images, channels: int) -> Tensor | Sequence[Image.Image]:
    """The images as uint8 [N, H, W, C] on the CPU, or as a list of PIL's."""
    if isinstance(images, list | tuple) and images and all(isinstance(each, Image.Image) for each in images):
        return images
    given = f"a {type(images).__name__}"
    if isinstance(images, Tensor | np.ndarray):
        pixels = torch.as_tensor(images).detach().cpu()
        if pixels.dtype == torch.uint8 and pixels.ndim == 4 and len(pixels):
            if pixels.shape[3] == channels:
                return pixels
            if pixels.shape[1] == channels:
                return pixels.permute(0, 2, 3, 1).contiguous()
        given = f"{str(pixels.dtype).removeprefix('torch.')} {list(pixels.shape)}"
    raise InputError(
        f"The images are {given}. Give at least one, as uint8 [N, H, W, {channels}] or [N, {channels}, H, W], or as a "
        f"list of PIL images: the encoder takes images of {channels} channel{'s' * (channels > 1)}."
    )


class RunInputs:
    """From images to the inputs of a run's networks, as its probes and its views without augmentation make them.

    Args:
        data_dir: read for runs of earlier versions only, see ``networks.images_of``.
        data: the set of ``probe.also`` whose size, mean and deviation are taken; None: the one it is distilled on.

    InputError: as of ``images_of``, or the run is distilled on drawn inputs and ``data`` is None.
    """

    def __init__(self, run_dir: RunDir, data_dir: Path, data: str | None = None) -> None:
        spec, record = stored_spec(run_dir), run_dir.record()
        if data is None and spec.data.name == GAUSSIAN:
            raise InputError(
                f"The run '{run_dir.name}' is distilled on drawn inputs, which have no mean of images: name the data "
                f"set whose mean and standard deviation are to be used: {', '.join(spec.probe.also)}."
            )
        self.record, self.spec = images_of(run_dir, data_dir, data), spec
        size = spec.data.size if data is None else probed_size(spec, images_of(run_dir, data_dir), self.record)
        assert record is not None  # images_of has read it
        self.execution = record.execution
        self.convert = functools.partial(
            to_inputs, mean=self.record.mean, std=self.record.std, size=size, dtype=parameter_dtype(spec.precision),
            channels_last=self.execution.channels_last,
        )  # fmt: skip

    def preprocess(self, images: Images) -> Tensor:
        """The inputs [N, C, S, S] of images, in the run's dtype, on the CPU."""
        (batch,) = OwnImages(images, self.record, len(images), torch.device("cpu")).sequential()
        return self.convert(batch.images)

    def embed(self, encoder: nn.Module, images: Images, batch_size: int | None, device: str) -> Tensor:
        """Embeddings, float32 [N, D] on the CPU, of images by an encoder of the run, which is moved to ``device``.

        ``batch_size`` is that of the run by default, as in its probes: last bits depend on it.
        """
        place, size = find_device(device), self.spec.train.batch_size if batch_size is None else batch_size
        if size < 1:
            raise InputError(f"batch_size is {size}; give at least 1.")
        encoder = to_device(encoder, place, channels_last=self.execution.channels_last)
        with settings_kept():
            torch.set_num_threads(self.execution.threads)
            set_precision(self.spec.precision)
            own = OwnImages(images, self.record, size, place)
            return embed(encoder, own, self.convert, precision=self.spec.precision).x.cpu()


@contextmanager
def settings_kept() -> Iterator[None]:
    """Restore what a run changes in the whole process: torch's threads, TF32, and the state of random generators."""
    threads, rng = torch.get_num_threads(), rng_state()
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        restore_rng(rng)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
