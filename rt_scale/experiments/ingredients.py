"""Everything that decides a constant of a run to its last bit, and the name that it has by that.

What is listed here too many costs a computation that was not needed; what is missing would change a run by the order in
which others were executed. So weights count as the numbers that they are, whatever they were drawn or taken from; of
how a run is executed everything counts that is not known to change nothing; and so does the code itself.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rt_scale.data.info import DataInfo
from rt_scale.data.noise_set import NoiseSet
from rt_scale.data.prepared import Prepared
from rt_scale.experiments.check import Sets
from rt_scale.experiments.options import ResolvedOptions
from rt_scale.experiments.provenance import cpu_model, version_of
from rt_scale.models.pair import Network
from rt_scale.spec.part import canonical, json_text
from rt_scale.spec.run import RunSpec

Ingredients = dict[str, Any]
"""In plain JSON values."""

WHERE_IMAGES_LIE = {
    *("device", "loader", "loader_reason", "cache_teacher", "gpus"),
    *("pack", "student_pass", "student_pass_reason"),  # how students are trained
}
"""Fields of ``ResolvedOptions`` that change no number of a constant; the device is described by what it is."""
NOT_OF_A_PROBE = {"every", "also", "own", "statistics"}
"""Fields of ``ProbeSpec`` that say when and what is probed, not how."""
NOT_OF_FEATURES = {"out_dim", "init"}
"""Fields of ``ProjectorSpec`` that bottleneck features do not see, or see as weights."""
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn")
SWITCHES = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS",
            "NVIDIA_TF32_OVERRIDE", "CUBLAS_WORKSPACE_CONFIG")  # fmt: skip
"""Environment variables by which libraries choose other arithmetic."""
CODE = ("spec", "data", "models", "losses", "training", "probes", "experiments")
"""Packages of rt-scale that numbers pass through."""


def of_input_probes(spec: RunSpec, data: Sets, execution: ResolvedOptions) -> Ingredients:
    """Of the probes of input pixels: the images and how they are probed; no network."""
    main = spec.probe.own and isinstance(data.main, Prepared) and data.main.info.labelled
    return {
        **_arithmetic(spec, execution),
        "size": spec.data.size or data.main.info.size,
        "data": _images(spec, data.main) if main else None,
        "also": {name: [other.sha256, len(other.info.classes)] for name, other in data.also.items()},
        "probe": {name: value for name, value in canonical(spec.probe).items() if name not in NOT_OF_A_PROBE},
        "seed": spec.seeds.probe,
    }


def of_teacher_probes(spec: RunSpec, data: Sets, execution: ResolvedOptions, teacher: Network) -> Ingredients:
    """Of the probes and statistics of a frozen teacher's embeddings: those of the input, and the encoder."""
    return {
        **of_input_probes(spec, data, execution),
        "statistics": spec.probe.statistics,
        "encoder": canonical(spec.encoder),
        "weights": weights_sha256({"encoder": teacher.encoder}),
    }


def of_features(spec: RunSpec, data: Sets, execution: ResolvedOptions, teacher: Network) -> Ingredients:
    """Of a constant teacher's bottleneck features of the training images.

    Linear 2, and with it m, comes after them: runs of every m share them.
    """
    head = teacher.projector
    projector = {name: value for name, value in canonical(spec.projector).items() if name not in NOT_OF_FEATURES}
    return {
        **_arithmetic(spec, execution),
        "size": spec.data.size or data.main.info.size,
        "data": _images(spec, data.main),
        "encoder": canonical(spec.encoder),
        "projector": projector,
        "weights": weights_sha256({"encoder": teacher.encoder, "mlp": head.mlp, "bottleneck": head.bottleneck}),
    }


def constant_name(kind: str, of: Ingredients) -> str:
    """``<kind>-`` and 16 hexadecimal digits of the SHA-256 of the ingredients."""
    return f"{kind}-{hashlib.sha256(json_text(of).encode()).hexdigest()[:16]}"


def _images(spec: RunSpec, data: Prepared | NoiseSet) -> Ingredients:
    """The training images that are used, and the test images."""
    info: DataInfo = data.info
    drawn = isinstance(data, NoiseSet)
    return {
        "sha256": data.sha256,
        "classes": len(info.classes),
        "channels": info.channels,
        "samples": spec.data.samples,
        # Of a whole prepared split the data seed decides the order of training alone.
        "seed": spec.seeds.data if drawn or spec.data.samples is not None else None,
    }


def _arithmetic(spec: RunSpec, execution: ResolvedOptions) -> Ingredients:
    device = execution.device
    flags = {"benchmark": torch.backends.cudnn.benchmark, "deterministic": torch.are_deterministic_algorithms_enabled()}
    return {
        "precision": spec.precision,
        "batch_size": spec.train.batch_size,  # sums of a layer are split by the batch that it is given
        "execution": {name: value for name, value in execution.to_json().items() if name not in WHERE_IMAGES_LIE},
        "device": _gpu(device) if device.type == "cuda" else device.type,
        "cpu": [cpu_model(), torch.backends.cpu.get_cpu_capability()],
        "libraries": {name: version_of(name) for name in LIBRARIES},
        "switches": flags | {name: os.environ[name] for name in SWITCHES if name in os.environ},
        "code": code_sha256(),
    }


def _gpu(device: torch.device) -> list[Any]:
    found = torch.cuda.get_device_properties(device)
    return [
        found.name, f"{found.major}.{found.minor}", found.multi_processor_count,
        torch.version.cuda, torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
    ]  # fmt: skip


def weights_sha256(modules: Mapping[str, nn.Module]) -> str:
    """SHA-256 of all parameters and buffers of ``modules``: names, dtypes, shapes and bits, wherever they lie."""
    digest = hashlib.sha256()
    for prefix, module in modules.items():
        tensors: dict[str, Tensor] = module.state_dict()
        for name, tensor in tensors.items():
            digest.update(f"{prefix}.{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@functools.cache
def code_sha256() -> str:
    """SHA-256 of the sources that numbers pass through: another version of them may round otherwise."""
    return _sources_sha256(Path(__file__).parents[1] / name for name in CODE)


def _sources_sha256(folders: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{folder.name}/{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
