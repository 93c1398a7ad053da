"""The order in which directions are bought, by one of three rules, with running sums of price and energy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from rank_lab.directions import Directions, Floats, Integers
from rank_lab.rank_plan import Allocation

__all__ = ["Order", "ordered"]

_BLOCK = 1 << 16  # directions


@dataclass(frozen=True, eq=False)
class Order:
    """Directions in the order in which they are bought, with running sums.

    Parameters
    ----------
    owner
        Index of the module of each.
    gain
        Energy of each.
    cost, energy
        Of all up to and with each.
    stops
        Numbers of directions at which one may stop: any for ``greedy``, whole groups for the others.
    """

    owner: Integers
    gain: Floats
    cost: Integers
    energy: Floats
    stops: Integers

    @cached_property
    def _paid(self) -> Integers:
        return np.concatenate([[0], self.cost])[self.stops]

    @cached_property
    def _held(self) -> Floats:
        return np.concatenate([[0.0], self.energy])[self.stops]

    @cached_property
    def _counts(self) -> Integers:
        """How many of each module are bought with the first so many whole blocks of directions."""
        width, blocks = int(self.owner.max()) + 1, len(self.owner) // _BLOCK
        places = self.owner[: blocks * _BLOCK] + width * np.repeat(np.arange(blocks), _BLOCK)
        found = np.bincount(places, minlength=blocks * width).reshape(blocks, width)
        return np.concatenate([np.zeros((1, width), dtype=np.int64), np.cumsum(found, axis=0)])

    def within(self, budgets: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How many directions the budgets pay for."""
        return self.stops[np.searchsorted(self._paid, budgets, side="right") - 1]

    def reaching(self, energy: float) -> int | None:
        """Least number of directions that hold so much; None if all do not."""
        place = int(np.searchsorted(self._held, energy, side="left"))
        return None if place == len(self.stops) else int(self.stops[place])

    def ranks(self, count: int, modules: int) -> Integers:
        """Directions of each module among the first so many, without counting all of them again."""
        whole = count // _BLOCK
        found = np.bincount(self.owner[whole * _BLOCK : count], minlength=modules).astype(np.int64)
        found[: self._counts.shape[1]] += self._counts[whole]
        return found

    def sums(self, count: int) -> tuple[int, float]:
        """Cost and energy of the first so many."""
        return (int(self.cost[count - 1]), float(self.energy[count - 1])) if count else (0, 0.0)


def ordered(directions: Directions, method: Allocation) -> Order:
    """Directions by descending energy per parameter, by number, or by the share that is asked of each module.

    Parameters
    ----------
    directions
        Those that may be bought.
    method
        See :mod:`rank_lab.budget`.
    """
    costs, owner = directions.costs, directions.owner
    if method == "greedy":
        key: Floats | Integers | npt.NDArray[np.uint16] = -directions.energy / costs[owner]
    elif method == "uniform":
        number = directions.number
        key = number.astype(np.uint16) if number.max() < 1 << 16 else number  # numpy sorts short integers by radix
    else:  # the share that must be asked of its module until it is bought
        shares = [
            1.0 - module.left_after[:limit] / (module.frobenius_norm**2 or 1.0)
            for module, limit in zip(directions.modules, directions.limits, strict=True)
            if limit
        ]
        key = np.concatenate(shares)
    order = np.argsort(key, kind="stable")
    ends = np.arange(1, len(order) + 1)
    if method != "greedy":  # what has one key is bought together
        ends = ends[np.append(np.diff(key[order]) > 0, True)]
    owner = owner[order]
    gain = directions.energy[order]
    return Order(owner, gain, np.cumsum(costs[owner]), np.cumsum(gain), np.concatenate([[0], ends]))
