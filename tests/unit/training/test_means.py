"""Means of metrics: one vector of sums, which is what a sum for every metric would be, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rt_scale.training.loop import Means, Progress

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
