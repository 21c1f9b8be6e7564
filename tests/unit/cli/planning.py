"""A sweep that is planned, and what machines cost."""

from __future__ import annotations

from typing import Any

SWEEP: dict[str, Any] = {
    "name": "one",
    "base": {
        "data": {"name": "digits", "samples": 60},
        "encoder": {"name": "convnet_4_1"},
        "projector": {"hidden": [16], "bottleneck": 8, "out_dim": 32},
        "train": {"epochs": 1, "batch_size": 32},
        "probe": {"every": "1ep", "knn": 5, "epochs": 1},
    },
    "seeds": 3,
}
PRICES = {
    "prices": [
        {"name": "a machine", "gpus": 0, "cpus": 4, "on_demand": 3600.0, "spot": 1800.0, "currency": "EUR",
         "date": "2026-02-03", "source": "a page"},
        {"name": "with GPUs", "gpus": 4, "cpus": 4, "on_demand": 3600.0, "spot": None, "currency": "EUR",
         "date": "2026-02-03", "source": "a page"},
    ]
}  # fmt: skip
