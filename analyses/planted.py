"""Updates whose rank was chosen first, stored as checkpoints are: rounded, on and off the grid of their base."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rank_lab.update import DenseUpdate, MemoryMatrix

__all__ = ["Kind", "Planted", "Recipe"]

Kind = Literal["low", "iid", "power", "harmonic", "sign"]


@dataclass(frozen=True)
class Planted:
    """What is stored, and what is true."""

    update: DenseUpdate
    true: Tensor

    def energy_rank(self, share: float) -> int:
        """Of the true update, by LAPACK."""
        energies = torch.linalg.svdvals(self.true).square()
        return int(np.searchsorted((energies.cumsum(0) / energies.sum()).numpy(), share - 1e-12) + 1)


@dataclass(frozen=True)
class Recipe:
    """How to plant.

    Parameters
    ----------
    shape
        Of the weight.
    size
        Root mean square of the update; that of the weights is 0.02.
    rank, weakest
        Of a low-rank update: directions, and the last against the first.
    kind
        ``low`` rank, ``iid`` entries, directions that fall off as 1/sqrt(k) (``power``) or 1/k
        (``harmonic``), or the ``sign`` of a rank-4 matrix in noise, as sign-like optimizers make.
    on_grid
        Whether the base lies on the grid of the tuned file; else it is float32.
    unequal
        Whether rows have very different scales, as the outlier channels of language models.
    grid
        To which the tuned weights are rounded.
    """

    shape: tuple[int, int] = (256, 256)
    size: float = 1e-4
    rank: int = 16
    weakest: float = 0.4
    kind: Kind = "low"
    on_grid: bool = True
    unequal: bool = False
    grid: torch.dtype = torch.bfloat16

    def planted(self, generator: torch.Generator) -> Planted:
        """Draw weight and update, add them in float64, round."""
        rows, columns = self.shape
        scale = torch.exp(torch.randn(rows, 1, generator=generator, dtype=torch.float64)) if self.unequal else 1.0
        weight = 0.02 * scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        base = weight.to(self.grid) if self.on_grid else weight.float()
        change = self._direction(generator)
        change *= self.size / change.square().mean().sqrt()
        tuned = (base.double() + change).float().to(self.grid)
        return Planted(DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base)), change)

    def _direction(self, generator: torch.Generator) -> Tensor:
        rows, columns = self.shape
        if self.kind == "iid":
            return torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        if self.kind == "sign":
            low = torch.randn(rows, 4, generator=generator) @ torch.randn(4, columns, generator=generator)
            return torch.sign(low + 2.0 * torch.randn(rows, columns, generator=generator)).double()
        count = self.rank if self.kind == "low" else min(self.shape)
        falling = torch.arange(1, count + 1, dtype=torch.float64) ** (-1.0 if self.kind == "harmonic" else -0.5)
        sizes = torch.linspace(1.0, self.weakest, count, dtype=torch.float64) if self.kind == "low" else falling
        left = torch.randn(rows, count, generator=generator, dtype=torch.float64) * sizes
        return left @ torch.randn(count, columns, generator=generator, dtype=torch.float64)
