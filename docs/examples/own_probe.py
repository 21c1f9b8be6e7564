"""A probe of one's own: a function of embeddings and labels.

rt-scale run own_probe.yaml
"""

import torch
from torch import Tensor


def centroids(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, *, classes: int, seed: int, shots: int = 5
) -> dict[str, float]:
    """Accuracy of the nearest class mean, of all training embeddings and of a few of each class.

    Embeddings are [N, D], labels int64 [N]. A probe gives a number or, as here, numbers by name: the metrics are
    extra/student/centroids_all and extra/student/centroids_few, and the same of the teacher and of the input's pixels.
    """

    def accuracy(chosen: Tensor) -> float:
        x, y = train[chosen], train_labels[chosen]
        means = torch.stack([x[y == label].mean(dim=0) for label in range(classes)])
        return (torch.cdist(test, means).argmin(dim=1) == test_labels).float().mean().item()

    shuffled = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(train_labels.device)
    few = torch.cat([shuffled[train_labels[shuffled] == label][:shots] for label in range(classes)])
    return {"all": accuracy(shuffled), "few": accuracy(few)}
