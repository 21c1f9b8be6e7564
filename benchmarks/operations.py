"""Operations that a training step gives to its device, part by part: on a GPU each is a kernel to launch, or several.

    python benchmarks/operations.py [--batch-size 8] [--out after.json] [--before before.json]

Where a network is small a kernel takes less time than its launch (some 5 us of the host), and what counts is how many
there are. They are counted on the CPU, where the loop and autograd call the same operations of ATen, backward pass and
all, in one thread; counts are exact. A convolution counts as one, whatever cuDNN makes of it, and so does a fused or
foreach operation over many tensors, which CUDA launches by the some hundred tensors. Left out are operations that
launch nothing (:data:`NO_KERNEL`), and copies from the host, which a CPU does not make. The wide output is in four
tiles, as m = 65,536 is on a GPU at batch 256, of fewer columns.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest import mock

import torch
from lib import measure
from lib.synthetic import NAME, write_synthetic
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rt_scale.data.augment import views as augment
from rt_scale.data.augment.draws import CropFlipDraws, ViewDraws
from rt_scale.data.loaders.resident import ResidentLoader
from rt_scale.data.prepare import Prepared
from rt_scale.experiments.objectives import build_objective, build_sharpenings, build_views, clean_inputs
from rt_scale.losses import chunked as wide
from rt_scale.models.networks import build_pair, to_device
from rt_scale.models.projector import Outputs
from rt_scale.spec.run import RunSpec
from rt_scale.training import loop
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Targets
from rt_scale.training.loop import Means, Progress
from rt_scale.training.optim import UpdateRules, build_optimizer
from rt_scale.training.precision import arithmetic, parameter_dtype

P = ParamSpec("P")
T = TypeVar("T")
Counts = dict[str, Counter[str]]

_VIEWS = (
    *("alias", "as_strided", "as_strided_", "detach", "detach_", "diagonal", "expand", "permute", "select", "slice"),
    *("split", "split_with_sizes", "squeeze", "t", "transpose", "unbind", "unfold", "unsqueeze", "view"),
    *("_reshape_alias", "_unsafe_view", "lift_fresh"),
)
_UNWRITTEN = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided")
_HOST = ("promote_types", "_record_function_enter_new", "_record_function_exit")
NO_KERNEL = frozenset([*_VIEWS, *_UNWRITTEN, *_HOST])
"""What leaves the device alone: views, memory that nothing is written to yet, questions to the host."""

LOADING, DRAWS, VIEWS, TARGETS = "loading and the loop", "draws (on the host)", "views", "teacher"
FORWARD, OBJECTIVE, BACKWARD, NORM = "forward", "objective", "backward", "gradient norm"
MEANS, UPDATE = "means", "update"
PARTS = (LOADING, DRAWS, VIEWS, TARGETS, FORWARD, OBJECTIVE, BACKWARD, NORM, MEANS, UPDATE)
STEPS, COUNTED = 4, 3
"""Steps that are done, and which one is counted: the first ones make what later ones keep."""
WIDE_TILES = 4
HEAD = {"hidden": (64, 64), "bottleneck": 32}
"""The projector, of as many layers as the default one and narrower: no count depends on a width."""

CASES: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "wide": {"wide": True},
    "kl": {"objective": {"name": "kl"}},
    "mse": {"objective": {"name": "mse"}},
    "sharpened": {"teacher": {"temperature": 0.05, "center": 0.9}, "student": {"temperature": 0.1}},
    "bf16": {"precision": "bf16"},
    "crop_flip": {"augment": {"kind": "crop_flip"}},
    "multicrop": {"augment": {"kind": "multicrop", "local_views": 2}, "objective": {"pairing": "opposite"}},
}
"""What is changed of the default distillation with a cached teacher, ``wide`` apart."""


class Operations(TorchDispatchMode):
    """Counts operations that reach the device, by the part of the step that calls them (a Hook).

    Attributes:
        counts: of the step under way, by part, then by the operation's name.
        found: those of step :data:`COUNTED`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counts = {}
        self.found: Counts = {}
        self._part = LOADING

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count ``func`` and call it."""
        name = func.overloadpacket.__name__
        if name not in NO_KERNEL:
            self.counts.setdefault(self._part, Counter())[name] += 1
        return func(*args, **(kwargs or {}))

    def of(self, part: str, function: Callable[P, T]) -> Callable[P, T]:
        """``function``, whose operations are that part's, but for those of a part within it."""

        def counted(*args: P.args, **kwargs: P.kwargs) -> T:
            before, self._part = self._part, part
            try:
                return function(*args, **kwargs)
            finally:
                self._part = before

        return counted

    @contextlib.contextmanager
    def within(self, seams: Sequence[tuple[Any, str, str]]) -> Iterator[None]:
        """Count inside, where functions are parts, given as (owner, attribute, part)."""
        with contextlib.ExitStack() as stack:
            for owner, attribute, part in seams:
                stack.enter_context(mock.patch.object(owner, attribute, self.of(part, getattr(owner, attribute))))
            stack.enter_context(self)
            yield

    def after_step(self, progress: Progress) -> None:
        """Begin the next step's counts."""
        if progress.step == COUNTED:
            self.found = self.counts
        self.counts = {}

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        """All is counted."""

    def stopped(self, progress: Progress) -> None:
        """Nobody stops it."""


class WatchedTargets(Targets):
    """Teacher targets whose operations are a part of their own."""

    def __init__(self, operations: Operations, targets: Targets) -> None:
        self._logits, self._outputs = (operations.of(TARGETS, ask) for ask in (targets.__call__, targets.outputs))

    def __call__(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        """Logits."""
        return self._logits(views, index)  # type: ignore[return-value]

    def outputs(self, views: Sequence[Tensor], index: Tensor) -> Outputs:
        """The same not made yet."""
        return self._outputs(views, index)  # type: ignore[return-value]


def count(spec: RunSpec, data: Prepared) -> Counts:
    """The operations of one step of the product's loop, which the steps before it have settled."""
    device, operations = torch.device("cpu"), Operations()
    pair = build_pair(spec, data.info.channels, data.info.size)
    teacher, student = (to_device(network, device, parameter_dtype(spec.precision)) for network in pair)
    loader = ResidentLoader(data.train, batch_size=spec.train.batch_size, seed=0, device=device)
    inputs = clean_inputs(spec, data.info, channels_last=True)
    targets: Targets = ComputedTargets(teacher)
    if spec.augment.kind == "none":
        with arithmetic(spec.precision, device):
            targets = CachedTargets(teacher, loader.sequential(), loader.samples, inputs)
    steps: Any = {"steps": loader.steps, "steps_per_epoch": loader.steps}
    seen = operations.of(VIEWS, build_views(spec, data.info, True, loader))
    watched = WatchedTargets(operations, targets)
    sharpenings = build_sharpenings(spec, **steps)
    objective = build_objective(spec, data, None, seen, lambda: [watched], sharpenings, device)
    optimizer = build_optimizer(spec.train.optimizer, student.parameters())
    seams = [
        *((augment, draw, DRAWS) for draw in ("draw_crop_flip", "draw_multicrop", "moved")),
        (ViewDraws, "select", DRAWS),
        *((draws, "places", DRAWS) for draws in [CropFlipDraws] if hasattr(draws, "places")),
        (student, "of_views", FORWARD), (student, "features_of_views", FORWARD),
        (torch.autograd, "backward", BACKWARD), (loop, "_gradient_norm", NORM), (Means, "add", MEANS),
        (optimizer, "step", UPDATE),
    ]  # fmt: skip
    with operations.within(seams):
        loop.train(
            student, loader, operations.of(OBJECTIVE, objective), optimizer, epochs=1, progress=Progress(),
            before_update=operations.of(UPDATE, UpdateRules(optimizer, spec.train.optimizer, **steps)),
            hooks=[operations],
        )  # fmt: skip
    return operations.found


def main() -> None:
    """Count and print."""
    asked = _arguments()
    torch.set_num_threads(1)
    measure.print_header(
        "Operations of a training step", {"batch": asked.batch_size, "counted": "exact; no repetition"}
    )
    before = json.loads(asked.before.read_text()) if asked.before else {}
    with tempfile.TemporaryDirectory() as folder:
        data = write_synthetic(Path(folder), STEPS * asked.batch_size, 2)
        found = {encoder: cases_of(encoder, data, asked) for encoder in asked.encoders}
    for encoder, cases in found.items():
        print(_table(encoder, cases, before.get(encoder, {})))
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=1, sort_keys=True))


def cases_of(encoder: str, data: Prepared, asked: argparse.Namespace) -> dict[str, Counts]:
    """The operations of a step of each case that is asked for."""
    columns = wide.NARROWEST
    base = {"data": {"name": NAME}, "encoder": {"name": encoder}, "train": {"batch_size": asked.batch_size}}
    found = {}
    for name in asked.cases:
        changes = dict(CASES[name])
        out_dim = WIDE_TILES * columns if changes.pop("wide", False) else columns
        spec = RunSpec.model_validate(base | changes | {"projector": {**HEAD, "out_dim": out_dim}})
        with mock.patch.multiple(wide, TILE=columns * asked.batch_size, TILE_A_THREAD=0):
            found[name] = count(spec, data)
    return found


def _table(encoder: str, cases: Mapping[str, Counts], before: Mapping[str, Counts]) -> str:
    def cell(case: str, parts: Sequence[str]) -> str:
        now, then = (
            sum(sum(counts.get(part, {}).values()) for part in parts)
            for counts in (cases[case], before.get(case, cases[case]))
        )
        return f"{now}" if now == then else f"{then} -> {now}"

    rows = [[f"{encoder}", *cases], ["---", *("---:" for _ in cases)]]
    rows += [[part, *(cell(case, [part]) for case in cases)] for part in PARTS]
    rows += [["all but the host's", *(cell(case, [part for part in PARTS if part != DRAWS]) for case in cases)]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["convnet_32_2", "resnet18"])
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, help="gets all counts by operation, as JSON")
    parser.add_argument("--before", type=Path, help="such a file of another commit, to print beside")
    return parser.parse_args()


if __name__ == "__main__":
    main()
