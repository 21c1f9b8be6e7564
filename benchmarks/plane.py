"""A point of a landscape: ``PointMeasures`` beside a plain loop over points that keeps the teacher, too.

    python benchmarks/plane.py [--settings digits vgg11 resnet18] [--points 8] [--rounds 5]

Both measure the same points between two random networks, in turns: KL of outputs to the teacher on both splits and the
linear probe on raw and standardised embeddings, with the same images and as many steps. The plain loop keeps the
teacher's softmax and log-softmax, loads one network at a time, and trains its two classifiers with torch.nn.Linear,
autograd and torch.optim.AdamW. Images are noise: no time depends on them. Timed in seconds of the processor on one
thread, which others on the machine disturb less than the clock's.
"""

from __future__ import annotations

import argparse
import time
from typing import NamedTuple

import torch
from lib import measure
from torch import Tensor, nn
from torch.nn import functional

from rt_scale.analyses.measures import Images, PointMeasures, ProbeRecipe
from rt_scale.models.networks import Network, Weights, build_network, to_device
from rt_scale.probes.features import standardise
from rt_scale.spec.experiments.training import training
from rt_scale.spec.run import RunSpec
from rt_scale.system.memory import keep_freed_memory

BATCH, CLASSES = 256, 10
NAMES = ("kl_train", "kl_test", "linear", "linear_standardized")


class Setting(NamedTuple):
    """Encoder and its width and norm, outputs, channels and size of images, images of both splits, those for losses."""

    encoder: str
    width: float
    norm: str
    outputs: int
    channels: int
    size: int
    train: int
    test: int
    losses: int


SETTINGS = {
    "digits": Setting("convnet_32_3", 1, "none", 1024, 1, 8, 1437, 360, 360),
    "vgg11": Setting("vgg11", 0.25, "none", 4096, 3, 32, 1000, 1000, 500),
    "resnet18": Setting("resnet18", 0.125, "batch", 4096, 3, 32, 1000, 1000, 500),
}


class Points:
    """The points of a setting, and both ways to measure them."""

    def __init__(self, setting: Setting, number: int, steps: int) -> None:
        document = {
            "data": {"name": "cifar10"},
            "encoder": {"name": setting.encoder, "width": setting.width, "norm": setting.norm},
            "projector": {"hidden": [256, 256], "bottleneck": 64, "out_dim": setting.outputs},
        }
        self.setting, self.steps = setting, steps
        self.teacher, other = (self._network(document, seed).state_dict() for seed in (0, 1))
        shares = torch.linspace(0.1, 0.9, number).tolist()
        self.points = [{name: self.teacher[name].lerp(value, share) if value.is_floating_point() else value
                        for name, value in other.items()} for share in shares]  # fmt: skip
        generator = torch.Generator().manual_seed(0)
        shape = (setting.channels, setting.size, setting.size)
        self.train, self.test = (
            Images(
                torch.randn(count, *shape, generator=generator).contiguous(memory_format=torch.channels_last),
                torch.randint(CLASSES, (count,), generator=generator),
            )
            for count in (setting.train, setting.test)
        )
        recipe = ProbeRecipe(steps=steps, batch_size=BATCH)
        self.network = self._network(document, 2)
        self.measures = PointMeasures(
            self._network(document, 3), self.teacher, self.train, self.test, NAMES,
            classes=CLASSES, losses=setting.losses, probe=recipe, batch_size=BATCH,
        )  # fmt: skip
        self.kept = [self._outputs(self.teacher, images) for images in (self.train, self.test)]

    def _network(self, document: dict[str, object], seed: int) -> Network:
        spec = training(RunSpec.model_validate(document))
        network = build_network(spec, self.setting.channels, self.setting.size, torch.Generator().manual_seed(seed))
        return to_device(network, "cpu").eval()

    @torch.no_grad()
    def _outputs(self, weights: Weights, images: Images) -> list[tuple[Tensor, Tensor]]:
        self.network.load_state_dict(weights)
        batches = torch.split(images.x[: self.setting.losses], BATCH)
        logs = [torch.log_softmax(self.network(x), dim=1) for x in batches]
        return [(each.exp(), each) for each in logs]

    def ours(self) -> float:
        """Seconds a point of ``PointMeasures``."""
        return self._timed(lambda: self.measures.measure(self.points))

    def plain(self) -> float:
        """Seconds a point of the plain loop."""
        return self._timed(lambda: [self._plain(point) for point in self.points])

    def _timed(self, work: object) -> float:
        start = time.process_time()
        work()  # type: ignore[operator]
        return (time.process_time() - start) / len(self.points)

    def _plain(self, point: Weights) -> dict[str, float]:
        self.network.load_state_dict(point)
        found, embeddings = {}, []
        for name, images, kept in zip(("kl_train", "kl_test"), (self.train, self.test), self.kept, strict=True):
            total, embedded = 0.0, []
            with torch.no_grad():
                for number, x in enumerate(torch.split(images.x, BATCH)):
                    embedding = self.network.encoder(x)
                    embedded.append(embedding)
                    left = self.setting.losses - number * BATCH
                    if left > 0:
                        logs = torch.log_softmax(self.network.projector(embedding[:left]), dim=1)
                        p, log_p = kept[number]
                        total += float((p * (log_p - logs)).sum())
            found[name] = total / self.setting.losses
            embeddings.append(torch.cat(embedded))
        found["linear"] = self._linear(*embeddings)
        found["linear_standardized"] = self._linear(*standardise(*embeddings))
        return found

    def _linear(self, train: Tensor, test: Tensor) -> float:
        torch.manual_seed(0)
        classifier = nn.Linear(train.shape[1], CLASSES)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=1e-3)
        done = 0
        while done < self.steps:
            for rows in torch.split(torch.randperm(len(train)), BATCH):
                if done == self.steps:
                    break
                optimizer.zero_grad()
                functional.cross_entropy(classifier(train[rows]), self.train.y[rows]).backward()
                optimizer.step()
                done += 1
        with torch.no_grad():
            return float((classifier(test).argmax(1) == self.test.y).double().mean())


def main() -> None:
    """Measure and print."""
    asked = _arguments()
    torch.set_num_threads(1)
    measure.print_header(
        f"A point of a landscape, {asked.points} points a call",
        {"repetitions": f"{asked.rounds} of each in turns, 1 as warm-up; median (lowest to highest), ms a point"},
    )
    print("| setting | steps of the linear probe | plain loop, kept teacher | PointMeasures | ratio | of the fastest |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in asked.settings:
        for steps in asked.steps:
            points = Points(SETTINGS[name], asked.points, steps)
            with keep_freed_memory():
                times = measure.alternate(points.ours, points.plain, asked.rounds)
            ours, plain = (measure.summarise(each) for each in times)
            cells = " | ".join(
                f"{1e3 * each.median:.1f} ({1e3 * each.low:.1f} to {1e3 * each.high:.1f})" for each in (plain, ours)
            )
            ratios = f"{plain.median / ours.median:.2f} | {plain.low / ours.low:.2f}"
            print(f"| {name} | {steps:,} | {cells} | {ratios} |", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--steps", type=int, nargs="+", default=[60, 200, 1960])
    parser.add_argument("--points", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
