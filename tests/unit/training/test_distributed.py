from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Batch, Loader
from rt_scale.spec.errors import RunError
from rt_scale.spec.stopping import Stopped
from rt_scale.training import distributed as dist
from rt_scale.training.distributed import (
    ALONE,
    GlobalBatchNorm,
    Group,
    WorkerLost,
    differentiable_sum,
    with_global_statistics,
)
from rt_scale.training.loop import Means, Measured, Progress, train
from rt_scale.training.teacher import Sharpening
from tests.distributed import Ranks

BATCH = 12


class Rows(Loader):
    """Random images that each rank can make for itself; the last batch holds one fewer than there are ranks."""

    def __init__(self, rank: int, world: int, samples: int = 26) -> None:
        super().__init__(
            torch.arange(samples).numpy() % 3, batch_size=BATCH, seed=0, device="cpu", rank=rank, world=world
        )
        self.all = torch.randint(0, 256, (samples, 8, 8, 3), generator=torch.Generator().manual_seed(1)).byte()

    def _images(self, host: Tensor, there: Tensor, mine: Any) -> Any:
        for share in mine:
            yield self.all[host[share]]


def network(dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.GELU(), nn.Flatten(), nn.Linear(180, 8), nn.BatchNorm1d(8),
            nn.GELU(), nn.Linear(8, 3),
        ).to(dtype)  # fmt: skip


class Recorder:
    """Keeps every gradient that the optimiser is given."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.gradients = model, list[list[Tensor]]()

    def __call__(self, step: int, norm: Tensor) -> None:
        self.gradients.append([p.grad.clone() for p in self.model.parameters() if p.grad is not None])


class Watch:
    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}

    def after_step(self, progress: Progress) -> None:
        pass

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.metrics = metrics

    def stopped(self, progress: Progress) -> None:
        """Nobody stops it."""


def steps(group: Group, dtype: torch.dtype, samples: int, without: tuple[int, ...] = ()) -> dict[str, Any]:
    """Two epochs; gradients, metrics and what is learned."""
    model = network(dtype)
    for number in without:
        model[number] = nn.Identity()
    loader = Rows(group.rank, group.world, samples)
    with_global_statistics(model, group, stand_ins=True)
    recorder, watch = Recorder(model), Watch()
    sharpening = Sharpening(2.0, 0.9, group=group)

    def objective(model: nn.Module, batch: Batch, step: int) -> Measured:
        logits = sharpening(model(batch.images.permute(0, 3, 1, 2).to(dtype) / 255), step)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        return Measured(loss, {"size": logits.square().mean()})

    train(
        model, loader, objective, torch.optim.SGD(model.parameters(), 0.01),
        epochs=2, progress=Progress(), before_update=recorder, hooks=[watch], group=group,
    )  # fmt: skip
    assert loader.steps * 2 == len(recorder.gradients)
    return {
        "gradients": recorder.gradients,
        "metrics": watch.metrics,
        "state": model.state_dict(),
        "centre": sharpening.centre,
    }


# A last batch of 1 image, of which one rank has none, is too small for a batch norm without positions.
# One of 2 images is exact in float64 alone: its outputs are -1 and 1, and their gradients cancel.
@pytest.mark.parametrize(
    ("world", "samples", "without", "dtype", "tolerance"),
    [
        (2, 25, (5,), torch.float32, 1e-6),
        (2, 31, (), torch.float32, 1e-6),
        (2, 25, (5,), torch.float64, 1e-12),
        (3, 26, (), torch.float64, 1e-11),
    ],
)
def test_ranks_together_do_the_steps_of_one(
    tmp_path: Path, world: int, samples: int, without: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    alone = steps(ALONE, dtype, samples, without)
    for found in Ranks(tmp_path / "ranks", world, steps, dtype, samples, without).results():
        for own, expected in zip(found["gradients"], alone["gradients"], strict=True):
            for gradient, other in zip(own, expected, strict=True):
                torch.testing.assert_close(gradient, other, rtol=0, atol=tolerance)
        assert found["metrics"] == pytest.approx(alone["metrics"], rel=10 * tolerance)
        torch.testing.assert_close(found["centre"], alone["centre"], rtol=0, atol=tolerance)
        assert found["state"].keys() == alone["state"].keys()
        for name, value in found["state"].items():
            torch.testing.assert_close(value, alone["state"][name], rtol=0, atol=10 * tolerance)


def test_without_batch_norm_too(tmp_path: Path) -> None:
    alone = steps(ALONE, torch.float64, 25, (1, 5))
    first, second = Ranks(tmp_path / "ranks", 2, steps, torch.float64, 25, (1, 5)).results()
    for name, value in alone["state"].items():
        torch.testing.assert_close(first["state"][name], value, rtol=0, atol=1e-12)
        assert torch.equal(first["state"][name], second["state"][name])


def small_buckets(group: Group) -> Tensor:
    dist.BUCKET_BYTES = 16
    parameters = [nn.Parameter(torch.zeros(n, dtype=dtype)) for n, dtype in enumerate([torch.float32] * 5, start=1)]
    parameters.append(nn.Parameter(torch.zeros(2, 2, 2, 2).contiguous(memory_format=torch.channels_last)))
    parameters.append(nn.Parameter(torch.zeros(3, dtype=torch.float64)))
    for number, parameter in enumerate(parameters):
        ramp = torch.arange(parameter.numel(), dtype=parameter.dtype).view(parameter.shape)
        parameter.grad = torch.empty_like(parameter).copy_(ramp * (group.rank + 1) + number)
    group.sum_gradients([*parameters, nn.Parameter(torch.zeros(1))])
    return torch.cat([p.grad.flatten().double() for p in parameters if p.grad is not None])


def test_gradients_of_all_shapes_layouts_and_dtypes_are_summed(tmp_path: Path) -> None:
    sizes = [1, 2, 3, 4, 5, 16, 3]
    expected = torch.cat([3 * torch.arange(size).double() + 2 * number for number, size in enumerate(sizes)])
    for found in Ranks(tmp_path / "ranks", 2, small_buckets).results():
        assert torch.equal(found, expected)


def reductions(group: Group) -> dict[str, Any]:
    rows = torch.arange(6.0).view(3, 2)[group.rank * 2 : group.rank * 2 + 2]
    means = Means(group)
    means.add({"a": torch.tensor(1.0 + group.rank)}, 1 + group.rank)
    leaf = torch.tensor([2.0], requires_grad=True)
    objective = differentiable_sum(leaf * (1 + group.rank), group) ** 2 * (0.25 if group.leads else 0.75)
    objective.backward()
    group.counts = int(group.leads)
    only_first = group.mean_of_rows(rows)
    group.counts = 1
    return {
        "mean": group.mean_of_rows(rows), "first": only_first, "means": means.read(), "leads": group.leads,
        "told": group.broadcast({"from": group.rank}), "gradient": leaf.grad,
    }  # fmt: skip


def test_reductions_count_rows_and_samples(tmp_path: Path) -> None:
    found = Ranks(tmp_path / "ranks", 2, reductions).results()
    for each in found:
        assert each["mean"].tolist() == [2.0, 3.0]
        assert each["first"].tolist() == [1.0, 2.0]
        assert each["means"] == {"a": pytest.approx(5 / 3)}
        assert each["told"] == {"from": 0}
    assert [each["leads"] for each in found] == [True, False]
    # d(s^2)/ds = 2 s = 12 at s = 2 + 4, and each rank's term of s has the factor 1 + rank.
    assert [each["gradient"].item() for each in found] == [12.0, 24.0]


def halves(group: Group, asks: int) -> dict[str, Any]:
    """Two epochs, stopped after the first step as one rank asks for it, and gone on with."""
    model, watch, progress = network(torch.float64), Watch(), Progress()
    for number in (1, 5):
        model[number] = nn.Identity()

    def objective(model: nn.Module, batch: Batch, step: int) -> Measured:
        logits = model(batch.images.permute(0, 3, 1, 2).double() / 255)
        return Measured(nn.functional.cross_entropy(logits, batch.labels), {"size": logits.square().mean()})

    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    how = {"epochs": 2, "progress": progress, "hooks": [watch], "group": group}
    given = (model, Rows(group.rank, group.world, 25), objective, optimizer)
    stopped: dict[str, Any] | None = None
    try:
        train(*given, **how, stop=lambda: group.rank == asks and progress.step >= 1)
    except Stopped:
        stopped = dataclasses.asdict(progress)
        train(*given, **how)
    return {"stopped": stopped, "metrics": watch.metrics, "state": model.state_dict()}


def test_all_ranks_stop_at_one_step_where_one_is_asked_to(tmp_path: Path) -> None:
    alone = halves(ALONE, asks=9)
    assert alone["stopped"] is None
    for asks in (0, 1):
        first, second = Ranks(tmp_path / f"ranks-{asks}", 2, halves, asks).results()
        assert first["stopped"] == second["stopped"]
        assert (first["stopped"]["epoch"], first["stopped"]["step"]) == (0, 1)
        assert first["stopped"]["sums"].keys() == {"loss", "grad_norm", "size"}
        for found in (first, second):
            assert found["metrics"] == pytest.approx(alone["metrics"], rel=1e-11)
            for name, value in found["state"].items():
                torch.testing.assert_close(value, alone["state"][name], rtol=0, atol=1e-12)


def differing(group: Group, rank: int) -> str:
    weights = [torch.ones(3), torch.tensor([2.0 + (group.rank == rank)])]
    try:
        group.check_same(weights)
    except RunError as error:
        return str(error)
    return "same"


@pytest.mark.parametrize(("rank", "said"), [(9, "same"), (0, "different weights"), (1, "different weights")])
def test_every_rank_learns_that_one_starts_elsewhere(tmp_path: Path, rank: int, said: str) -> None:
    assert all(said in text for text in Ranks(tmp_path / "ranks", 2, differing, rank).results())


def dying(group: Group) -> None:
    if not group.leads:
        raise OSError("gone")
    group.sum(torch.ones(1))


def test_a_rank_that_ends_is_noticed_by_the_others(tmp_path: Path) -> None:
    ranks = Ranks(tmp_path / "ranks", 2, dying)
    assert ranks.wait() == [1, 1]
    assert ranks.errors()[0].startswith("WorkerLost: Another worker of this run ended")


def test_one_process_is_a_world_of_one() -> None:
    group = Group.current()
    assert (group.rank, group.world, group.leads) == (0, 1, True)
    rows = torch.arange(6.0).view(3, 2)
    assert torch.equal(group.mean_of_rows(rows), rows.mean(dim=0))
    assert group.sum(rows) is rows
    assert group.broadcast("text") == "text"
    batch = Batch(torch.zeros(0, 1, 1, 1), torch.zeros(0), torch.zeros(0))
    assert group.share(batch, Rows(0, 1), 0)[0] is batch
    model = nn.Sequential(nn.BatchNorm1d(2))
    assert with_global_statistics(model, group, stand_ins=True)[0] is model[0]
    with pytest.raises(ValueError, match="rank 2 of 2"):
        Group(2, 2)


def test_a_lost_worker_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(tensor: Tensor) -> None:
        raise RuntimeError("Connection closed\nby peer")

    monkeypatch.setattr("torch.distributed.all_reduce", broken)
    with pytest.raises(WorkerLost, match=r"\(Connection closed by peer\).* last checkpoint"):
        Group(1, 2).sum(torch.ones(1))


def test_in_evaluation_a_global_batch_norm_is_the_one_it_replaces() -> None:
    norm = nn.BatchNorm1d(3, momentum=0.2, eps=0.5)
    norm.running_mean += torch.tensor([1.0, 2.0, 3.0])
    made = GlobalBatchNorm(norm, Group(0, 2))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.eval()(x), norm.eval()(x))
    assert (made.momentum, made.eps) == (0.2, 0.5)
    assert made.weight is norm.weight


def single(group: Group) -> str:
    group.counts = int(group.leads)
    try:
        GlobalBatchNorm(nn.BatchNorm1d(2), group)(torch.ones(1, 2))
    except ValueError as error:
        return str(error)
    return "nothing said"


def test_one_value_a_channel_is_refused_as_torch_does(tmp_path: Path) -> None:
    assert all("more than 1 value" in text for text in Ranks(tmp_path / "ranks", 2, single).results())


def test_a_share_of_a_batch_is_where_its_images_are() -> None:
    for rank in range(3):
        loader, whole = Rows(rank, 3), Rows(0, 1)
        for number, (part, batch) in enumerate(zip(loader.epoch(0), whole.epoch(0), strict=True)):
            size, start = loader.share(number)
            assert size == len(batch.index)
            assert torch.equal(batch.index[start : start + len(part.index)], part.index)
            assert start < size  # of an empty share, too: its stand-in takes an image's place
