"""Places of thresholds on an axis: straight, or logarithmic with room for zero."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["ThresholdAxis", "threshold_axis"]

_SPAN = 20.0  # largest over smallest, above which a straight axis crowds the small ones
_LEAST = 3  # thresholds


@dataclass(frozen=True)
class ThresholdAxis:
    """How thresholds are laid out.

    Parameters
    ----------
    smallest
        Threshold above which the axis is logarithmic, and straight below; None: straight all along.
    ticks
        Thresholds that bear a tick; empty where plotly chooses.
    """

    smallest: float | None
    ticks: tuple[float, ...] = ()

    def place(self, threshold: float) -> float:
        """Where a threshold is drawn.

        Examples
        --------
        >>> axis = ThresholdAxis(0.01)
        >>> [axis.place(each) for each in (0.0, 0.005, 0.01, 0.1)]
        [-3.0, -2.5, -2.0, -1.0]
        """
        if self.smallest is None or not math.isfinite(threshold):
            return threshold
        edge = math.log10(self.smallest)
        return math.log10(threshold) if threshold >= self.smallest else edge - 1 + threshold / self.smallest

    def settings(self) -> dict[str, Any]:
        """Of plotly's axis."""
        if self.smallest is None:
            return {}
        return {
            "tickvals": [self.place(each) for each in self.ticks],
            "ticktext": [f"{each:.3g}" for each in self.ticks],
        }

    @property
    def note(self) -> str:
        """For the caption; empty where the axis is straight."""
        if self.smallest is None:
            return ""
        return f"The axis is logarithmic above λ = {self.smallest:.3g} and straight between that and 0"


def threshold_axis(thresholds: Iterable[float]) -> ThresholdAxis:
    """The axis for a list of thresholds: logarithmic where they span more than a factor of 20.

    Examples
    --------
    >>> threshold_axis([0.0, 0.5, 1.0, 2.0]).smallest is None
    True
    >>> axis = threshold_axis([0.0, 1e-4, 1e-3, 1e-2])
    >>> axis.smallest, axis.ticks
    (0.0001, (0.0, 0.0001, 0.001, 0.01))
    """
    known = sorted({float(each) for each in thresholds if pd.notna(each)})
    above = [each for each in known if each > 0]
    if len(above) < _LEAST or above[-1] / above[0] <= _SPAN:
        return ThresholdAxis(None)
    first, last = math.ceil(math.log10(above[0])), math.floor(math.log10(above[-1]))
    decades = [10.0**power for power in range(first, last + 1, max((last - first) // 5, 1))]
    ticks = decades if len(decades) > 1 else [above[0], above[-1]]
    return ThresholdAxis(above[0], (*([0.0] if known[0] <= 0 else []), *ticks))
