"""The two operators that make gates zero, and the lists of thresholds of the published code."""

import math
from collections.abc import Callable, Mapping
from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor

from rank_lab.errors import RankLabError

__all__ = [
    "LISTS",
    "MODES",
    "OPERATORS",
    "check_threshold",
    "gapped_threshold",
    "is_whole",
    "soft_threshold",
    "threshold_list",
]

MODES = ("lr", "adam", "constant")
"""How a threshold follows from what is given; see :class:`rank_lab.sora.ProximalStep`."""


def soft_threshold(values: Tensor, threshold: float | Tensor) -> Tensor:
    r"""The paper's operator, :math:`T_\xi(z) = \mathrm{sign}(z)\max(|z| - \xi, 0)`.

    The proximal operator of :math:`\xi\|g\|_1`. NaN stays NaN.

    Parameters
    ----------
    values
        Any shape.
    threshold
        A number or one value per entry, 0 or more.

    Examples
    --------
    >>> soft_threshold(torch.tensor([-1.0, 0.25, 0.75]), 0.5)
    tensor([-0.5000,  0.0000,  0.2500])
    """
    return torch.where(values.abs() <= threshold, torch.zeros_like(values), values - values.sign() * threshold)


def gapped_threshold(values: Tensor, threshold: float | Tensor) -> Tensor:
    r"""What the published code computes: zero below :math:`2\xi`, the soft threshold from there on.

    The proximal operator of :math:`\xi\|g\|_1 + (\xi^2/2)\|g\|_0`; no value in
    :math:`(0, \xi)` is left over. NaN stays NaN.

    Parameters
    ----------
    values
        Any shape.
    threshold
        A number or one value per entry, 0 or more.

    Examples
    --------
    >>> gapped_threshold(torch.tensor([-2.0, 0.75, 1.0]), 0.5)
    tensor([-1.5000,  0.0000,  0.5000])
    """
    doubled = 2 * threshold
    return torch.where(values.abs() < doubled, torch.zeros_like(values), values - values.sign() * threshold)


OPERATORS: Mapping[str, Callable[[Tensor, float | Tensor], Tensor]] = {
    "soft": soft_threshold,
    "gapped": gapped_threshold,
}
"""By the name that a configuration records."""


def _linear(start: float, stop: float, count: int) -> list[float]:
    return [float(value) for value in np.linspace(start, stop, count)]


def _log_linear(start: float, stop: float, count: int) -> list[float]:
    return [float(value) for value in np.log(np.linspace(np.exp(start), np.exp(stop), count))]


def _exp_linear(start: float, stop: float, count: int) -> list[float]:
    if start <= 0:
        raise RankLabError(
            f"exp_linear from {start:g}: its logarithm is not a number, and training would silently run without a"
            " threshold; start above 0, or use linear."
        )
    return [float(value) for value in np.exp(np.linspace(np.log(start), np.log(stop), count))]


LISTS: Mapping[str, Callable[[float, float, int], list[float]]] = {
    "linear": _linear,
    "log_linear": _log_linear,
    "exp_linear": _exp_linear,
}
"""Ways from the first threshold to the last."""


def threshold_list(kind: str, start: float, stop: float, count: int) -> list[float]:
    r"""An increasing list of thresholds, by the formulas of the published code.

    ``linear``: equal steps; ``log_linear``: the logarithm of equal steps between
    :math:`e^{start}` and :math:`e^{stop}`; ``exp_linear``: equal factors.

    Parameters
    ----------
    kind
        Which.
    start, stop
        The first and the last, both in the list.
    count
        How many, at least 2.

    Raises
    ------
    RankLabError
        If the list would not increase, a value is negative or no number, or
        ``exp_linear`` starts at 0.

    Examples
    --------
    >>> threshold_list("linear", 0.0, 0.5, 3)
    [0.0, 0.25, 0.5]
    >>> [round(value, 6) for value in threshold_list("exp_linear", 0.01, 1.0, 3)]
    [0.01, 0.1, 1.0]
    """
    if kind not in LISTS:
        raise RankLabError(f"threshold list {kind!r}: expected one of {', '.join(LISTS)}.")
    check_threshold(start, "start")
    check_threshold(stop, "stop")
    if count < 2 or stop <= start:
        raise RankLabError(
            f"{count} thresholds from {start:g} to {stop:g} do not increase; expected at least 2, the last above the"
            " first."
        )
    return LISTS[kind](start, stop, count)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, which True and 2.0 are not.

    Parameters
    ----------
    value
        Any.

    Examples
    --------
    >>> is_whole(2), is_whole(True), is_whole(2.0)
    (True, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def check_threshold(value: float, name: str) -> float:
    """Refuse what is no threshold.

    Raises
    ------
    RankLabError
        If it is negative, infinite, NaN or no number.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise RankLabError(f"{name} {value!r}: expected a finite number, 0 or more.")
    return float(value)
