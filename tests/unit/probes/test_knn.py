from __future__ import annotations

import math

import pytest
import torch

from rt_scale.probes.knn import knn_accuracy
from rt_scale.spec.errors import InputError


def line(*positions: float) -> torch.Tensor:
    return torch.tensor(positions).unsqueeze(1)


def test_the_majority_of_the_nearest_wins() -> None:
    train_x, train_y = line(0.0, 1.0, 2.0, 10.0, 11.0), torch.tensor([0, 1, 1, 2, 2])
    for k, expected in ((1, 0), (3, 1)):
        accuracy = knn_accuracy(train_x, train_y, line(-1.0), torch.tensor([expected]), k=k, classes=3)
        assert accuracy == 1.0


def test_of_equally_many_votes_the_lowest_class_wins() -> None:
    train_x, train_y = line(0.0, 1.0, 2.0, 3.0), torch.tensor([2, 2, 1, 1])
    assert knn_accuracy(train_x, train_y, line(-1.0), torch.tensor([1]), k=4, classes=3) == 1.0


def test_accuracy_is_a_share_of_the_test_split() -> None:
    train_x, train_y = line(0.0, 10.0), torch.tensor([0, 1])
    test_x, test_y = line(-1.0, 1.0, 9.0, 11.0), torch.tensor([0, 1, 1, 1])
    assert knn_accuracy(train_x, train_y, test_x, test_y, k=1, classes=2) == 0.75


def test_classes_that_nobody_has_change_nothing_and_too_few_fail() -> None:
    train_x, train_y, test_x = line(0.0, 10.0), torch.tensor([0, 5]), line(9.0)
    assert knn_accuracy(train_x, train_y, test_x, torch.tensor([5]), k=1, classes=9) == 1.0
    with pytest.raises(RuntimeError, match="index 5"):
        knn_accuracy(train_x, train_y, test_x, torch.tensor([5]), k=1, classes=5)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_neighbours_must_exist(k: int) -> None:
    x, y = torch.randn(3, 2), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(InputError, match=r"among 3 training embeddings.*probe.knn to 1 to 3"):
        knn_accuracy(x, y, x, y, k=k, classes=1)


def test_a_test_embedding_that_is_not_finite_is_given_no_class() -> None:
    train_x, train_y = line(0.0, 10.0), torch.tensor([0, 1])
    test_x, test_y = line(1.0, math.nan, math.inf, 9.0), torch.tensor([0, 0, 1, 1])
    assert knn_accuracy(train_x, train_y, test_x, test_y, k=1, classes=2) == 0.5
    assert knn_accuracy(train_x, train_y, line(math.nan), torch.tensor([0]), k=1, classes=2) == 0.0
