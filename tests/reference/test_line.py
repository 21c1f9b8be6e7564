"""A line between two classifiers, derived once more: float64, plain loops, the naive network beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from rt_scale.data.prepare import open_prepared
from rt_scale.experiments.networks import load_weights
from rt_scale.experiments.options import Options
from rt_scale.experiments.runner import run
from rt_scale.spec.experiments.connect import ConnectSpec
from rt_scale.spec.run import RunSpec, stream
from rt_scale.store.store import Store
from tests.reference.naive_network import Network, outputs

RELATIVE = 1e-10
BATCH, POINTS = 256, 4
END: dict[str, Any] = {
    "kind": "supervise",
    "data": {"name": "digits"},
    "encoder": {"name": "convnet_4_2", "norm": "batch"},
    "projector": {"hidden": [7], "batch_norm": True, "parts": "-/lb/-/-/-/-", "init": "torch", "out_dim": 10},
    "student": {"alpha": 1.0},
    "train": {"epochs": 2, "batch_size": BATCH, "optimizer": {"name": "sgd", "lr": 0.3}},
    "probe": {"every": None, "knn": 0, "epochs": 1, "standardized": False},
    "precision": "float64",
}


def naive(weights: dict[str, Tensor]) -> Network:
    """Statistics apart from parameters."""
    statistics = {name: value for name, value in weights.items() if "running" in name}
    theta = {name: value for name, value in weights.items() if name not in statistics}
    return Network(theta, statistics, END["projector"]["parts"], "gelu", training=False)


def batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


def loss_and_error(network: Network, inputs: Tensor, labels: np.ndarray) -> tuple[float, float]:
    loss = wrong = 0.0
    for chosen in batches(np.arange(len(labels))):
        (logits,) = outputs(network, [inputs[chosen]])
        for row, label in zip(logits, labels[chosen], strict=True):
            loss -= float(row[label] - row.exp().sum().log())
            wrong += int(row.argmax()) != label
    return loss / len(labels), wrong / len(labels)


@pytest.mark.parametrize("statistics", ["estimated", "interpolated", "batch"])
def test_one_line_and_its_barriers(tmp_path: Path, statistics: str) -> None:
    ends = {"run": END, "vary": "seeds.student", "values": [1, 2]}
    fields = {"statistics": statistics} | ({"estimation_images": 700} if statistics == "estimated" else {})
    spec = RunSpec.model_validate({"kind": "connect", "ends": ends, "points": POINTS, "splits": ["test"], **fields})
    assert isinstance(spec, ConnectSpec)
    store = Store(tmp_path / "store")
    run(spec, Options(store=store, data_dir=tmp_path / "data", device="cpu", threads=1))

    data = open_prepared("digits", tmp_path / "data")
    (mean,), (std,) = data.info.mean, data.info.std

    def pixels(images: np.ndarray) -> Tensor:
        return (torch.from_numpy(images).double().permute(0, 3, 1, 2) / 255 - mean) / std

    def order(count: int) -> np.ndarray:
        return np.random.Generator(np.random.PCG64(stream("connect.images", 0))).permutation(count)

    test = order(360)
    inputs, labels = pixels(data.test.read_all()[test]), data.test.labels[test]
    estimation = pixels(data.train.read_all()[order(1437)[:700]])
    first, second = (load_weights(store.run(end.run), "student")[1] for end in spec.ends)
    first, second = ({n: v for n, v in each.items() if "num_batches" not in n} for each in (first, second))
    losses, errors = [], []
    for point in range(POINTS):
        t = point / (POINTS - 1)
        network = naive({name: value + t * (second[name] - value) for name, value in first.items()})
        network.training = True
        if statistics == "estimated":
            seen = 0
            for chosen in batches(np.arange(700)):
                seen += len(chosen)
                network.rate = len(chosen) / seen
                outputs(network, [estimation[chosen]])
        network.training = statistics == "batch"
        loss, error = loss_and_error(network, inputs, labels)
        losses.append(loss)
        errors.append(error)

    folder = store.run(spec).artifacts
    curve = pq.read_table(folder / "curves.parquet").to_pydict()
    assert curve["loss"] == pytest.approx(losses, rel=RELATIVE)
    assert curve["error"] == pytest.approx(errors, rel=RELATIVE)
    rows = {row["measure"]: row for row in pq.read_table(folder / "pairs.parquet").to_pylist()}
    assert losses[1] > losses[0], "there is something to see between independent draws"
    for measure, values in (("loss", losses), ("error", errors)):
        over_line = [v - values[0] - i / (POINTS - 1) * (values[-1] - values[0]) for i, v in enumerate(values)]
        expected = max(values) - (values[0] + values[-1]) / 2
        assert rows[measure]["barrier"] == pytest.approx(expected, rel=RELATIVE)
        assert rows[measure]["barrier_line"] == pytest.approx(max(over_line), rel=RELATIVE)
    apart = torch.cat([(first[name] - second[name]).flatten() for name in first if "running" not in name])
    assert rows["loss"]["l2"] == pytest.approx(float(apart.square().sum().sqrt()), rel=RELATIVE)
