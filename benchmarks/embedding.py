"""Do embeddings computed in bf16 give the probes of float32 ones, within the noise of the probes?

    python benchmarks/embedding.py --store FOLDER [--data-dir FOLDER] [--encoders vgg11 resnet18]
        [--norms none batch] [--runs 3] [--seeds 5] [--threads 1]

Trained students and their teachers of finished runs embed the images that those runs were probed on, once in float32
and once in bf16, as the product does; both are probed with the same seed, so that the difference is rounding's.

Kinds are data set, encoder, width and normalisation; of each, runs of different teachers, of the largest
``data.samples``. A cell is ``accuracy: d ± t, max |d| (noise, spread)``: the mean accuracy in % of float32 embeddings;
d is bf16 less float32 in percentage points, t the half-width of its 95 % interval over networks (Student's). Noise and
spread are what float32 leaves open itself, as standard deviations: of the linear probe over its own seeds, and for
nearest neighbours, which have none, of an accuracy on so many test images; then over networks. ``rounding`` is the root
mean square of the embeddings' difference over the standard deviation between images, both over all dimensions: how much
of what a probe reads is rounding. The store is only read.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from fidelity import interval
from measure import print_header
from pydantic import ValidationError
from torch import nn

from rt_scale.data.places import default_data_dir
from rt_scale.experiments.check import Sets, check
from rt_scale.experiments.evaluation import build_probers
from rt_scale.experiments.loaders import training_loader, training_subset
from rt_scale.experiments.objectives import clean_inputs
from rt_scale.experiments.settings import find_device
from rt_scale.experiments.starts import start_weights
from rt_scale.models.pair import build_pair, to_device
from rt_scale.probing.prober import Embedded, Prober
from rt_scale.spec.data import GAUSSIAN
from rt_scale.spec.run import ProbeSpec, RunSpec
from rt_scale.spec.seeding import stream
from rt_scale.spec.start import StartFrom
from rt_scale.store.store import Store

PROBES = ("linear", "linear_standardized", "knn", "knn_standardized")
SEEDED = PROBES[:2]
PRECISIONS = ("float32", "bf16")
ROLES: tuple[Literal["teacher", "student"], ...] = ("teacher", "student")
Kind = tuple[str, str, str, str]
"""Data set, encoder, width and normalisation."""


class Found(NamedTuple):
    """What one network gives.

    Attributes:
        exact: accuracies in % of float32 embeddings, by probe.
        rounded: of bf16 ones.
        rounding: their difference over the spread between images.
        noise: of ``exact``, in percentage points, as the table names it.
    """

    exact: dict[str, float]
    rounded: dict[str, float]
    rounding: float
    noise: dict[str, float]


def finished(store: Store, asked: argparse.Namespace) -> Iterator[tuple[Kind, list[RunSpec]]]:
    """Runs of each kind, of at most ``asked.runs`` different teachers, whose students began beside them."""
    kinds: dict[Kind, list[RunSpec]] = {}
    for run_dir in store:
        try:
            spec = RunSpec.model_validate(run_dir.spec())
        except ValidationError:
            continue
        plain = spec.kind == "distill" and not spec.starts and not spec.teacher.moves and spec.precision == "float32"
        near = spec.student.alpha is not None and spec.student.alpha <= 1e-4
        wanted = spec.encoder.name in asked.encoders and spec.encoder.norm in asked.norms
        there = spec.data.name != GAUSSIAN and spec.name == run_dir.name and run_dir.result() is not None
        if plain and near and wanted and there:
            encoder = spec.encoder
            kind = spec.data.name, encoder.name, f"width {encoder.width:g}", f"norm {encoder.norm}"
            kinds.setdefault(kind, []).append(spec)
    for kind, specs in sorted(kinds.items()):
        best: dict[int, RunSpec] = {}
        for spec in sorted(specs, key=lambda spec: (spec.data.samples or 10**9, spec.projector.out_dim), reverse=True):
            best.setdefault(spec.seeds.teacher, spec)
        yield kind, list(best.values())[: asked.runs]


def networks(spec: RunSpec, store: Store, sets: Sets, device: torch.device) -> dict[str, nn.Module]:
    """The encoders of the frozen teacher and of the trained student."""
    info = sets.main.info
    ends = {
        role: getattr(spec, role).model_copy(update={"start_from": StartFrom(run=spec, take=role)}) for role in ROLES
    }
    weights = start_weights(spec.model_copy(update=ends), store)
    pair = build_pair(spec, info.channels, spec.data.size or info.size, weights)
    return {role: to_device(getattr(pair, role).encoder, device) for role in ROLES}


def probers(spec: RunSpec, sets: Sets, device: torch.device) -> dict[str, Prober]:
    """The product's probers of the run's images in either precision, with the paper's recipe."""
    loader = training_loader(spec, sets.main, "host", device, training_subset(spec, sets.main))
    made = {}
    for precision in PRECISIONS:
        there = spec.model_copy(update={"precision": precision, "probe": ProbeSpec()})
        made[precision] = build_probers(there, sets, loader, clean_inputs(there, sets.main.info, True))[None]
    return made


def compare(made: Mapping[str, Prober], encoder: nn.Module, spec: RunSpec, seeds: int) -> Found:
    """Probe both embeddings of one network with the run's seed, and those in float32 with others too."""
    seed = stream("probe", spec.seeds.probe)
    exact, rounded = (made[precision].embed_network(encoder, seed) for precision in PRECISIONS)
    values = made["float32"].probe_features([exact, rounded])
    others = [stream("probe", spec.seeds.probe, again) for again in range(1, seeds)]
    again = [*_linear(made["float32"], exact, others), values[0]]
    difference = (rounded.test.x - exact.test.x).square().mean().sqrt()
    spread = exact.test.x.var(dim=0, correction=0).mean().sqrt()
    noise = {name: 100 * statistics.stdev(each[name] for each in again) for name in SEEDED}
    for name in PROBES[len(SEEDED) :]:
        noise[name] = 100 * (values[0][name] * (1 - values[0][name]) / len(exact.test.y)) ** 0.5
    in_percent = [{name: 100 * each[name] for name in PROBES} for each in values]
    return Found(*in_percent, float(difference / spread), noise)


def _linear(prober: Prober, embedded: Embedded, seeds: list[int]) -> list[dict[str, float]]:
    """The linear probes alone, with each of ``seeds``."""
    alone = prober.spec.model_copy(update={"knn": 0, "logistic": False, "ridge": False})
    again = Prober(alone, prober.train, prober.test, prober.to_inputs, classes=prober.classes)
    return again.probe_features([embedded._replace(seed=seed) for seed in seeds])


def row(kind: str, role: str, found: list[Found]) -> str:
    """One row of the table."""
    cells = []
    for probe in PROBES:
        differences = [each.rounded[probe] - each.exact[probe] for each in found]
        mean, half = interval(differences)
        level = statistics.fmean(each.exact[probe] for each in found)
        noise = statistics.fmean(each.noise[probe] for each in found)
        spread = statistics.stdev(each.exact[probe] for each in found)
        most = max(map(abs, differences))
        cells.append(f"{level:.1f}: {mean:+.2f} ± {half:.2f}, {most:.2f} ({noise:.2f}, {spread:.2f})")
    rounding = max(each.rounding for each in found)
    return f"| {kind} | {role} | {len(found)} | {rounding:.1%} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print a table in Markdown."""
    asked = _arguments()
    torch.set_num_threads(asked.threads)
    device, store = find_device(asked.device), Store.open(asked.store)
    kinds = list(finished(store, asked))
    runs = [spec for _, specs in kinds for spec in specs]
    samples = sorted({spec.data.samples or 0 for spec in runs})
    facts = {
        "device": device,
        "networks": f"students and teachers of {len(runs)} finished runs in {len(kinds)} kinds",
        "images": f"each run's training images ({', '.join(map(str, samples))}; 0: all) and all test images",
        "noise": f"{asked.seeds} seeds of the linear probe",
    }
    print_header("Do embeddings computed in bf16 give the probes of float32 ones?", facts)
    print(f"| kind | network | n | rounding, max | {' | '.join(PROBES)} |\n{'| --- ' * 8}|", flush=True)
    began = time.monotonic()
    everything: dict[str, list[Found]] = {role: [] for role in ROLES}
    for kind, specs in kinds:
        found: dict[str, list[Found]] = {role: [] for role in ROLES}
        for spec in specs:
            sets = check(spec, default_data_dir(asked.data_dir))
            made = probers(spec, sets, device)
            for role, encoder in networks(spec, store, sets, device).items():
                found[role].append(compare(made, encoder, spec, asked.seeds))
        for role, each in found.items():
            print(row(", ".join(kind), role, each), flush=True)
            everything[role] += each
    for role, each in everything.items():
        print(row("all", role, each))
    print(f"\n{time.monotonic() - began:.0f} s")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True, help="with finished runs")
    parser.add_argument("--data-dir", type=Path, help="where prepared data is; else RT_SCALE_DATA")
    parser.add_argument("--encoders", nargs="+", default=["vgg11", "resnet18"])
    parser.add_argument("--norms", nargs="+", default=["none", "batch"])
    parser.add_argument("--runs", type=int, default=3, help="of each kind, at least 2")
    parser.add_argument("--seeds", type=int, default=5, help="of the linear probe")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
