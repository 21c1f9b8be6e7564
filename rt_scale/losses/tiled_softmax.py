"""A softmax over columns that come a tile at a time, in memory that is taken once.

Shapes: B rows, m columns in all, c columns of a tile, C tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor


class TiledSoftmax:
    """One network's softmax over all columns, from those over the columns of each tile.

    Args:
        rows: B.
        memory: [B m], where the softmaxes of the tiles come to lie one after the other.
        scratch: [B c], for products of one tile, and whoever's next.

    Attributes:
        probabilities: of every tile [B, c], each with rows of sum 1.
        means: of every tile [B], of its logits under these probabilities.
    """

    def __init__(self, rows: int, memory: Tensor, scratch: Tensor) -> None:
        self.probabilities: list[Tensor] = []
        self.means: list[Tensor] = []
        self._rows, self._memory, self._scratch, self._columns = rows, memory, scratch, 0
        self._largest: list[tuple[Tensor, Tensor]] = []

    def add(self, logits: Tensor) -> Tensor:
        """The softmax of one more tile of logits [B, c]."""
        probabilities = tile_of(self._memory, self._rows, self._columns, logits.shape[1])
        torch.softmax(logits, dim=1, out=probabilities)
        self._columns += logits.shape[1]
        self.probabilities.append(probabilities)
        self.means.append(self.mean(probabilities, logits))
        self._largest.append((logits.amax(dim=1), probabilities.amax(dim=1)))
        return probabilities

    def mean(self, probabilities: Tensor, logits: Tensor) -> Tensor:
        """The mean [B] of a tile's logits [B, c] under these probabilities [B, c] of it."""
        products = tile_of(self._scratch, self._rows, 0, logits.shape[1])
        return torch.mul(probabilities, logits, out=products).sum(dim=1)

    def over_all(self) -> tuple[Tensor, Tensor]:
        """log sum_j exp(z_j) over all columns, [B], and how much of that sum is each tile's, [B, C]."""
        logits, probabilities = (torch.stack(each, dim=1) for each in zip(*self._largest, strict=True))
        normalisers = logits - probabilities.log()  # as ``log_normaliser``, of all tiles in one go
        total = torch.logsumexp(normalisers, dim=1)
        return total, (normalisers - total[:, None]).exp_()


def over_tiles(shares: Tensor, values: list[Tensor]) -> Tensor:
    """The mean [B] over all columns, from those [B] of C tiles and their shares [B, C]."""
    return (shares * torch.stack(values, dim=1)).sum(dim=1)


def tile_of(memory: Tensor, rows: int, start: int, columns: int) -> Tensor:
    """The tile [B, c] that begins at a column of memory [B m] in which tiles lie one after the other."""
    return memory[rows * start : rows * (start + columns)].view(rows, columns)
