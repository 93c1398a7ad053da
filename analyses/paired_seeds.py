"""Differences that are taken seed by seed, with Student's interval, and whether they bear a claim out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rank_lab.uncertainty import student_interval

__all__ = ["Difference", "difference", "interval_words"]


@dataclass(frozen=True)
class Difference:
    """A mean over seeds.

    Parameters
    ----------
    value, low, high
        With its 95 % interval; ends are NaN of one seed.
    seeds
        How many there are.
    """

    value: float
    low: float
    high: float
    seeds: int

    @property
    def verdict(self) -> str:
        """Of the claim that the difference is above zero.

        Examples
        --------
        >>> [difference(values).verdict for values in ([1.0, 1.1, 1.2], [-1.0, -1.1, -1.2], [-1.0, 1.0, 0.5], [1.0])]
        ['seen', 'not seen: the opposite', 'not seen: cannot be told apart', 'not seen: one seed has no interval']
        """
        if np.isnan(self.low):
            return "not seen: one seed has no interval"
        if self.low > 0:
            return "seen"
        return "not seen: the opposite" if self.high < 0 else "not seen: cannot be told apart"


def difference(values: Sequence[float] | Mapping[int, float], less: Mapping[int, float] | None = None) -> Difference:
    """The mean of values, or of one side less the other, over the seeds that both have.

    Parameters
    ----------
    values
        One a seed; by seed where another side is taken from them.
    less
        The other side, by seed.

    Examples
    --------
    >>> difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0, 2: 9.0}).value
    1.0
    """
    if isinstance(values, Mapping):
        other = less if less is not None else dict.fromkeys(values, 0.0)
        values = [value - other[seed] for seed, value in values.items() if seed in other]
    known = [value for value in values if not np.isnan(value)]
    return Difference(*student_interval(known), len(known))


def interval_words(found: Difference, form: str = "{:z.3f}") -> str:
    """As tables show it.

    Examples
    --------
    >>> interval_words(difference([1.0, 1.1, 1.2])), interval_words(difference([1.0]))
    ('1.100 (0.852 to 1.348)', '1.000')
    """
    if np.isnan(found.value):
        return "-"
    value = form.format(found.value)
    return value if np.isnan(found.low) else f"{value} ({form.format(found.low)} to {form.format(found.high)})"
