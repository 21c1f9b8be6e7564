"""What a run needs in memory, known from its spec."""

from __future__ import annotations

from rt_scale.data.info import DataInfo
from rt_scale.data.noise_set import NoiseSet
from rt_scale.data.prepared import Prepared
from rt_scale.spec.run import RunSpec


def image_bytes(spec: RunSpec, data: Prepared | NoiseSet) -> int:
    """Bytes of the training images that ``spec`` uses; noise takes none."""
    if isinstance(data, NoiseSet):
        return 0
    return training_samples(spec, data) * data.info.channels * data.info.size**2


def training_samples(spec: RunSpec, data: Prepared | NoiseSet) -> int:
    """Number of training images that ``spec`` uses."""
    return spec.data.samples or (data.info.train if isinstance(data, NoiseSet) else len(data.train.labels))


def probed_size(spec: RunSpec, main: DataInfo, other: DataInfo) -> int:
    """Side in pixels at which images of ``other``, a set of ``probe.also``, are probed; ``main`` is distilled on."""
    return other.size if spec.probe.also_size == "own" else spec.data.size or main.size


def constant_targets(spec: RunSpec) -> bool:
    """Whether the teacher says the same of an image at every step, so that it can be kept."""
    return not spec.teacher.moves and spec.teacher.mode == "eval" and spec.augment.kind == "none"


def cache_bytes(spec: RunSpec, data: Prepared | NoiseSet) -> int:
    """Bytes that a constant teacher's bottleneck features take; 0 where there is nothing to keep."""
    if spec.kind == "supervise" or not constant_targets(spec):
        return 0
    from rt_scale.training.distillation import parameter_dtype  # imports torch, which a driver needs nowhere else

    return training_samples(spec, data) * spec.projector.bottleneck * parameter_dtype(spec.precision).itemsize
