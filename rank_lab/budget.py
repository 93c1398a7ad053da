r"""How many directions each module gets: ranks under a budget of parameters, or for a share of the energy.

A LoRA of rank :math:`k_i` on a module of shape ``(m_i, n_i)`` has :math:`k_i (m_i + n_i)` parameters and, made
of the leading singular directions, keeps :math:`\sum_{j \le k_i} \sigma_{ij}^2` of the squared norm, the most
that any matrix of that rank can (Eckart & Young 1936, https://doi.org/10.1007/BF02288367). What is left to
choose is which directions to buy. Three ways:

``greedy``
    by descending energy per parameter, :math:`\sigma_{ij}^2 / (m_i + n_i)`. The gains of a module descend, so
    that this is the greedy of the fractional knapsack (Dantzig 1957, https://doi.org/10.1287/opre.5.2.266): no
    plan of that many parameters keeps more, except for the last direction that does not fit any more; what that
    may cost is stated (``energy_bound``, ``parameters_bound``).
``uniform``
    one rank for all modules, as adapters are usually trained.
``per_layer``
    one share of its own energy in each module, as PEFT's conversions take it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from rank_lab.allocation import Order, ordered
from rank_lab.directions import Integers, ModuleSpectrum, directions_of
from rank_lab.errors import BudgetError
from rank_lab.rank_plan import ALLOCATIONS, Allocation, ModuleRank, RankPlan, module_rank

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "BudgetPoint",
    "ModuleRank",
    "ModuleSpectrum",
    "RankAllocator",
    "RankPlan",
    "budget_curve",
    "plan_ranks",
]

_SUM_TOLERANCE = 1e-12  # of a share that is asked for: sums of squares agree to that
_CURVE_POINTS = 40


@dataclass(frozen=True)
class BudgetPoint:
    """One point of :func:`budget_curve`.

    Parameters
    ----------
    method
        How ranks were chosen.
    budget
        Parameters that were allowed.
    parameters
        Parameters that were used, at most the budget.
    kept_energy, relative_error
        Of all modules together.
    """

    method: str
    budget: int
    parameters: int
    kept_energy: float
    relative_error: float


class RankAllocator:
    """Ranks for many budgets or energies over the same modules: sorted once, then each answer is a look-up.

    Parameters
    ----------
    modules, most, above_noise
        See :func:`plan_ranks`.

    Examples
    --------
    >>> modules = [ModuleSpectrum("q", 4, 4, np.array([3.0, 1.0])), ModuleSpectrum("up", 8, 4, np.array([2.0, 2.0]))]
    >>> allocator = RankAllocator(modules)
    >>> allocator.plan(parameters=20).ranks, allocator.plan(energy=0.9).ranks
    ({'q': 1, 'up': 1}, {'q': 1, 'up': 2})
    """

    def __init__(self, modules: Sequence[ModuleSpectrum], *, most: int | None = None, above_noise: bool = True) -> None:
        self._directions = directions_of(modules, most=most, above_noise=above_noise)
        self._orders: dict[str, Order] = {}

    @property
    def cheapest(self) -> int:
        """Parameters of the cheapest direction: the least budget that buys one."""
        bought = self._directions.limits > 0
        return int(self._directions.costs[bought].min())

    @property
    def all_parameters(self) -> int:
        """Parameters of all directions that may be bought: more than that cannot be spent."""
        return int(self._directions.limits @ self._directions.costs)

    def plan(
        self,
        *,
        parameters: int | None = None,
        energy: float | None = None,
        rank: int | None = None,
        method: Allocation = "greedy",
    ) -> RankPlan:
        """Ranks for one budget, energy or rank; see :func:`plan_ranks`."""
        given = [value is not None for value in (parameters, energy, rank)]
        if sum(given) != 1 or method not in ALLOCATIONS:
            raise BudgetError(
                f"method {method!r} with parameters={parameters}, energy={energy}, rank={rank}: expected one of"
                f" {', '.join(ALLOCATIONS)} and exactly one of the three."
            )
        if parameters is not None:
            return self._of_budget(parameters, method)
        if energy is not None:
            return self._of_energy(energy, method)
        return self._of_rank(rank or 0)

    def curve(self, budgets: Iterable[int] | None = None) -> tuple[BudgetPoint, ...]:
        """Kept energy against parameters; see :func:`budget_curve`."""
        if budgets is None:
            grid = np.geomspace(self.cheapest, self.all_parameters, _CURVE_POINTS)
            wanted = np.unique(np.ceil(grid).astype(np.int64))
        else:
            wanted = np.array([_whole(budget, "a budget") for budget in budgets], dtype=np.int64)
        found = []
        for method in ALLOCATIONS:
            order = self._order(method)
            for budget, count in zip(wanted.tolist(), order.within(wanted).tolist(), strict=True):
                cost, energy = order.sums(count)
                if method == "greedy":
                    filled = self._filling(count, budget - cost)
                    cost += int(self._directions.costs[order.owner[filled]].sum())
                    energy += float(order.gain[filled].sum())
                kept = min(energy / self._directions.total, 1.0)
                found.append(BudgetPoint(method, budget, cost, kept, math.sqrt(1.0 - kept)))
        return tuple(found)

    def _of_budget(self, parameters: int, method: Allocation) -> RankPlan:
        budget = _whole(parameters, "a budget")
        order = self._order(method)
        count = int(order.within(budget))
        ranks = self._ranks(order, count)
        cost, energy = order.sums(count)
        least = int(np.concatenate([[0], order.cost])[order.stops[1]])
        bound = None
        if method == "greedy":
            bound = energy
            if count < len(order.owner):
                density = float(order.gain[count]) / self._price(order, count)
                bound = energy + (budget - cost) * density
            bound = min(bound, float(order.energy[-1])) / self._directions.total
            np.add.at(ranks, order.owner[self._filling(count, budget - cost)], 1)
            least = self.cheapest
        if not ranks.any():
            of = {"uniform": "rank 1 in every module", "per_layer": "one direction in every module"}
            raise BudgetError(
                f"a budget of {budget} parameters buys nothing: {of.get(method, 'the cheapest direction')} costs"
                f" {least} (out + in features); give at least that."
            )
        return self._plan(ranks, method, ("parameters", float(budget)), energy_bound=bound)

    def _of_energy(self, energy: float, method: Allocation) -> RankPlan:
        if not 0.0 < energy < 1.0:  # NaN is neither
            raise BudgetError(
                f"an energy of {energy}: expected a share of the squared norm above 0 and below 1, such as 0.9; all of"
                " it takes every direction, which no adapter is for."
            )
        order, target = self._order(method), energy * self._directions.total * (1.0 - _SUM_TOLERANCE)
        count = order.reaching(target)
        if count is None:
            ranks = self._ranks(order, len(order.owner))
            return self._plan(ranks, method, ("energy", energy), reached=False)
        ranks, bound = self._ranks(order, count), None
        if method == "greedy":
            cost, held = order.sums(count - 1)
            gain = float(order.gain[count - 1])
            last = self._price(order, count - 1)
            bound = math.ceil(cost + last * min(max(target - held, 0.0) / gain, 1.0) - _SUM_TOLERANCE * cost)
            instead = self._cheaper(order, count - 1, target - held, last)
            if instead is not None:
                ranks[order.owner[count - 1]] -= 1
                ranks[order.owner[instead]] += 1
        return self._plan(ranks, method, ("energy", energy), parameters_bound=bound)

    def _of_rank(self, rank: int) -> RankPlan:
        wanted = _whole(rank, "a rank")
        return self._plan(np.minimum(self._directions.limits, wanted), "uniform", ("rank", float(wanted)))

    def _order(self, method: Allocation) -> Order:
        if method not in self._orders:
            self._orders[method] = ordered(self._directions, method)
        return self._orders[method]

    def _ranks(self, order: Order, count: int) -> Integers:
        return order.ranks(count, len(self._directions.modules))

    @cached_property
    def _places(self) -> dict[int, Integers]:
        """Places in the greedy order by price, ascending."""
        prices = self._directions.costs[self._order("greedy").owner]
        return {int(price): np.flatnonzero(prices == price) for price in np.unique(prices)}

    def _price(self, order: Order, place: int) -> int:
        return int(self._directions.costs[order.owner[place]])

    def _filling(self, count: int, left: int) -> Integers:
        """Places in the greedy order of what the rest of a budget still buys, the best first."""
        found: list[int] = []
        ahead = {price: int(np.searchsorted(places, count)) for price, places in self._places.items()}
        while True:
            open_ = {
                int(self._places[price][at]): price
                for price, at in ahead.items()
                if price <= left and at < len(self._places[price])
            }
            if not open_:
                return np.array(found, dtype=np.int64)
            place = min(open_)
            found.append(place)
            ahead[open_[place]] += 1
            left -= open_[place]

    def _cheaper(self, order: Order, place: int, missing: float, price: int) -> int | None:
        """A later direction that alone reaches what is missing, and costs less than the one that was taken."""
        for other, places in self._places.items():  # by ascending price
            at = int(np.searchsorted(places, place))
            if other < price and at < len(places) and order.gain[places[at]] >= missing:
                return int(places[at])
        return None

    def _plan(
        self, ranks: Integers, method: Allocation, asked: tuple[Literal["parameters", "energy", "rank"], float],
        *, reached: bool = True, energy_bound: float | None = None, parameters_bound: int | None = None,
    ) -> RankPlan:  # fmt: skip
        found = self._directions
        rows = tuple(
            module_rank(module, rank, why if rank == limit else "")
            for module, rank, limit, why in zip(
                found.modules, ranks.tolist(), found.limits.tolist(), found.capped_by, strict=True
            )
        )
        left = math.fsum(row.spectrum.left_after[row.rank] for row in rows if not row.spectrum.reason) / found.total
        return RankPlan(
            rows=rows, method=method, asked=asked[0], target=asked[1], kept_energy=1.0 - left,
            relative_error=math.sqrt(left), reached=reached, energy_bound=energy_bound,
            parameters_bound=parameters_bound,
        )  # fmt: skip


def plan_ranks(
    modules: Sequence[ModuleSpectrum],
    *,
    parameters: int | None = None,
    energy: float | None = None,
    rank: int | None = None,
    method: Allocation = "greedy",
    most: int | None = None,
    above_noise: bool = True,
) -> RankPlan:
    r"""Ranks of modules under a budget of parameters, or for a share of the energy, or one rank for all.

    Parameters
    ----------
    modules
        Their spectra; those with a ``reason`` become rows without a rank.
    parameters
        Budget of :math:`\sum_i k_i (m_i + n_i)`.
    energy
        Share of :math:`\sum_{ij} \sigma_{ij}^2` to keep, above 0 and below 1, with as few parameters as possible.
    rank
        The same for every module, as far as it has so many directions.
    method
        ``greedy``, ``uniform`` or ``per_layer``; see :mod:`rank_lab.budget`.
    most
        Largest rank of a module.
    above_noise
        Leave directions that rounding explains (T1, ``rank_above_rounding``): they are rounding, not learning.

    Returns
    -------
    RankPlan
        ``greedy`` is optimal up to the last direction: ``energy_bound`` and ``parameters_bound``, the optimum of the
        fractional knapsack, say how far at most. An energy that the caps keep out of reach gives all that they
        allow, with ``reached`` false.

    Raises
    ------
    BudgetError
        If not exactly one of the three is given, it is out of its range, or it buys nothing.

    Notes
    -----
    One sort, O(N log N) in the number N of directions; :class:`RankAllocator` keeps it for further questions.

    Examples
    --------
    >>> modules = [ModuleSpectrum("q", 4, 4, np.array([3.0, 1.0])), ModuleSpectrum("up", 8, 4, np.array([2.0, 2.0]))]
    >>> plan = plan_ranks(modules, parameters=20)
    >>> plan.ranks, plan.parameters, round(plan.kept_energy, 3)
    ({'q': 1, 'up': 1}, 20, 0.722)
    """
    allocator = RankAllocator(modules, most=most, above_noise=above_noise)
    return allocator.plan(parameters=parameters, energy=energy, rank=rank, method=method)


def budget_curve(
    modules: Sequence[ModuleSpectrum],
    budgets: Iterable[int] | None = None,
    *,
    most: int | None = None,
    above_noise: bool = True,
) -> tuple[BudgetPoint, ...]:
    """Kept energy against parameters, for each way of choosing ranks.

    Parameters
    ----------
    modules, most, above_noise
        See :func:`plan_ranks`.
    budgets
        Default 40, in equal ratios from the cheapest direction to all of them.

    Returns
    -------
    tuple of BudgetPoint
        A budget below one direction for every module gives a point of no parameters for ``uniform`` and ``per_layer``.

    Examples
    --------
    >>> modules = [ModuleSpectrum("q", 4, 4, np.array([3.0, 1.0])), ModuleSpectrum("up", 8, 4, np.array([2.0, 2.0]))]
    >>> [(point.method, point.parameters, round(point.kept_energy, 3)) for point in budget_curve(modules, [8, 20])[:4]]
    [('greedy', 8, 0.5), ('greedy', 20, 0.722), ('uniform', 0, 0.0), ('uniform', 20, 0.722)]
    """
    return RankAllocator(modules, most=most, above_noise=above_noise).curve(budgets)


def _whole(value: float, what: str) -> int:
    if isinstance(value, bool) or not math.isfinite(value) or value != int(value) or value < 1:
        raise BudgetError(f"{what} of {value}: expected a whole number of at least 1.")
    return int(value)
