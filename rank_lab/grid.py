r"""Storage grids: the values that a type can hold, their spacing, and the variance of rounding to them.

A weight :math:`w` of a type with :math:`t` stored bits of fraction lies on a grid of spacing
:math:`\mathrm{ulp}(w) = 2^{\lfloor \log_2 |w| \rfloor - t}`; rounding to nearest leaves an error that is
uniform over one spacing, of variance :math:`\mathrm{ulp}^2 / 12`.
"""

import torch
from torch import Tensor

__all__ = ["GRIDS", "grid_name", "lies_on", "rounding_variance", "spacing"]

GRIDS = (torch.bfloat16, torch.float16, torch.float32)
"""Coarsest first. What lies on none of them is float64, whose rounding is never seen here."""

_FRACTION_BITS = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23, torch.float64: 52}
_LEAST_EXPONENT = {torch.bfloat16: -126, torch.float16: -14, torch.float32: -126, torch.float64: -126}
_FLOAT16_STEP = 2.0**-24
_EXPONENT, _FRACTION = 0x7F800000, 0x007FFFFF  # bits of a float32; its exponent alone is a power of two


def spacing(values: Tensor, grid: torch.dtype) -> Tensor:
    r"""Distance between neighbouring grid values around each value, :math:`\mathrm{ulp}(w)`.

    Values of a 16-bit file were rounded to its own type, too, whose spacing is the larger one where
    float16 is subnormal.

    Parameters
    ----------
    values
        Any shape, any float type, as stored.
    grid
        ``torch.bfloat16``, ``torch.float16``, ``torch.float32`` or ``torch.float64``.

    Returns
    -------
    torch.Tensor
        float32 powers of two, at least the spacing of the grid's subnormal numbers.

    Notes
    -----
    Bit operations only, limited by memory bandwidth.

    Examples
    --------
    >>> spacing(torch.tensor([1.0, -1.5, 0.02, 0.0]), torch.bfloat16).tolist()
    [0.0078125, 0.0078125, 0.0001220703125, 9.183549615799121e-41]
    """
    bits = values.to(torch.float32, copy=True).view(torch.int32).bitwise_and_(_EXPONENT)
    powers = bits.view(torch.float32).clamp_min_(2.0 ** _LEAST_EXPONENT[grid])
    steps = powers.mul_(2.0 ** -_FRACTION_BITS[grid])
    return steps if values.dtype != torch.float16 else steps.clamp_min_(_FLOAT16_STEP)


def rounding_variance(values: Tensor, grid: torch.dtype) -> Tensor:
    r"""Variance of rounding to the grid, :math:`\mathrm{ulp}(w)^2 / 12`, in float64.

    An exact power of two has the finer spacing below it, which leaves three quarters of that variance.
    It holds where what was rounded lies off the grid, or moved by more than a spacing. A change
    of less than half a spacing is lost instead: its error is the change itself, and smaller.

    Parameters
    ----------
    values
        As stored.
    grid
        On which they lie.

    Examples
    --------
    >>> [value * 12 * 2**14 for value in rounding_variance(torch.tensor([1.0, 1.5]), torch.bfloat16).tolist()]
    [0.75, 1.0]
    """
    variance = spacing(values, grid).to(torch.float64).square_().div_(12.0)
    power = values.to(torch.float32, copy=True).view(torch.int32).bitwise_and_(_FRACTION) == 0
    return variance.mul_(torch.where(power, 0.75, 1.0))


def lies_on(values: Tensor, grid: torch.dtype) -> bool:
    """Whether all values can be held by that type without a change.

    Examples
    --------
    >>> lies_on(torch.tensor([0.5, 1.25]), torch.bfloat16), lies_on(torch.tensor([0.1]), torch.float16)
    (True, False)
    """
    if values.dtype == grid:
        return True
    return bool((values.to(grid).to(values.dtype) == values).all())


def grid_name(grid: torch.dtype) -> str:
    """Torch's name of a type, such as ``"bfloat16"``."""
    return str(grid).removeprefix("torch.")
