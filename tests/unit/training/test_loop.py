"""The training loop: what it updates, measures, and says to its hooks; means; the memory that it keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Batch
from rt_scale.spec.stopping import Stopped
from rt_scale.training.loop import (
    Diverged,
    Means,
    Measured,
    Progress,
    Step,
    compute_gradients,
    distance,
    train,
)


class TenNumbers:
    """Ten samples in batches of 4, 4 and 2; the order of an epoch is rotated by its number."""

    samples, batch_size, steps = 10, 4, 3

    def epoch(self, epoch: int, start: int = 0):  # type: ignore[no-untyped-def]
        index = torch.from_numpy(np.roll(np.arange(10), epoch))
        for part in index.split(4)[start:]:
            yield Batch(part.float().view(-1, 1, 1, 1), part % 2, part)

    def sequential(self):  # type: ignore[no-untyped-def]
        yield from self.epoch(0)


def model() -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, 1, 1)
    nn.init.constant_(layer.weight, 2.0)
    nn.init.constant_(layer.bias, 0.5)
    return layer


def squares(network: nn.Module, batch: Batch, step: int) -> Measured:
    values = network(batch.images.view(-1, 1))
    return Measured(values.square().mean(), {"largest": values.detach().max()})


class Recorder:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.epochs: list[tuple[int, int, dict[str, float]]] = []
        self.stops: list[int] = []

    def after_step(self, progress: Progress) -> None:
        self.steps.append(progress.step)

    def after_epoch(self, progress: Progress, metrics: dict[str, float]) -> None:
        self.epochs.append((progress.epoch, progress.step, metrics))

    def stopped(self, progress: Progress) -> None:
        self.stops.append(progress.step)


def run(epochs: int, lr: float = 0.0, progress: Progress | None = None) -> tuple[nn.Linear, Recorder]:
    network, recorder = model(), Recorder()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr)
    train(
        network, TenNumbers(), squares, optimizer, epochs=epochs, progress=progress or Progress(), hooks=[recorder]
    )  # fmt: skip
    return network, recorder


def test_metrics_are_means_over_samples_not_over_batches() -> None:
    _, recorder = run(1)
    values = 2.0 * np.arange(10) + 0.5
    metrics = recorder.epochs[0][2]
    assert metrics["loss"] == pytest.approx(np.square(values).mean())
    assert metrics["largest"] == pytest.approx((4 * values[3] + 4 * values[7] + 2 * values[9]) / 10)
    gradients = []
    for part in np.split(np.arange(10), [4, 8]):
        out = 2.0 * part + 0.5
        gradients.append(math.hypot((2 * out * part).mean(), (2 * out).mean()) * len(part))
    assert metrics["grad_norm"] == pytest.approx(sum(gradients) / 10, rel=1e-6)


def test_parameters_follow_plain_gradient_descent() -> None:
    network, _ = run(2, lr=1e-3)
    weight, bias = 2.0, 0.5
    for epoch in range(2):
        for part in np.split(np.roll(np.arange(10.0), epoch), [4, 8]):
            out = weight * part + bias
            weight, bias = weight - 1e-3 * (2 * out * part).mean(), bias - 1e-3 * (2 * out).mean()
    assert network.weight.item() == pytest.approx(weight, rel=1e-5)
    assert network.bias.item() == pytest.approx(bias, rel=1e-4)


def test_hooks_see_every_step_and_epoch() -> None:
    _, recorder = run(2)
    assert recorder.steps == [1, 2, 3, 4, 5, 6]
    assert [entry[:2] for entry in recorder.epochs] == [(1, 3), (2, 6)]


def test_training_goes_on_from_its_progress() -> None:
    whole, _ = run(3, lr=1e-3)
    network, recorder = model(), Recorder()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    progress = Progress()
    for epochs in (1, 3):
        train(network, TenNumbers(), squares, optimizer, epochs=epochs, progress=progress, hooks=[recorder])
    assert torch.equal(network.weight, whole.weight)
    assert recorder.steps == list(range(1, 10))
    assert (progress.epoch, progress.step) == (3, 9)
    train(network, TenNumbers(), squares, optimizer, epochs=3, progress=progress, hooks=[recorder])
    assert torch.equal(network.weight, whole.weight)


@pytest.mark.parametrize("end", range(9))
def test_it_ends_at_any_step_and_goes_on_from_there(end: int) -> None:
    whole, undisturbed = run(3, lr=1e-3)
    network, recorder = model(), Recorder()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    progress = Progress()
    train(network, TenNumbers(), squares, optimizer, epochs=3, end=end, progress=progress, hooks=[recorder])
    assert (progress.epoch, progress.step, bool(progress.sums)) == (end // 3, end, bool(end % 3))
    assert recorder.epochs[: end // 3] == undisturbed.epochs[: end // 3]
    assert [each[:2] for each in recorder.epochs[end // 3 :]] == ([(end // 3, end)] if end % 3 else [])
    ended = list(recorder.epochs[: end // 3])
    recorder.epochs = []
    train(network, TenNumbers(), squares, optimizer, epochs=3, progress=progress, hooks=[recorder])
    assert recorder.steps == list(range(1, 10))
    assert ended + recorder.epochs == undisturbed.epochs
    assert torch.equal(network.weight, whole.weight)


@pytest.mark.parametrize("at", range(1, 9))
def test_asked_to_stop_after_any_step_it_goes_on_as_if_it_had_not_been(at: int) -> None:
    whole, undisturbed = run(3, lr=1e-3)
    network, recorder, progress = model(), Recorder(), Progress()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    parts = {"epochs": 3, "progress": progress, "hooks": [recorder]}
    with pytest.raises(Stopped):
        train(network, TenNumbers(), squares, optimizer, **parts, stop=lambda: progress.step >= at)
    assert recorder.stops == [at] == [progress.step]
    assert progress.epoch == at // 3
    assert bool(progress.sums) == (at % 3 > 0)
    train(network, TenNumbers(), squares, optimizer, **parts)
    assert torch.equal(network.weight, whole.weight)
    assert recorder.epochs == undisturbed.epochs
    assert recorder.steps == undisturbed.steps


def test_gradients_may_be_computed_elsewhere() -> None:
    whole, undisturbed = run(2, lr=1e-3)
    asked: list[int] = []

    def elsewhere(step: Step) -> Measured:
        asked.append(step.number)
        return compute_gradients(step)

    network, recorder = model(), Recorder()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    train(
        network, TenNumbers(), squares, optimizer, epochs=2, progress=Progress(), hooks=[recorder], gradients=elsewhere
    )
    assert asked == list(range(6))
    assert torch.equal(network.weight, whole.weight)
    assert recorder.epochs == undisturbed.epochs


@pytest.mark.parametrize("when", ["after_step", "after_epoch"])
def test_a_hook_that_is_stopped_ends_training_with_everything_kept(monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    recorder, progress, network = Recorder(), Progress(), model()

    def leave(*given: object) -> None:
        if progress.step == 3 if when == "after_epoch" else progress.step == 2:
            raise Stopped

    monkeypatch.setattr(recorder, when, leave)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    with pytest.raises(Stopped):
        train(network, TenNumbers(), squares, optimizer, epochs=2, progress=progress, hooks=[recorder])
    assert recorder.stops == [progress.step] == [3 if when == "after_epoch" else 2]
    assert bool(progress.sums) == (when == "after_step")


def test_after_the_last_step_there_is_nothing_to_stop() -> None:
    network, recorder, progress = model(), Recorder(), Progress()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    train(
        network, TenNumbers(), squares, optimizer, epochs=2, progress=progress, hooks=[recorder],
        stop=lambda: progress.step == 6,
    )  # fmt: skip
    assert (recorder.stops, progress.epoch) == ([], 2)


def test_an_objective_is_told_how_many_steps_are_done() -> None:
    told: list[int] = []

    def objective(network: nn.Module, batch: Batch, step: int) -> Measured:
        told.append(step)
        return squares(network, batch, step)

    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    train(network, TenNumbers(), objective, optimizer, epochs=3, progress=Progress(1, 3))
    assert told == [3, 4, 5, 6, 7, 8]


class Modes(nn.Sequential):
    """Modules within a module; how often its mode is set, and the modes of all of them at every step."""

    def __init__(self) -> None:
        self.set = 0
        self.seen: list[set[bool]] = []
        super().__init__(nn.Sequential(nn.Linear(1, 3), nn.BatchNorm1d(3)), nn.Linear(3, 1))

    def train(self, mode: bool = True) -> Modes:
        self.set += 1
        super().train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append({module.training for module in self.modules()})
        values: Tensor = super().forward(x)
        return values


@pytest.mark.parametrize("part", ["", "0", "0.1"])
@pytest.mark.parametrize("when", ["after_step", "after_epoch"])
def test_hooks_may_leave_any_part_of_the_model_in_evaluation_mode(part: str, when: str) -> None:
    network = Modes()
    hook = Recorder()
    setattr(hook, when, lambda *told: network.get_submodule(part).eval())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    train(network, TenNumbers(), squares, optimizer, epochs=2, progress=Progress(), hooks=[hook])
    assert network.seen == [{True}] * 6


def test_modes_are_set_once_an_epoch_where_nobody_changes_them() -> None:
    network = Modes()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    train(network.eval(), TenNumbers(), squares, optimizer, epochs=2, progress=Progress(), hooks=[Recorder()])
    assert network.seen == [{True}] * 6
    assert network.set == 1 + 2  # once by eval above


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run_with_its_place(number: float) -> None:
    def objective(network: nn.Module, batch: Batch, step: int) -> Measured:
        measured = squares(network, batch, step)
        return Measured(measured.loss * number, {})

    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    with pytest.raises(Diverged, match=rf"loss is {number}.*epoch 1 \(step 3\).*lower|Lower train.optimizer.lr"):
        train(network, TenNumbers(), objective, optimizer, epochs=2, progress=Progress())


def test_distance_is_the_l2_norm_over_all_parameters() -> None:
    network = model()
    reference: list[Tensor] = [torch.tensor([[-1.0]]), torch.tensor([4.5])]
    assert float(distance(network, reference)) == pytest.approx(5.0)
    assert float(distance(network, list(network.parameters()))) == 0.0
    with pytest.raises(ValueError, match="zip"):
        distance(network, reference[:1])


CPU = torch.device("cpu")
DTYPES = (
    {"loss": torch.float64, "grad_norm": torch.float64},
    {"loss": torch.float32, "grad_norm": torch.float32, "kl": torch.float32},
    {"loss": torch.float32, "grad_norm": torch.float64, "kl": torch.bfloat16},
)


def steps(dtypes: dict[str, torch.dtype]) -> list[tuple[dict[str, Tensor], int]]:
    """Values of very different sizes, and the samples that they stand for."""
    generator = torch.Generator().manual_seed(0)

    def value(dtype: torch.dtype) -> Tensor:
        mantissa, exponent = torch.randn(2, generator=generator, dtype=torch.float64)
        return (mantissa * 10 ** (2 * exponent)).to(dtype)

    return [({name: value(dtype) for name, dtype in dtypes.items()}, weight) for weight in (256, 256, 255, 7, 256, 3)]


def one_by_one(added: list[tuple[dict[str, Tensor], int]]) -> dict[str, Tensor]:
    """The sums, metric by metric in the order of the steps."""
    sums: dict[str, Tensor] = {}
    for values, weight in added:
        for name, value in values.items():
            term = value.double() * weight
            sums[name] = sums[name] + term if name in sums else term
    return sums


@pytest.mark.parametrize("dtypes", DTYPES)
def test_means_are_those_of_a_sum_for_every_metric_to_the_last_bit(dtypes: dict[str, torch.dtype]) -> None:
    means, added = Means(), steps(dtypes)
    for values, weight in added:
        means.add(values, weight)
    total = sum(weight for _, weight in added)
    assert means.read() == {name: float(value / total) for name, value in one_by_one(added).items()}
    assert list(means.read()) == list(dtypes)


@pytest.mark.parametrize("dtypes", DTYPES)
def test_sums_that_are_kept_are_gone_on_from_to_the_last_bit(dtypes: dict[str, torch.dtype]) -> None:
    whole, first, second, progress, added = Means(), Means(), Means(), Progress(), steps(dtypes)
    for values, weight in added:
        whole.add(values, weight)
    for values, weight in added[:4]:
        first.add(values, weight)
    first.save(progress)
    assert progress.sums == {name: float(value) for name, value in one_by_one(added[:4]).items()}
    assert progress.weight == 256 + 256 + 255 + 7
    second.restore(progress, CPU)
    assert (progress.sums, progress.weight) == ({}, 0.0)
    for values, weight in added[4:]:
        second.add(dict(reversed(values.items())), weight)  # by name, whatever their order
    assert second.read() == whole.read()


def test_what_is_added_stays_as_it_is_and_has_no_gradient() -> None:
    means, value = Means(), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        means.add({"loss": value * 1}, 3)
    means.add({"loss": (kept := torch.tensor(5.0, dtype=torch.float64))}, 2)
    assert means.read() == {"loss": 22 / 8}
    assert (kept.item(), value.item()) == (5.0, 2.0)


def test_nothing_added_is_nothing_read_and_nothing_gone_on_from() -> None:
    means = Means()
    means.restore(Progress(), CPU)
    assert means.read() == {}
    means.add({"loss": torch.tensor(1.0)}, 1)
    assert means.read() == {"loss": 1.0}


@pytest.mark.parametrize("values", [{}, {"a": 1.0}, {"a": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}])
def test_names_are_those_of_the_first_values(values: dict[str, float]) -> None:
    given = {name: torch.tensor(value) for name, value in values.items()}
    fresh, restored = Means(), Means()
    fresh.add({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 1)
    restored.restore(Progress(sums={"a": 1.0, "b": 2.0}, weight=1.0), CPU)
    for means in (fresh, restored):
        with pytest.raises(ValueError, match="means of a, b cannot take"):
            means.add(given, 1)
        assert means.read() == {"a": 1.0, "b": 2.0}
    with pytest.raises(ValueError, match="means of nothing cannot take nothing"):
        Means().add({}, 1)
