"""A plan of ranks: what each module gets, and what that keeps."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from rank_lab.directions import ModuleSpectrum

__all__ = ["ALLOCATIONS", "Allocation", "ModuleRank", "RankPlan", "module_rank"]

Allocation = Literal["greedy", "uniform", "per_layer"]
"""Ways to choose ranks; see :mod:`rank_lab.budget`."""

ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)


@dataclass(frozen=True, eq=False)
class ModuleRank:
    """What a plan gives to one module.

    Parameters
    ----------
    spectrum
        The module.
    rank
        Directions bought.
    kept_energy
        Share of the module's squared norm in them; NaN where the module takes no part.
    relative_error
        What is left out over the norm, in [0, 1]; NaN as above.
    capped_by
        What kept the rank from being higher: ``rounding``, ``most``, ``truncated``, or empty.
    reason
        What else a reader must know: why it takes no part, why it has rank 0.
    """

    spectrum: ModuleSpectrum
    rank: int
    kept_energy: float
    relative_error: float
    capped_by: str = ""
    reason: str = ""

    @property
    def module(self) -> str:
        """Path of the module."""
        return self.spectrum.module

    @property
    def parameters(self) -> int:
        """Of its two factors."""
        return self.rank * self.spectrum.cost


@dataclass(frozen=True, eq=False)
class RankPlan:
    """Ranks of all modules.

    Parameters
    ----------
    rows
        One per module, in the order given.
    method
        How they were chosen.
    asked
        ``parameters``, ``energy`` or ``rank``: what was prescribed.
    target
        Its value.
    kept_energy, relative_error
        Of all modules that take part together.
    reached
        Whether what was asked for is kept; not where caps keep an energy out of reach.
    energy_bound
        No plan of so many parameters, under the same caps, keeps more than this; None but for a budget.
    parameters_bound
        No plan that keeps so much, under the same caps, has fewer; None but for an energy that is reached.
    """

    rows: tuple[ModuleRank, ...]
    method: Allocation
    asked: Literal["parameters", "energy", "rank"]
    target: float
    kept_energy: float
    relative_error: float
    reached: bool = True
    energy_bound: float | None = None
    parameters_bound: int | None = None

    @property
    def parameters(self) -> int:
        """Of all factors."""
        return sum(row.parameters for row in self.rows)

    @property
    def full_parameters(self) -> int:
        """Entries of all matrices that take part."""
        return sum(r.spectrum.out_features * r.spectrum.in_features for r in self.rows if not r.spectrum.reason)

    @property
    def capped(self) -> int:
        """How many modules would hold more directions, but were not given them because of a cap."""
        return sum(bool(row.capped_by) for row in self.rows)

    @property
    def ranks(self) -> dict[str, int]:
        """Rank by module, of those that have one."""
        return {row.module: row.rank for row in self.rows if row.rank}


def module_rank(spectrum: ModuleSpectrum, rank: int, capped_by: str) -> ModuleRank:
    """What a module keeps with that rank.

    Parameters
    ----------
    spectrum
        The module.
    rank
        At most as many as it has values.
    capped_by
        What kept it from more.
    """
    if spectrum.reason:
        return ModuleRank(spectrum, 0, math.nan, math.nan, reason=spectrum.reason)
    energy = spectrum.frobenius_norm**2
    if energy == 0.0:
        return ModuleRank(spectrum, 0, 1.0, 0.0, reason="not changed")
    left = float(spectrum.left_after[rank]) / energy
    reason = ""
    if spectrum.above_noise is None and spectrum.noise_regime in {"partial", "unresolved"}:
        reason = "not tested against rounding"
    elif rank == 0 and capped_by == "rounding":
        reason = "nothing stands above the rounding of its files"
    elif rank == 0:
        reason = "its first direction costs more than it keeps, beside those that were bought"
    return ModuleRank(spectrum, rank, 1.0 - left, math.sqrt(left), capped_by, reason)
