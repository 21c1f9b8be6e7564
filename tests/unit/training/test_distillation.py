"""The objectives as the loop takes them, and the targets of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rt_scale.data.loaders.base import Batch
from rt_scale.losses import chunked as wide
from rt_scale.losses.distances import distance, view_pairs
from rt_scale.losses.supervised import supervised_cross_entropy
from rt_scale.models.networks import Network, build_pair, initialise
from rt_scale.models.projector import Projector
from rt_scale.spec.networks import PAPER, ProjectorSpec
from rt_scale.spec.run import RunSpec
from rt_scale.training import distillation
from rt_scale.training.distillation import CachedTargets, ComputedTargets, Distillation, Supervision
from rt_scale.training.precision import arithmetic, parameter_dtype
from rt_scale.training.teacher import Sharpening


class Fixed:
    """Targets that depend on the positions, and on which of the views it is; keeps how many it is shown."""

    def __init__(self) -> None:
        self.shown: list[int] = []

    def __call__(self, views: Sequence[Tensor], index: Tensor) -> Tensor:
        self.shown.append(len(views))
        position = index.to(torch.float32)
        return torch.cat([torch.stack([position + view, -position], dim=1) for view in range(len(views))])


class Linear(nn.Linear):
    """A student of one layer, whose outputs are few."""

    projector = SimpleNamespace(factored=False)

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self(torch.cat(list(views)))
        return logits


def one_view(images: Tensor, step: int) -> tuple[Tensor, ...]:
    return (images.float().flatten(1) / 255,)


def three_views(images: Tensor, step: int) -> tuple[Tensor, ...]:
    (whole,) = one_view(images, step)
    return whole, whole.flip(1) + step, whole.square()


def batch() -> Batch:
    images = torch.arange(12, dtype=torch.uint8).view(3, 2, 2, 1) * 20
    return Batch(images, torch.tensor([0, 1, 0]), torch.tensor([2, 0, 1]))


def student() -> Any:
    layer = nn.utils.skip_init(Linear, 4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.3, -0.2, 0.5, 0.1], [-0.4, 0.2, 0.1, 0.7]]))
        layer.bias.zero_()
    return layer


def test_loss_and_metrics_are_those_of_the_formula() -> None:
    measured = Distillation(Fixed(), one_view, "float32")(student(), batch(), 0)
    targets = torch.softmax(torch.tensor([[2.0, -2.0], [0.0, 0.0], [1.0, -1.0]]), dim=1)
    log_p = torch.log_softmax(student()(one_view(batch().images, 0)[0]), dim=1).detach()
    entropy = -(targets * targets.log()).sum(1).mean()
    assert measured.loss.item() == pytest.approx(-(targets * log_p).sum(1).mean().item(), rel=1e-6)
    assert set(measured.metrics) == {"kl", "teacher_entropy", "student_entropy"}
    assert measured.metrics["teacher_entropy"].item() == pytest.approx(entropy.item(), rel=1e-6)
    expected = torch.nn.functional.kl_div(log_p, targets, reduction="batchmean").item()
    assert measured.metrics["kl"].item() == pytest.approx(expected, rel=1e-5)
    assert measured.metrics["student_entropy"].item() == pytest.approx(-(log_p.exp() * log_p).sum(1).mean().item())
    assert measured.loss.requires_grad
    assert not any(value.requires_grad for value in measured.metrics.values())


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "mse"])
@pytest.mark.parametrize(("pairing", "teachers"), [("opposite", 2), ("all", 1), ("all", 2)])
def test_the_views_of_the_step_are_compared_by_name_and_pairs(name: str, pairing: str, teachers: int) -> None:
    pairs, targets, step = view_pairs(pairing, teachers, 3), Fixed(), 5
    measured = Distillation(targets, three_views, "float32", name=name, pairs=pairs)(student(), batch(), step)
    assert targets.shown == [teachers]
    views = three_views(batch().images, step)
    logits = student().of_views(views)
    expected = distance(name, logits, Fixed()(views[:teachers], batch().index), pairs)
    assert torch.equal(measured.loss, expected.loss)
    assert torch.equal(measured.metrics["kl"], expected.kl)


def test_each_networks_logits_are_sharpened_as_its_own_at_the_step() -> None:
    def sharpenings() -> dict[str, Sharpening]:
        return {"teacher": Sharpening("linear(0.5, 0.1)", 0.5, steps=4), "student": Sharpening(0.2)}

    ours, theirs, layer = sharpenings(), sharpenings(), student()
    objective = Distillation(Fixed(), one_view, "float32", sharpenings=ours)
    for step in (0, 1):
        measured = objective(layer, batch(), step)
        views = one_view(batch().images, step)
        student_logits = theirs["student"](layer(views[0]), step)
        teacher_logits = theirs["teacher"](Fixed()(views, batch().index), step)
        assert torch.equal(measured.loss, distance("cross_entropy", student_logits, teacher_logits).loss)
        assert torch.equal(ours["teacher"].centre, theirs["teacher"].centre)


def test_precision_decides_dtypes() -> None:
    assert parameter_dtype("float64") == torch.float64
    assert parameter_dtype("float32") == parameter_dtype("bf16") == parameter_dtype("tf32") == torch.float32
    layer, inputs = student(), torch.rand(1, 4, generator=torch.Generator().manual_seed(0))
    device = torch.device("cpu")
    with arithmetic("bf16", device):
        assert layer(inputs).dtype == torch.bfloat16
    with arithmetic("float32", device):
        assert layer(inputs).dtype == torch.float32


@pytest.mark.parametrize("kind", ["distill", "supervise"])
def test_bf16_rounds_the_network_and_not_the_objective(kind: str) -> None:
    def loss(precision: str) -> Tensor:
        if kind == "supervise":
            return Supervision(torch.tensor([1, 0, 1]), one_view, precision)(student(), batch(), 0).loss
        # Of bf16 logits, means and divisions would be rounded too.
        sharpenings = {"teacher": Sharpening(0.3, 0.9), "student": Sharpening(0.3)}
        return Distillation(Fixed(), one_view, precision, sharpenings=sharpenings)(student(), batch(), 0).loss

    exact, rounded = loss("float32"), loss("bf16")
    assert rounded.dtype == torch.float32
    assert exact.item() != rounded.item()
    assert exact.item() == pytest.approx(rounded.item(), rel=2e-2)


def test_a_centre_of_bf16_logits_is_float32() -> None:
    sharpenings = {"teacher": Sharpening(), "student": Sharpening(center=0.9)}
    Distillation(Fixed(), one_view, "bf16", sharpenings=sharpenings)(student(), batch(), 0)
    assert sharpenings["student"].centre is not None
    assert sharpenings["student"].centre.dtype == torch.float32


def test_supervision_knows_labels_by_position_and_not_those_of_the_batch() -> None:
    table = torch.tensor([1, 0, 1])
    measured = Supervision(table, moving_view, "float32")(student(), batch(), 4)
    inputs = one_view(batch().images, 4)[0] + 4
    loss, accuracy = supervised_cross_entropy(student()(inputs), torch.tensor([1, 1, 0]))
    assert torch.equal(measured.loss, loss)
    assert measured.metrics.keys() == {"accuracy"}
    assert torch.equal(measured.metrics["accuracy"], accuracy)
    assert measured.loss.requires_grad
    with pytest.raises(ValueError, match="too many values"):
        Supervision(table, three_views, "float32")(student(), batch(), 0)


def moving_view(images: Tensor, step: int) -> tuple[Tensor, ...]:
    return (one_view(images, step)[0] + step,)


class Head(nn.Module):
    """A student that is a projector of 12 outputs on pixels."""

    def __init__(self, parts: str = PAPER) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        spec = ProjectorSpec(hidden=(), bottleneck=3, out_dim=12, parts=parts)
        self.projector = initialise(Projector(4, spec), generator, linear="torch")

    def features_of_views(self, views: Sequence[Tensor]) -> Tensor:
        features: Tensor = self.projector.features(torch.cat(list(views)))
        return features

    def of_views(self, views: Sequence[Tensor]) -> Tensor:
        logits: Tensor = self.projector.logits(self.features_of_views(views))
        return logits


def ways(monkeypatch: pytest.MonkeyPatch, columns: int) -> list[str]:
    """The ways that distances go from here on, where a tile has that many columns."""
    gone: list[str] = []
    for name in ("distance", "wide_distance"):
        way = getattr(distillation, name)
        monkeypatch.setattr(
            distillation, name, lambda *given, way=way, name=name, **more: gone.append(name) or way(*given, **more)
        )
    monkeypatch.setattr(distillation, "tile_columns", lambda rows, device: columns)
    monkeypatch.setattr(wide, "tile_columns", lambda rows, device: columns)
    return gone


@pytest.mark.parametrize("precision", ["float32", "float64", "bf16"])
@pytest.mark.parametrize("name", ["cross_entropy", "kl"])
def test_outputs_wider_than_a_tile_are_compared_by_their_factors(
    monkeypatch: pytest.MonkeyPatch, name: str, precision: str
) -> None:
    """With the same values, gradients and centres as by logits, to the rounding of the precision."""
    dtype, found = parameter_dtype(precision), []
    gone = ways(monkeypatch, 5)
    for columns in (5, 12):
        monkeypatch.setattr(distillation, "tile_columns", lambda rows, device, columns=columns: columns)
        head, teacher = Head().to(dtype), Head().to(dtype)
        with torch.no_grad():
            teacher.projector.last.weight.copy_(head.projector.last.weight.flip(0))
        sharpenings = {"teacher": Sharpening(0.5, 0.5), "student": Sharpening(0.3)}
        views = lambda images, step: (one_view(images, step)[0].to(dtype),)  # noqa: E731
        objective = Distillation(ComputedTargets(teacher), views, precision, name=name, sharpenings=sharpenings)
        measured = [objective(head, batch(), step) for step in (0, 1)]
        torch.autograd.backward([each.loss for each in measured])
        values = [value for each in measured for value in (each.loss.detach(), *each.metrics.values())]
        found.append([*values, sharpenings["teacher"].centre, *(each.grad for each in head.parameters())])
    assert gone == ["wide_distance"] * 2 + ["distance"] * 2
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bf16": 3e-2}[precision]
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("parts", "name", "pairs"),
    [
        (PAPER, "mse", [(0, 0)]),
        (PAPER, "kl", [(0, 1), (1, 0)]),
        ("-/lb/fn/-/-/-", "kl", [(0, 0)]),
        ("-/lb/-/wn/l/fn", "kl", [(0, 0)]),
    ],
)
def test_what_needs_all_logits_has_them(
    monkeypatch: pytest.MonkeyPatch, parts: str, name: str, pairs: list[tuple[int, int]]
) -> None:
    gone = ways(monkeypatch, 2)
    views = one_view if len(pairs) == 1 else lambda images, step: three_views(images, step)[:2]
    objective = Distillation(ComputedTargets(Head(parts)), views, "float32", name=name, pairs=pairs)
    objective(Head(parts), batch(), 0)
    assert gone == ["distance"]


SAMPLES, SIZE = 10, 8


def teacher(dtype: torch.dtype = torch.float64, **projector: Any) -> Network:
    spec = RunSpec.model_validate(
        {
            "data": {"name": "digits"},
            "encoder": {"name": "convnet_4_2", "norm": "batch"},
            "projector": {"hidden": [6], "bottleneck": 5, "out_dim": 7, **projector},
        }
    )
    return build_pair(spec, channels=1, size=SIZE).teacher.to(dtype)


def batches(indices: list[list[int]]) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (SAMPLES, SIZE, SIZE, 1), dtype=torch.uint8, generator=generator)
    labels = torch.zeros(SAMPLES, dtype=torch.int64)
    return [Batch(images[index], labels[index], torch.tensor(index)) for index in indices]


def to_inputs(images: Tensor, dtype: torch.dtype = torch.float64) -> Tensor:
    return images.permute(0, 3, 1, 2).to(dtype) / 255


def statistics(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.named_buffers() if "running" in name}


# The order in which the cache was filled, and its batches, need not be those of training.
FILLING = [[7, 1, 0], [9, 8, 2, 5], [3, 4, 6]]
TRAINING = [[4, 2], [0, 9, 1], [3, 5, 6, 7, 8]]
INPUTS = to_inputs(batches([list(range(SAMPLES))])[0].images)
INDEX = torch.arange(SAMPLES)


@pytest.mark.parametrize("parts", ["-/lb/fn/wn/l/-", "-/lb/fn/-/-/-", "-/-/-/-/l/fn"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_cached_targets_are_the_computed_ones_to_rounding(dtype: torch.dtype, tolerance: float, parts: str) -> None:
    network = teacher(dtype, parts=parts)
    cached = CachedTargets(network, batches(FILLING), SAMPLES, lambda images: to_inputs(images, dtype))
    computed = ComputedTargets(network)
    for batch in batches(TRAINING):
        inputs = to_inputs(batch.images, dtype)
        expected = network(inputs).detach()
        for targets in (cached, computed):
            logits = targets([inputs], batch.index)
            assert logits.dtype == dtype
            assert not logits.requires_grad
            torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)


def test_the_cache_knows_images_by_their_index_alone() -> None:
    cached = CachedTargets(teacher(), batches(FILLING), SAMPLES, to_inputs)
    index = torch.tensor([3, 3, 8])
    logits = cached([], index)
    torch.testing.assert_close(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2])


def test_the_cache_holds_k_features_a_sample() -> None:
    cached = CachedTargets(teacher(torch.float32), batches(FILLING), SAMPLES, lambda x: to_inputs(x, torch.float32))
    assert cached.features.shape == (SAMPLES, 5)
    assert cached.features.dtype == torch.float32


def test_computed_targets_know_images_by_their_pixels_alone() -> None:
    computed = ComputedTargets(teacher())
    first, second, _ = batches(TRAINING)
    one = computed([to_inputs(first.images)], first.index)
    assert torch.equal(computed([to_inputs(first.images)], first.index + 1), one)
    assert not torch.allclose(computed([to_inputs(second.images)], second.index)[:2], one)


def test_several_views_one_after_the_other() -> None:
    network = teacher()
    views = [INPUTS, INPUTS.flip(3), INPUTS[..., :4, :4]]
    logits = ComputedTargets(network)(views, INDEX)
    expected = torch.cat([network(view) for view in views]).detach()
    torch.testing.assert_close(logits, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_last_layer_of_a_teacher_that_moves_is_normalised_anew(frozen: bool) -> None:
    network = teacher()
    computed = ComputedTargets(network, frozen=frozen)
    before = computed([INPUTS], INDEX)
    with torch.no_grad():
        network.projector.last.weight.copy_(network.projector.last.weight.flip(0))
    after = computed([INPUTS], INDEX)
    torch.testing.assert_close(after, before if frozen else before.flip(1), rtol=1e-12, atol=1e-14)


def test_a_constant_last_layer_is_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[None] = []
    network = teacher()
    directions = network.projector.directions
    monkeypatch.setattr(network.projector, "directions", lambda: calls.append(None) or directions())
    computed = ComputedTargets(network)
    for _ in range(3):
        computed([INPUTS], INDEX)
    assert len(calls) == 1


def test_statistics_that_learn_have_seen_the_batch_before_they_are_used() -> None:
    network, other = teacher(batch_norm=True), teacher(batch_norm=True)
    computed = ComputedTargets(network, learn_statistics=True)
    for views in ([INPUTS], [INPUTS.flip(3), INPUTS + 1]):
        other.train()
        other(torch.cat(views))
        other.eval()
        logits = computed(views, INDEX)
        torch.testing.assert_close(logits, other(torch.cat(views)).detach(), rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(statistics(network), statistics(other), rtol=1e-12, atol=1e-14)
        assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("learn", [True, False])
def test_a_teacher_in_training_mode_has_one_pass_a_batch(learn: bool) -> None:
    network = teacher(batch_norm=True).train()
    computed = ComputedTargets(network, learn_statistics=learn)
    computed([INPUTS], INDEX)
    assert {int(buffer) for buffer in network.buffers() if not buffer.is_floating_point()} == {1}
    assert all(module.training for module in network.modules())


def test_statistics_that_do_not_learn_stay() -> None:
    network = teacher(batch_norm=True)
    before = statistics(network)
    ComputedTargets(network)([INPUTS], INDEX)
    CachedTargets(network, batches(FILLING), SAMPLES, to_inputs)([INPUTS], INDEX)
    torch.testing.assert_close(statistics(network), before, rtol=0, atol=0)
