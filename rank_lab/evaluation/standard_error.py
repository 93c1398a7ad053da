"""The standard error of a mean of examples."""

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["standard_error"]


def standard_error(values: Sequence[float]) -> float | None:
    r"""Standard error of a mean, :math:`s / \sqrt n`; None of a single value, and where all agree.

    A model that fails all of 20 examples does not fail with certainty: from
    values that agree nothing can be said of the spread.

    Parameters
    ----------
    values
        Of examples.

    Examples
    --------
    >>> standard_error([0.0, 1.0]), standard_error([0.0, 0.0])
    (0.5, None)
    """
    if len(values) < 2 or min(values) == max(values):
        return None
    return float(np.std(values, ddof=1) / math.sqrt(len(values)))
