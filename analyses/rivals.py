"""Ways to all singular values of a change of weights: this tool's, torch's and weightwatcher's."""

import importlib.util
import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.decomposition import spectrum_of
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix

__all__ = ["METHODS", "TALL", "Method", "Pair", "Values", "available", "method", "others", "ours"]

Values: TypeAlias = npt.NDArray[np.float64]
Method: TypeAlias = Callable[[], Values]

METHODS = {
    "rank_lab": "rank_lab spectrum_of (float64 Gram)",
    "svdvals32": "torch.linalg.svdvals, float32",
    "svdvals64": "torch.linalg.svdvals, float64",
    "svd32": "torch.linalg.svd, thin, float32",
    "weightwatcher": "weightwatcher get_ESD, float64",
    "svdvals32_tall": "torch.linalg.svdvals, float32, of the transpose where that is tall",
    "svdvals64_tall": "torch.linalg.svdvals, float64, of the transpose where that is tall",
}
TALL = {"svdvals32_tall": "svdvals32", "svdvals64_tall": "svdvals64"}
"""Methods that differ from another one on wide matrices only, which torch decomposes far more slowly than tall ones."""


@dataclass(frozen=True)
class Pair:
    """Base and tuned weight of one matrix, in float32."""

    base: Tensor
    tuned: Tensor

    @classmethod
    def random(cls, shape: tuple[int, int], generator: torch.Generator) -> "Pair":
        """Draw a weight and a change of 64 directions that fall off as 1/k, in noise of full rank."""
        rows, columns = shape
        base = torch.randn(rows, columns, generator=generator) * 0.02
        count = min(64, *shape)
        left = torch.randn(rows, count, generator=generator) / torch.arange(1, count + 1)
        change = left @ torch.randn(count, columns, generator=generator)
        return cls(base, base + 1e-4 * (change + torch.randn(rows, columns, generator=generator)))

    def difference(self) -> Tensor:
        """The change in float64, exact."""
        return self.tuned.double() - self.base.double()


def method(name: str, pair: Pair, device: str) -> Method:
    """Prepare a method for one matrix.

    Parameters
    ----------
    name
        A key of ``METHODS``.
    pair
        What is compared, in the processor's memory.
    device
        Where to compute; moving there and back counts as work.

    Returns
    -------
    callable
        Gives all singular values, descending.
    """
    if name == "rank_lab":
        return ours(DenseUpdate(MemoryMatrix(pair.tuned), MemoryMatrix(pair.base)), device)
    difference = pair.difference() if "64" in name else pair.difference().float()
    return others(name, difference.T.contiguous() if name in TALL else difference, device)


def ours(update: DenseUpdate | LowRankUpdate, device: str) -> Method:
    """Prepare this tool for an update."""
    return lambda: np.asarray(spectrum_of(update, device=device).values)


def others(name: str, difference: Tensor, device: str) -> Method:
    """Prepare another method for a difference."""
    if name == "weightwatcher":
        return lambda: _weightwatcher(difference)
    if name == "svd32":
        return lambda: torch.linalg.svd(difference.to(device), full_matrices=False).S.double().cpu().numpy()
    return lambda: torch.linalg.svdvals(difference.to(device)).double().cpu().numpy()


def _weightwatcher(difference: Tensor) -> Values:
    """Singular values from the eigenvalues that ``get_ESD`` gives of a module holding just this matrix."""
    import weightwatcher  # type: ignore[import-not-found, unused-ignore]

    out_features, in_features = difference.shape
    module = torch.nn.Linear(in_features, out_features, bias=False, device="meta")
    module.weight = torch.nn.Parameter(difference, requires_grad=False)
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        watcher = weightwatcher.WeightWatcher()
        layer = int(watcher.describe(model=module)["layer_id"].iloc[0])
        energies = watcher.get_ESD(model=module, layer=layer)
    return np.sqrt(np.sort(np.asarray(energies, dtype=np.float64))[::-1])


def available() -> list[str]:
    """Methods that can run here."""
    return [name for name in METHODS if name != "weightwatcher" or importlib.util.find_spec(name) is not None]
