"""How fast does a student leave the teacher that it starts at? The gradient's norm, step by step, without batch norm.

    python benchmarks/first_steps.py [--data NAME] [--data-dir FOLDER]

The teacher is computed on the same batch as the student, so that at alpha = 0 only kernels could tell them
apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from measure import open_data, print_header

from rt_scale.data.inputs import to_inputs
from rt_scale.data.prepare import Prepared
from rt_scale.data.resident import ResidentLoader
from rt_scale.models.pair import build_pair, to_device
from rt_scale.spec.run import RunSpec
from rt_scale.training.objective import distance

SHOWN = (1, 2, 3, 4, 5, 10, 18)


def optimizer(name: str, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """``sgd``, or ``adamw`` and its eps, at a learning rate of 1e-3."""
    if name == "sgd":
        return torch.optim.SGD(parameters, lr=1e-3)
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0, eps=float(name.split()[1]))


def norms(data: Prepared, name: str, dtype: torch.dtype, alpha: float) -> list[float]:
    """Norms of the gradient of the first steps."""
    spec = RunSpec.model_validate(
        {
            "data": {"name": data.info.name},
            "encoder": {"name": "convnet_32_3"},
            "projector": {"hidden": [256, 256], "bottleneck": 64, "out_dim": 1024},
            "student": {"alpha": alpha},
        }
    )
    pair = build_pair(spec, data.info.channels, data.info.size)
    teacher, student = (to_device(network, "cpu", dtype) for network in pair)
    loader = ResidentLoader(data.train, batch_size=256, seed=0, device="cpu")
    step = optimizer(name, list(student.parameters()))
    found: list[float] = []
    epoch = 0
    while len(found) < SHOWN[-1]:
        for batch in loader.epoch(epoch):
            inputs = to_inputs(batch.images, data.info.mean, data.info.std, None, dtype)
            with torch.no_grad():
                targets = teacher(inputs)
            step.zero_grad()
            distance("cross_entropy", student(inputs), targets).loss.backward()
            found.append(float(torch.nn.utils.get_total_norm([p.grad for p in student.parameters()])))
            step.step()
        epoch += 1
    return found


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = open_data(options.data, options.data_dir)
    print_header("How fast does a student leave its teacher?", {"data": data.info.title, "n": "1 seed"})
    print(f"| optimiser | precision | alpha | {' | '.join(f'step {number}' for number in SHOWN)} |")
    print("| --- " * (3 + len(SHOWN)) + "|")
    for name in ("adamw 1e-8", "adamw 1e-4", "sgd"):
        for dtype in (torch.float32, torch.float64):
            for alpha in (0.0, 1e-10, 1e-4):
                found = norms(data, name, dtype, alpha)
                cells = " | ".join(f"{found[number - 1]:.0e}" for number in SHOWN)
                print(f"| {name} | {str(dtype).removeprefix('torch.')} | {alpha:g} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
