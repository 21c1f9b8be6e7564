"""The networks of a stored run, with the weights of one of its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from rt_scale.data.meta import DataInfo
from rt_scale.data.prepared import KnownData, NoiseSet, Prepared, load
from rt_scale.experiments.dependencies import START, TEACHER
from rt_scale.models.networks import Network, build_network
from rt_scale.spec.errors import InputError, RunError, counted, unknown_name
from rt_scale.spec.experiments.training import TrainingSpec
from rt_scale.store.results import ImageRecord, SetRecord
from rt_scale.store.run_dir import RunDir
from rt_scale.store.sweep_runs import recorded_spec
from rt_scale.training.checkpoint import STUDENT, read_weights
from rt_scale.training.precision import parameter_dtype

Role = Literal["student", "teacher", "init"]
ROLES = ("student", "teacher", "init")


def set_record(data: Prepared | NoiseSet) -> SetRecord:
    """What a run records of a data set."""
    return SetRecord(title=data.info.title, sha256=data.sha256, images=_image_record(data.info))


def _image_record(info: DataInfo) -> ImageRecord:
    return ImageRecord(channels=info.channels, size=info.size, mean=info.mean, std=info.std)


def stored_spec(run_dir: RunDir) -> TrainingSpec:
    """The spec of a training that was begun.

    InputError: it was never begun, trains no network, or its spec is of another version of rt-scale.
    """
    spec = recorded_spec(run_dir)
    if not isinstance(spec, TrainingSpec):
        raise InputError(f"The run '{run_dir.name}' is of kind {spec.kind}, which trains no network.")
    return spec


def images_of(run_dir: RunDir, data_dir: Path, name: str | None = None) -> ImageRecord:
    """What is known of the images that a run trains on, or of those of the set ``name`` that it probes on.

    The run's record holds it. In runs that an earlier version began it is missing: then it is read from the data set in
    ``data_dir``, if that has the contents that the run was computed on; their checksum covers mean and deviation.

    InputError: the run has no record yet, another ``name``, or neither record nor ``data_dir`` tells.
    """
    spec, record = stored_spec(run_dir), run_dir.record()
    if name is None and (drawn := KnownData().main(spec)):  # only Gaussian inputs are known without looking up anything
        return _image_record(drawn)
    if record is None or record.data is None:
        raise InputError(f"The run '{run_dir.name}' has not read its data yet. Run it first.")
    sets, name = dict(record.data.sets()), name or record.data.name
    if name not in sets:
        raise unknown_name(f"data set of run {run_dir.name}", name, sets)
    if (images := sets[name].images) is not None:
        return images
    prepared = load(name, data_dir)
    if prepared is None or prepared.sha256 != sets[name].sha256:
        there = "not prepared" if prepared is None else "of other contents"
        raise InputError(
            f"The run '{run_dir.name}' was begun by an earlier version of rt-scale, which did not record the size, "
            f"mean and standard deviation of its images, and '{name}' is {there} in '{data_dir}'. Prepare the data set "
            f"that has sha256 {sets[name].sha256[:12]}..., or name its folder."
        )
    return _image_record(prepared.info)


def load_network(run_dir: RunDir, role: Role, data_dir: Path, step: int | None = None) -> Network:
    """A network of a run, finished or not, with the weights of a checkpoint.

    It is in evaluation mode, on the CPU, contiguous, in the run's dtype (float32, or float64 at that precision), and
    its parameters require gradients. ``encoder`` maps [B, C, H, W] to [B, D]; ``projector`` and the whole give logits.

    Args:
        role, step: as of :func:`load_weights`.
        data_dir: read for runs of earlier versions only, see :func:`images_of`.

    Raises:
        InputError, RunError: as :func:`load_weights`.
    """
    _, weights = load_weights(run_dir, role, step)
    spec, images = stored_spec(run_dir), images_of(run_dir, data_dir)
    size = spec.data.size or images.size
    network = build_network(spec, images.channels, size, torch.Generator(), role).to(parameter_dtype(spec.precision))
    network.load_state_dict(weights)
    return network.eval()


def load_weights(run_dir: RunDir, role: Role, step: int | None = None) -> tuple[int, dict[str, Tensor]]:
    """The step of a checkpoint of a run, and the weights of a network in it by name; no network is built.

    Args:
        role: ``student``, ``teacher``, or ``init``, the student at its start.
        step: optimiser steps done; None: the last there is. A frozen teacher is the same at every step.

    Raises:
        InputError: another role, a step without checkpoint (the message names those there), or no checkpoint at all.
        RunError: the checkpoint is damaged, or an object store does not answer.
    """
    if role not in ROLES:
        raise unknown_name("network of a run", role, ROLES)
    run_dir.refresh()
    step = _step(run_dir, stored_spec(run_dir), role, step)
    file = TEACHER if role == "teacher" else STUDENT

    def read(folder: Path) -> dict[str, Tensor]:
        return read_weights(folder / file)

    try:
        return step, run_dir.checkpoints.read(step, read)
    except RunError as error:
        raise RunError(f"The {role} of run {run_dir.name} cannot be loaded: {error}") from error


def _step(run_dir: RunDir, spec: TrainingSpec, role: Role, step: int | None) -> int:
    """The step of the checkpoint to read."""
    there = run_dir.checkpoints.steps()
    if not there:
        raise InputError(f"The run '{run_dir.name}' has no checkpoint yet, in '{run_dir.path}'.")
    if step is not None and (step not in there or (role == "init" and step != START)):
        of_init = " 'init' is the student at step 0." if role == "init" else ""
        raise InputError(
            f"The run '{run_dir.name}' has no {role} at step {step:,}.{of_init} It has "
            f"{counted(len(there), 'checkpoint')}: {', '.join(map(str, there))}. Give one of these, or no step."
        )
    if role == "init" or (role == "teacher" and not spec.teacher.moves):
        return START
    # The last step by the result: if its checkpoint was lost, an earlier one must not pass for it.
    finished = run_dir.result()
    return step if step is not None else finished.steps if finished else there[-1]
