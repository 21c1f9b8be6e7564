"""Nine points of a plane, derived once more: float64, plain formulas, the naive network beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rt_scale.data.prepare import open_prepared
from rt_scale.experiments.base import check
from rt_scale.experiments.dependencies import weights_of
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.document import resolve_same
from rt_scale.spec.experiments.landscape import LandscapeSpec
from rt_scale.spec.run import RunSpec
from rt_scale.store.store import Store
from tests.reference.naive_network import Network, embeddings, outputs

K = 5
RUN: dict[str, Any] = {
    "data": {"name": "digits", "samples": 100},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [7], "bottleneck": 6, "out_dim": 12},
    "student": {"alpha": 0.3},
    "train": {"epochs": 3, "batch_size": 32},
    "probe": {"every": None, "knn": K, "epochs": 1, "standardized": False},
    "precision": "float64",
}
PLANE: dict[str, Any] = {
    "kind": "landscape",
    "origin": {"run": RUN, "take": "teacher"},
    "x": {"run": "same"},
    "y": {"run": {"same_but": {"student": {"alpha": 1}}}},
    "window": [[-0.25, 0.75], [-0.125, 0.25]],
    "points": [3, 3],
    "measures": [
        "kl_train", "kl_test", "cross_entropy_test", "entropy_train", "kl_embedding_train", "kl_embedding_test", "knn",
    ],
}  # fmt: skip


def naive(weights: dict[str, Tensor]) -> Network:
    """Statistics apart from parameters."""
    statistics = {name: value for name, value in weights.items() if "running" in name}
    theta = {name: value for name, value in weights.items() if name not in statistics}
    return Network(theta, statistics, "-/lb/fn/wn/l/-", "gelu", training=False)


def softmax(z: Tensor) -> Tensor:
    powers = (z - z.max(dim=1, keepdim=True).values).exp()
    return powers / powers.sum(dim=1, keepdim=True)


def mean_sum(terms: Tensor) -> float:
    return float(terms.sum(dim=1).sum() / len(terms))


def accuracy_of_neighbours(train: Tensor, labels: np.ndarray, test: Tensor, truth: np.ndarray) -> float:
    right = 0
    for vector, label in zip(test, truth, strict=True):
        nearest = np.argsort([float((vector - other).square().sum()) for other in train], kind="stable")[:K]
        right += np.bincount(labels[nearest], minlength=10).argmax() == label
    return right / len(truth)


def test_nine_points(tmp_path: Path) -> None:
    spec = RunSpec.model_validate(resolve_same(PLANE))
    assert isinstance(spec, LandscapeSpec)
    store = Store(tmp_path / "store")
    run(spec, Options(store=store, data_dir=tmp_path / "data", device="cpu", threads=1))
    with np.load(store.run(spec).artifacts / "plane.npz") as arrays:
        found = dict(arrays)

    data = open_prepared("digits", tmp_path / "data")
    (mean,), (std,) = data.info.mean, data.info.std
    sets = check(spec, tmp_path / "data")
    three = [weights_of(each, store, sets) for each in (spec.origin, spec.x, spec.y)]
    three = [{name: value for name, value in each.items() if "num_batches" not in name} for each in three]

    from rt_scale.data.subsets import nested_subset

    chosen = nested_subset(data.train.labels, 100, 0)
    images = {"train": data.train.read_all()[chosen], "test": data.test.read_all()}
    labels = {"train": data.train.labels[chosen], "test": data.test.labels}
    inputs = {
        split: (torch.from_numpy(each).double().permute(0, 3, 1, 2) / 255 - mean) / std
        for split, each in images.items()
    }
    teacher = naive(three[0])
    targets = {split: softmax(outputs(teacher, [each])[0]) for split, each in inputs.items()}
    embedded = {split: softmax(embeddings(teacher, each)) for split, each in inputs.items()}
    seen = 0
    for row, b in enumerate([-0.125, 0.0625, 0.25]):
        for column, a in enumerate([-0.25, 0.25, 0.75]):
            o, x, y = three
            weights = {name: o[name] + a * (x[name] - o[name]) + b * (y[name] - o[name]) for name in o}
            network, expected, there = naive(weights), {}, {}
            for split, each in inputs.items():
                there[split] = embeddings(network, each)
                p, q = targets[split], softmax(outputs(network, [each])[0])
                expected[f"kl_{split}"] = mean_sum(p * (p / q).log())
                expected[f"cross_entropy_{split}"] = mean_sum(-p * q.log())
                expected[f"entropy_{split}"] = mean_sum(-q * q.log())
                p, q = embedded[split], softmax(there[split])
                expected[f"kl_embedding_{split}"] = mean_sum(p * (p / q).log())
            expected["knn"] = accuracy_of_neighbours(there["train"], labels["train"], there["test"], labels["test"])
            for name in spec.measures:
                assert found[name][row, column] == pytest.approx(expected[name], rel=1e-8, abs=1e-14), (name, a, b)
                seen += 1
            parameters = [value for name, value in weights.items() if "running" not in name]
            norm = float(sum(each.square().sum() for each in parameters)) ** 0.5
            assert found["norm"][row, column] == pytest.approx(norm, rel=1e-12)
            encoder = [value for name, value in weights.items() if name.startswith("encoder") and "running" not in name]
            norm = float(sum(each.square().sum() for each in encoder)) ** 0.5
            assert found["norm_encoder"][row, column] == pytest.approx(norm, rel=1e-12)
    assert seen == 9 * 7
