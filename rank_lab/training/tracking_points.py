r"""How often ranks are looked at along a training: so seldom that it costs at most a share of the time.

Times differ from machine to machine and from run to run; a rule that looked at the clock would look at other steps
each time. So both costs are told from sizes alone: of a point, for each matrix of :math:`m \times n` with
:math:`q = \min(m, n)` the passes over its entries, the Gram matrix, :math:`m n q / 2`, and its eigenvalues,
:math:`q^3` (of factors of rank r, :math:`(m + n) r^2`); of a step, :math:`2 + t` products of every weight with every
token, where :math:`t` is the share of the weights that are trained: forward, backward, and the weights' gradients.
How long each takes is rated for a kind of machine, on the safe side: training as fast as it gets, the spectra as slow.
``python -m analyses.tracking_cost`` measures what it came to.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rank_lab.spec import UpdateSpec

__all__ = [
    "CPU",
    "CUDA",
    "CUDA_16",
    "PointCost",
    "Rates",
    "log_spaced",
    "log_spaced_among",
    "point_seconds",
    "points_within",
    "step_seconds",
]


MOST_POINTS = 24
"""However cheap they are: 24 log-spaced points are three or more for each factor of ten of 100 million steps."""

_FACTORS_TO_GRAM = 8  # QR and SVD of thin factors against a product of large matrices
_MERGE_TO_MATRIX = 20  # PEFT sets up a layer and merges it


@dataclass(frozen=True)
class Rates:
    """Seconds that one piece of work takes on a kind of machine.

    Parameters
    ----------
    product
        A multiply-add of training.
    entry
        An entry of a dense update, in all passes but the Gram matrix.
    gram
        A multiply-add of the Gram matrix, in float64.
    eigen
        One of :math:`q^3`, for the eigenvalues.
    matrix
        A matrix, whatever its size.
    row
        A row of the tables, with its ranks.
    """

    product: float
    entry: float
    gram: float
    eigen: float
    matrix: float
    row: float


CPU = Rates(product=2.2e-11, entry=6e-8, gram=8e-11, eigen=1.2e-10, matrix=3e-3, row=1e-3)
"""One core of a processor with AVX2, training in float32."""

CUDA = Rates(product=4e-14, entry=2e-8, gram=1e-12, eigen=6e-11, matrix=2e-2, row=1e-2)
"""A GPU of a data centre that trains in float32."""

CUDA_16 = Rates(product=5e-15, entry=2e-8, gram=1e-12, eigen=6e-11, matrix=2e-2, row=1e-2)
"""The same in bfloat16 or float16."""


@dataclass(frozen=True)
class PointCost:
    """What tracking is expected to cost beside training.

    Parameters
    ----------
    step
        Seconds of one optimizer step.
    point
        Seconds of one point.
    once
        Seconds before the first one and after the last.
    """

    step: float
    point: float
    once: float


def step_seconds(weights: int, tokens: int, trained_share: float, rates: Rates) -> float:
    """Seconds of an optimizer step.

    Parameters
    ----------
    weights
        Entries of all matrices that a token is multiplied with.
    tokens
        Of one step.
    trained_share
        Of the weights, in [0, 1].
    rates
        Of the machine.

    Examples
    --------
    >>> round(step_seconds(1_000_000, 1024, 1.0, CPU), 4)
    0.0676
    """
    return (2.0 + trained_share) * weights * tokens * rates.product


def point_seconds(specs: Sequence[UpdateSpec], rates: Rates, *, deltas: int = 2) -> float:
    """Seconds of measuring all updates once for each delta.

    Parameters
    ----------
    specs
        Of one point, cumulative.
    rates
        Of the machine.
    deltas
        How many are measured: since the base, since the last point.
    """
    return deltas * sum(_update_seconds(spec, rates) for spec in specs)


def _update_seconds(spec: UpdateSpec, rates: Rates) -> float:
    out, across = spec.shape
    small = min(out, across)
    if spec.factored and not asks_peft(spec):
        rank = 2 * spec.rank_bound  # of the change since the last point
        return rates.row + _FACTORS_TO_GRAM * ((out + across) * rank**2 + 8 * rank**3) * rates.gram
    dense = out * across * (rates.entry + small / 2 * rates.gram) + small**3 * rates.eigen
    merging = _MERGE_TO_MATRIX * (rates.matrix + small**3 * rates.eigen) if asks_peft(spec) else 0.0
    return rates.row + rates.matrix + dense + merging


def asks_peft(spec: UpdateSpec) -> bool:
    """Whether PEFT must merge a layer, or set up what a method takes out of the base, to know this update."""
    return spec.update_kind == "merged" or spec.source("original") is not None


def points_within(steps: int, cost: PointCost, share: float) -> int:
    """How many points fit into a share of the training's time; at most 24, and none where not even one fits.

    Examples
    --------
    >>> points_within(1000, PointCost(step=1.0, point=2.0, once=0.0), 0.02)
    10
    >>> points_within(10, PointCost(step=1.0, point=2.0, once=0.0), 0.02)
    0
    """
    fitting = (share * steps * cost.step - cost.once) / cost.point if cost.point > 0 else float(steps)
    return int(min(max(fitting, 0.0), float(steps), MOST_POINTS))


def log_spaced(steps: int, count: int) -> tuple[int, ...]:
    """Steps from the first to the last in equal ratios, no two alike; one alone is the last, none are none.

    Examples
    --------
    >>> log_spaced(1000, 4), log_spaced(10, 1), log_spaced(4, 9)
    ((1, 10, 100, 1000), (10,), (1, 2, 3, 4))
    """
    if count < 2 or steps < 2:
        return (steps,) if count > 0 else ()
    found = {round(float(step)) for step in np.geomspace(1, steps, count)}
    later = (step for step in range(1, steps + 1) if step not in found)
    while len(found) < min(count, steps):
        found.add(next(later))  # the first steps lie closer together than one
    return tuple(sorted(found))


def log_spaced_among(steps: Sequence[int], count: int) -> tuple[int, ...]:
    """Of these steps so many that lie nearest to equal ratios; the last is always one, and one alone is the last.

    Parameters
    ----------
    steps
        Steps to choose from, such as those after which a training is saved.
    count
        How many at most.

    Examples
    --------
    >>> log_spaced_among((1, 3, 7, 19, 52, 139, 373, 1000), 4), log_spaced_among((50, 60, 90), 1)
    ((1, 7, 139, 1000), (90,))
    """
    left = sorted(set(steps))
    if count >= len(left):
        return tuple(left)
    if count < 2:
        return tuple(left[-1:]) if count > 0 else ()
    found = [left.pop()]
    for wanted in np.geomspace(found[0], left[0], count)[1:]:
        nearest = min(left, key=lambda step: abs(float(np.log(step / wanted))))
        left.remove(nearest)
        found.append(nearest)
    return tuple(sorted(found))
