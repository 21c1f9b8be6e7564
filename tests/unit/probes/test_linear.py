from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor

from rt_scale.probes import linear
from rt_scale.probes.features import standardise
from rt_scale.probes.linear import BatchedClassifiers, Classifier, LinearProbes, Problem, Step

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "lr": 1e-3}


def clouds(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    centres = torch.tensor([[3.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    return centres[y] + torch.randn(n, 2, generator=generator), y


def fit(*, seed: int = 0, classes: int = 3, **changes: Any) -> list[Classifier]:
    return LinearProbes(classes, **QUICK | changes).fit([Problem(*clouds(50, 0), seed)])[0]


def equal(a: list[Classifier], b: list[Classifier]) -> bool:
    return all(torch.equal(*pair) for ours, theirs in zip(a, b, strict=True) for pair in zip(ours, theirs, strict=True))


def test_equal_arguments_give_equal_classifiers() -> None:
    assert equal(fit(standardized=True), fit(standardized=True))


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 3}, {"batch_size": 9}, {"lr": 2e-3}])
def test_every_argument_matters(change: dict[str, Any]) -> None:
    for ours, other in zip(fit(standardized=True), fit(standardized=True, **change), strict=True):
        assert not torch.allclose(ours.weight, other.weight)
        assert not torch.allclose(ours.bias, other.bias)


def test_there_is_one_output_a_class() -> None:
    ((weight, bias),) = fit(classes=7)
    assert (weight.shape, bias.shape) == ((7, 2), (7,))


def test_the_standardised_classifier_is_a_second_one_and_changes_nothing_about_the_first() -> None:
    (alone,), (raw, standardised) = fit(), fit(standardized=True)
    torch.testing.assert_close(raw.weight, alone.weight, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(raw.weight, standardised.weight)


def test_defaults_are_the_papers() -> None:
    problem = Problem(*clouds(600, 0), 0)
    default, paper = LinearProbes(3), LinearProbes(3, standardized=False, epochs=10, batch_size=256, lr=1e-3)
    assert equal(default.fit([problem])[0], paper.fit([problem])[0])


def test_the_others_of_a_batch_change_nothing_but_rounding() -> None:
    x, y = clouds(50, 0)
    problems = [Problem(x, y, 0), Problem(-x, y, 0), Problem(x, y, 1), Problem(x, y.flip(0), 1)]
    probes = LinearProbes(3, standardized=True, **QUICK)
    together = probes.fit([problem._replace(x=problem.x.double()) for problem in problems])
    for problem, ours in zip(problems, together, strict=True):
        (alone,) = probes.fit([problem._replace(x=problem.x.double())])
        for here, there in zip(ours, alone, strict=True):
            torch.testing.assert_close(here.weight, there.weight, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(here.bias, there.bias, rtol=1e-9, atol=1e-12)
    weights = torch.stack([classifier.weight for pair in together for classifier in pair])
    assert len(weights.unique(dim=0)) == len(weights)


def test_a_second_fit_starts_from_nothing() -> None:
    probes = LinearProbes(3, standardized=True, **QUICK)
    probes.fit([Problem(*clouds(50, 3), 4)])
    assert equal(probes.fit([Problem(*clouds(50, 0), 0)])[0], fit(standardized=True))


def as_replayed(step: Step, index: Tensor) -> Step:
    """As CUDA's graphs do it, with the memory of this machine: steps before the capture, then rows of one buffer."""
    rows = index.clone()
    step(rows)

    def replay(given: Tensor) -> None:
        rows.copy_(given)
        step(rows)

    return replay


def refused(step: Step, index: Tensor) -> Step:
    step(index)
    raise RuntimeError("operation not permitted when stream is capturing\nmore detail")


def test_a_kept_graph_serves_the_next_fits_of_the_same_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    made, shapes, alone = [], [], fit(standardized=True)
    monkeypatch.setattr(linear, "GRAPHED_ON", ("cpu",))
    monkeypatch.setattr(linear, "replayed", lambda step, index: shapes.append(index.shape) or as_replayed(step, index))
    monkeypatch.setattr(linear, "BatchedClassifiers", lambda *given: made.append(given) or BatchedClassifiers(*given))
    probes = LinearProbes(3, standardized=True, **QUICK)
    first = probes.fit([Problem(*clouds(50, 0), 0)])[0]
    other = probes.fit([Problem(*clouds(50, 3), 4)])[0]
    assert len(made) == 1
    assert equal(first, alone)
    assert not equal(first, other)
    probes.fit([Problem(*clouds(7, 3), 4)])  # no batch is full: there is nothing to replay
    assert equal(probes.fit([Problem(*clouds(50, 0), 0)])[0], first)
    assert len(made) == 3
    assert shapes == [(1, 8), (1, 8)]
    assert probes.plain_because is None


def test_where_no_graph_can_be_captured_steps_are_plain_and_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = fit(standardized=True)
    monkeypatch.setattr(linear, "GRAPHED_ON", ("cpu",))
    monkeypatch.setattr(linear, "replayed", refused)
    probes = LinearProbes(3, standardized=True, **QUICK)
    assert equal(probes.fit([Problem(*clouds(50, 0), 0)])[0], alone)
    assert probes.plain_because == "its capture failed (operation not permitted when stream is capturing)"


def test_a_capture_steps_before_it_records_and_copies_rows_into_one_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for CUDA: no GPU is needed, and CUDA itself is not tested."""
    recorded: list[Step] = []

    class Graph:
        def replay(self) -> None:
            recorded[0](steps[3])

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "graph", lambda graph, **how: contextlib.nullcontext())
    steps: list[Tensor] = []
    replay = linear.replayed(steps.append, torch.zeros(1, 2, dtype=torch.int64))
    assert len(steps) == 4  # three before, one that is captured
    assert len({rows.data_ptr() for rows in steps}) == 1
    recorded.append(lambda rows: steps.append(rows.clone()))
    replay(torch.tensor([[5, 6]]))
    assert steps[-1].tolist() == [[5, 6]]


@pytest.mark.parametrize("other", [torch.zeros(50, 3), torch.zeros(49, 2), torch.zeros(50, 2, dtype=torch.float64)])
def test_embeddings_of_several_shapes_are_refused(other: Tensor) -> None:
    first = Problem(*clouds(50, 0), 0)
    with pytest.raises(ValueError, match="of one shape, dtype and device"):
        LinearProbes(3).fit([first, Problem(other, first.y[: len(other)], 0)])
    with pytest.raises(ValueError, match="of one shape, dtype and device"):
        LinearProbes(3).fit([])


def test_separable_classes_are_told_apart_on_the_test_split() -> None:
    (train_x, train_y), (test_x, test_y) = clouds(400, 0), clouds(200, 1)
    probes = LinearProbes(3, standardized=True, epochs=8, batch_size=16, lr=0.05)
    raw, standardised = probes.fit([Problem(train_x, train_y, 0)])[0]
    assert raw.accuracy(test_x, test_y) > 0.95
    assert raw.accuracy(test_x, (test_y + 1) % 3) < 0.05
    assert standardised.accuracy(standardise(train_x, test_x)[1], test_y) > 0.95


def test_accuracy_is_a_share() -> None:
    classifier = Classifier(torch.eye(2), torch.tensor([0.0, 1.0]))
    x = torch.tensor([[3.0, 0.0], [3.0, 1.0], [0.0, 0.0], [0.5, 0.0]])
    assert classifier.accuracy(x, torch.tensor([0, 0, 1, 0])) == 0.75


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30, 1e-30, 0.0])
def test_embeddings_of_lost_students_end_too(value: float) -> None:
    x, y = clouds(50, 0)
    (pair,) = LinearProbes(3, standardized=True, **QUICK).fit([Problem(torch.full_like(x, value), y, 0)])
    assert all(0 <= classifier.accuracy(x, y) <= 1 for classifier in pair)


def test_no_global_random_state_no_gradient_and_no_change_of_what_is_given() -> None:
    before = torch.get_rng_state()
    x, y = clouds(50, 0)
    copies = x.clone(), y.clone()
    ((classifier,),) = LinearProbes(3, **QUICK).fit([Problem(x, y, 0)])
    assert not classifier.weight.requires_grad
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, copies[0])
    assert torch.equal(y, copies[1])
