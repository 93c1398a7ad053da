r"""What a plan of ranks is made over: the singular directions of many modules, each with its energy and its price.

Direction i of a module of shape ``(out, in)`` keeps the energy :math:`\sigma_i^2` and costs
``out + in`` parameters, one column of B and one row of A.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rank_lab.errors import BudgetError

__all__ = ["Directions", "Floats", "Integers", "ModuleSpectrum", "directions_of"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_NORM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class ModuleSpectrum:
    r"""Singular values of one module's update, with what a plan needs to know about them.

    Parameters
    ----------
    module
        Path of the module.
    out_features, in_features
        Shape of the update.
    values
        Singular values, descending; the largest ones alone where the spectrum is truncated.
    frobenius_norm
        Of the whole update; default that of the values.
    rank_bound
        Largest rank that shape and factors allow; default the smaller side.
    floor
        Values that are not above it mean nothing.
    above_noise
        How many directions stand above the rounding of the files; None where that was not tested.
    noise_regime
        ``exact``, ``resolved``, ``partial``, ``unresolved``, or empty.
    run, step, layer, kind
        Where it is from.
    reason
        Why the module takes no part in a plan; empty if it does.

    Raises
    ------
    BudgetError
        If the values are not finite, not descending, negative, more than the bound, or of more than the norm.

    Examples
    --------
    >>> one = ModuleSpectrum("q_proj", 4, 6, np.array([2.0, 1.0]), frobenius_norm=3.0)
    >>> one.cost, one.truncated, one.limit(), one.limit(most=1)
    (10, True, (2, 'truncated'), (1, 'most'))
    """

    module: str
    out_features: int
    in_features: int
    values: Floats
    frobenius_norm: float = math.nan
    rank_bound: int = 0
    floor: float = 0.0
    above_noise: int | None = None
    noise_regime: str = ""
    run: str = ""
    step: int | None = None
    layer: int | None = None
    kind: str = ""
    reason: str = field(default="")

    def __post_init__(self) -> None:
        """Check order and norm; freeze the values."""
        values = np.array(self.values, dtype=np.float64)
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "rank_bound", self.rank_bound or min(self.out_features, self.in_features))
        if math.isnan(self.frobenius_norm) and not self.reason:
            object.__setattr__(self, "frobenius_norm", math.sqrt(float(values @ values)))
        if self.reason:
            return
        fine = values.ndim == 1 and len(values) <= self.rank_bound and bool(np.isfinite(values).all())
        if not fine or (values < 0).any() or (np.diff(values) > 0).any():
            raise BudgetError(
                f"{self.module}: its singular values are not at most {self.rank_bound} finite numbers, none negative,"
                " in descending order; analyse the run again."
            )
        norm = math.sqrt(float(values @ values))
        if not norm <= self.frobenius_norm * (1 + _NORM_TOLERANCE) + self.floor:
            raise BudgetError(
                f"{self.module}: its singular values have the norm {norm:.6g}, its update {self.frobenius_norm:.6g}:"
                " one of them is of another matrix; analyse the run again."
            )

    @property
    def cost(self) -> int:
        """Parameters of one direction: a column of B and a row of A."""
        return self.out_features + self.in_features

    @property
    def truncated(self) -> bool:
        """Whether only the largest values are known."""
        return len(self.values) < self.rank_bound

    def limit(self, *, most: int | None = None, above_noise: bool = True) -> tuple[int, str]:
        """How many directions may be bought, and what keeps it from being more: ``rounding``, ``most``, ``truncated``.

        Parameters
        ----------
        most
            Largest rank that is wanted.
        above_noise
            Whether directions that rounding explains are left.
        """
        if self.reason:
            return 0, ""
        there = int(np.count_nonzero(self.values > self.floor))
        limit, why = (there, "truncated") if self.truncated and there == len(self.values) else (there, "")
        known = self.above_noise if above_noise and self.noise_regime != "exact" else None
        for cap, name in ((known, "rounding"), (most, "most")):
            if cap is not None and cap < limit:
                limit, why = cap, name
        return limit, why

    @cached_property
    def left_after(self) -> Floats:
        r"""Squared error with the first k directions kept, :math:`\sum_{i>k} \sigma_i^2`, for k of 0 to all values."""
        squares = self.values**2
        hidden = max(self.frobenius_norm**2 - float(squares.sum()), 0.0) if self.truncated else 0.0
        return np.concatenate([np.cumsum(squares[::-1])[::-1], [0.0]]) + hidden


@dataclass(frozen=True, eq=False)
class Directions:
    """Every direction that may be bought, module after module, in each by descending value.

    Parameters
    ----------
    modules
        All modules, also those that take no part.
    limits
        How many directions of each may be bought.
    capped_by
        What keeps each from more.
    owner
        Index of the module of each direction.
    number
        Place of each direction in its module, from 0.
    energy
        Its squared singular value.
    total
        Squared norm of all updates that take part.
    """

    modules: tuple[ModuleSpectrum, ...]
    limits: Integers
    capped_by: tuple[str, ...]
    owner: Integers
    number: Integers
    energy: Floats
    total: float

    @cached_property
    def costs(self) -> Integers:
        """Price of a direction of each module."""
        return np.array([module.cost for module in self.modules], dtype=np.int64)


def directions_of(
    modules: Sequence[ModuleSpectrum], *, most: int | None = None, above_noise: bool = True
) -> Directions:
    """The directions of modules that may be bought.

    Parameters
    ----------
    modules
        Each with a name of its own.
    most
        Largest rank of a module.
    above_noise
        Whether directions that rounding explains are left; see :meth:`ModuleSpectrum.limit`.

    Raises
    ------
    BudgetError
        If a module is there twice, ``most`` is less than one, or there is nothing to buy.
    """
    if most is not None and most < 1:
        raise BudgetError(f"a largest rank of {most}: expected at least 1, or none at all.")
    names = [module.module for module in modules]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise BudgetError(f"{twice}: is there twice; plan one run at one step.")
    found = [module.limit(most=most, above_noise=above_noise) for module in modules]
    limits = np.array([limit for limit, _ in found], dtype=np.int64)
    if not limits.any():
        raise BudgetError(_nothing(modules))
    starts = np.cumsum(limits) - limits
    energies = [module.values[:limit] ** 2 for module, limit in zip(modules, limits, strict=True)]
    return Directions(
        modules=tuple(modules),
        limits=limits,
        capped_by=tuple(why for _, why in found),
        owner=np.repeat(np.arange(len(modules)), limits),
        number=np.arange(limits.sum()) - np.repeat(starts, limits),
        energy=np.concatenate(energies),
        total=math.fsum(module.frobenius_norm**2 for module in modules if not module.reason),
    )


def _nothing(modules: Sequence[ModuleSpectrum]) -> str:
    if not modules:
        return "there is no module to give a rank to."
    reasons = [module.reason for module in modules if module.reason]
    below = sum(module.above_noise == 0 and len(module.values) > 0 for module in modules)
    if len(reasons) == len(modules) and reasons:
        return f"none of {len(modules)} modules can be given a rank: {reasons[0]}."
    if below:
        return (
            f"no direction of {len(modules)} modules stands above the rounding of their files, so that a rank would buy"
            " rounding; save checkpoints in float32, or take rounding in (--with-rounding)."
        )
    return f"the updates of all {len(modules)} modules are zero: there is nothing to give ranks to."
