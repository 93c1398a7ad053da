"""Updates whose rank was chosen first, stored as checkpoints are: rounded, on and off the grid of their base."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rank_lab.update import DenseUpdate, MemoryMatrix

Kind = Literal["low", "iid", "power"]


@dataclass(frozen=True)
class Planted:
    """What is stored, and what is true."""

    update: DenseUpdate
    true: Tensor

    def energy_rank(self, share: float) -> int:
        """Of the true update, by LAPACK."""
        energies = torch.linalg.svdvals(self.true).square()
        return int(np.searchsorted((energies.cumsum(0) / energies.sum()).numpy(), share - 1e-12) + 1)


def planted(
    generator: torch.Generator,
    *,
    shape: tuple[int, int] = (256, 256),
    size: float = 1e-4,
    rank: int = 16,
    kind: Kind = "low",
    on_grid: bool = True,
    unequal: bool = False,
    grid: torch.dtype = torch.bfloat16,
    weakest: float = 0.4,
) -> Planted:
    """Weights of 0.02, changed by an update of that root mean square, and rounded to the grid.

    ``on_grid``: the base lies on the grid; else it is float32. ``unequal``: rows of very different scale, as
    the outlier channels of language models. ``weakest``: the last direction against the first.
    """
    rows, columns = shape
    scale = torch.exp(torch.randn(rows, 1, generator=generator, dtype=torch.float64)) if unequal else 1.0
    weight = 0.02 * scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    base = weight.to(grid).float() if on_grid else weight.float()
    if kind == "iid":
        change = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    else:
        count = rank if kind == "low" else min(shape)
        sizes = torch.linspace(1.0, weakest, count, dtype=torch.float64)
        sizes = sizes if kind == "low" else torch.arange(1, count + 1, dtype=torch.float64) ** -0.5
        left = torch.randn(rows, count, generator=generator, dtype=torch.float64) * sizes
        change = left @ torch.randn(count, columns, generator=generator, dtype=torch.float64)
    change *= size / change.square().mean().sqrt()
    tuned = (base.double() + change).float().to(grid)
    return Planted(DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base.to(grid) if on_grid else base)), change)
