"""A round of pruning a second time, naively, in float64: mask, rewinding, and masked SGD (Frankle et al. 2020)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rt_scale.data.loaders.base import order
from rt_scale.data.prepare import open_prepared
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store

LR, MOMENTUM, DECAY, CLIP, BATCH, EPOCHS = 0.2, 0.9, 0.05, 0.3, 300, 2
Arrays = dict[str, np.ndarray]
HIDDEN, OUT = "encoder.layers.0", "projector.bottleneck"
SPEC: dict[str, Any] = {
    "kind": "supervise",
    "data": {"name": "digits"},
    "encoder": {"name": "mlp_7_1"},
    "projector": {"hidden": [], "parts": "-/lb/-/-/-/-", "out_dim": 10, "init": "torch"},
    "student": {"alpha": 1.0},
    "train": {
        "epochs": EPOCHS, "batch_size": BATCH,
        "optimizer": {"name": "sgd", "lr": f"multistep({LR}, 0.5, 1ep)", "momentum": MOMENTUM, "weight_decay": DECAY,
                      "clip": CLIP},
    },
    "probe": {"every": None, "epochs": 1, "knn": 0, "standardized": False},
    "precision": "float64",
}  # fmt: skip


def gradients(weights: Arrays, x: np.ndarray, labels: np.ndarray) -> Arrays:
    """Of the mean cross entropy of a ReLU network of one hidden layer, by hand."""
    before = x @ weights[f"{HIDDEN}.weight"].T + weights[f"{HIDDEN}.bias"]
    hidden = np.maximum(before, 0)
    logits = hidden @ weights[f"{OUT}.weight"].T + weights[f"{OUT}.bias"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    error = shares / shares.sum(1, keepdims=True)
    error[np.arange(len(x)), labels] -= 1
    error /= len(x)
    back = (error @ weights[f"{OUT}.weight"]) * (before > 0)
    return {
        f"{HIDDEN}.weight": back.T @ x, f"{HIDDEN}.bias": back.sum(0),
        f"{OUT}.weight": error.T @ hidden, f"{OUT}.bias": error.sum(0),
    }  # fmt: skip


class Trained:
    """Plain SGD with momentum, weight decay and clipping, under a mask of ones and zeros."""

    def __init__(self, weights: Arrays, x: np.ndarray, labels: np.ndarray) -> None:
        self.weights, self.x, self.labels = {name: each.copy() for name, each in weights.items()}, x, labels
        self.velocity: Arrays = {}
        self.mask: Arrays = {}
        self.step = 0
        self.norms: list[tuple[float, int]] = []

    def to(self, end: int) -> None:
        per_epoch = math.ceil(len(self.x) / BATCH)
        while self.step < end:
            epoch, place = divmod(self.step, per_epoch)
            batch = order(len(self.x), 0, epoch)[place * BATCH : (place + 1) * BATCH]
            found = gradients(self.weights, self.x[batch], self.labels[batch])
            found = {name: each * self.mask.get(name, 1) for name, each in found.items()}
            norm = math.sqrt(sum((each**2).sum() for each in found.values()))
            self.norms.append((norm, len(batch)))
            for name, gradient in found.items():
                change = gradient * min(1, CLIP / (norm + 1e-6)) + DECAY * self.weights[name]
                self.velocity[name] = MOMENTUM * self.velocity[name] + change if name in self.velocity else change
                lr = LR * (0.5 if epoch >= 1 else 1)
                self.weights[name] = (self.weights[name] - lr * self.velocity[name]) * self.mask.get(name, 1)
            self.step += 1


def mask_of(weights: Arrays, before: Arrays, names: list[str], fraction: float) -> Arrays:
    """One more round: the smallest of all that is left go, one by one."""
    left = [
        (abs(weights[name].flat[place]), number, place, name)
        for number, name in enumerate(names)
        for place in range(weights[name].size)
        if before[name].flat[place]
    ]
    mask = {name: before[name].copy() for name in names}
    for _, _, place, name in sorted(left)[: math.ceil(fraction * len(left))]:
        mask[name].flat[place] = 0
    return mask


@pytest.mark.parametrize("parameters", ["weights", "all"])
@pytest.mark.parametrize("rewind", [0, 3])
def test_two_rounds_are_those_of_the_naive_ones(tmp_path: Path, parameters: str, rewind: int) -> None:
    data = open_prepared("digits", tmp_path)
    images = data.train.gather(np.arange(data.info.train))
    x = (images.reshape(len(images), -1) / 255 - data.info.mean[0]) / data.info.std[0]
    given = Options(store=Store(tmp_path / "store"), data_dir=tmp_path, device="cpu", threads=1)
    prune = {"fraction": 0.3, "parameters": parameters, "rewind": f"{rewind}it"}
    specs = [RunSpec.model_validate({**SPEC, "prune": {**prune, "round": number}}) for number in range(3)]
    results = [run(spec, given) for spec in specs]

    def stored(spec: RunSpec, step: int, file: str = "student") -> Arrays:
        return load_file(given.store.run(spec).path / "checkpoints" / str(step) / f"{file}.safetensors")

    start = stored(specs[0], 0)
    layers = [f"{HIDDEN}.weight", f"{HIDDEN}.bias", f"{OUT}.weight", f"{OUT}.bias"]
    names = [name for name in layers if parameters == "all" or name.endswith("weight")]
    end = results[0].steps
    trained = Trained(start, x, data.train.labels)
    trained.to(end)
    mask = {name: np.ones_like(start[name]) for name in names}
    for spec, result in zip(specs[1:], results[1:], strict=True):
        mask = mask_of(trained.weights, mask, names, 0.3)
        trained = Trained(start, x, data.train.labels)
        trained.to(rewind)
        trained.mask = mask
        trained.weights = {name: each * mask.get(name, 1) for name, each in trained.weights.items()}
        trained.norms = []
        trained.to(end)
        ended, packed = stored(spec, end), stored(spec, end, "mask")
        assert set(packed) == set(names)
        for name in names:
            assert np.array_equal(np.unpackbits(packed[name], count=mask[name].size), mask[name].ravel())
        for name in layers:
            np.testing.assert_allclose(ended[name], trained.weights[name], rtol=1e-9, atol=1e-12)
        last = trained.norms[-math.ceil(len(x) / BATCH) :]
        norm = sum(value * count for value, count in last) / sum(count for _, count in last)
        assert result.last["train/grad_norm"] == pytest.approx(norm, rel=1e-9)
        assert max(value for value, _ in trained.norms) > CLIP
