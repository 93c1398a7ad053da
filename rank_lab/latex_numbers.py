"""How many digits of a number a table shows: those that its interval allows."""

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

__all__ = ["Shown", "setting", "shown", "significant"]

DIGITS = 2
"""Significant digits of an interval's half-width: the value gets as many decimals as these have."""

_LONGEST = 5  # decimals; a number with more is written with an exponent
_ROUNDING = 1e-9  # of a value: an interval that is narrower is one of the arithmetic


@dataclass(frozen=True)
class Shown:
    """A number as siunitx takes it.

    Parameters
    ----------
    value
        Digits, such as ``-0.120`` or ``1.20e-7``; empty where it is missing.
    low, high
        Ends of its interval to the same decimals; empty where there is none.
    """

    value: str
    low: str = ""
    high: str = ""


def shown(value: Any, low: Any = None, high: Any = None, *, default: int = 3, whole: bool = False) -> Shown:
    r"""A value rounded to the digits that its interval leaves meaningful.

    The half-width :math:`h = (\mathrm{high} - \mathrm{low}) / 2` is rounded to two significant digits, and value and
    ends get as many decimals as it then has. Without an interval, or with one of no width but rounding's (a billionth
    of the value), which says nothing of the digits, the value has ``default`` significant ones.

    Parameters
    ----------
    value, low, high
        Numbers, or missing.
    default
        Significant digits where there is no interval.
    whole
        A count: all of its digits and no decimals, whatever the interval says.

    Examples
    --------
    >>> shown(0.123456, 0.1, 0.15)
    Shown(value='0.123', low='0.100', high='0.150')
    >>> shown(12345.678, 12000, 12700), shown(12.4, 9.0, 15.0, whole=True).value, shown(None).value
    (Shown(value='12350', low='12000', high='12700'), '12', '')
    >>> shown(0.0012345).value, shown(1.2345e-7, 1.1e-7, 1.3e-7).value, shown(-0.00001, -0.1, 0.1).value
    ('0.00123', '1.23e-7', '0.00')
    """
    if _missing(value):
        return Shown("")
    middle = float(value)
    ends = () if _missing(low) or _missing(high) else (float(low), float(high))
    half = (ends[1] - ends[0]) / 2 if ends else 0.0
    wide = half > _ROUNDING * abs(middle)
    decimals = 0 if whole else _decimals(half, DIGITS) if wide else _decimals(middle, default)
    texts = _texts((middle, *ends), decimals)
    return Shown(texts[0], *texts[1:])


def significant(value: Any, digits: int = 3) -> str:
    """A number without an interval, to significant digits; empty where it is missing.

    Examples
    --------
    >>> significant(0.0499999), significant(1234567.0), significant(0.0)
    ('0.0500', '1230000', '0')
    """
    return shown(value, default=digits).value


def setting(value: Any) -> str:
    """A number that somebody chose, such as a learning rate: as short as it was given; empty where it is missing.

    Examples
    --------
    >>> setting(1e-05), setting(0.5), setting(2e-4), setting(3.0)
    ('1e-5', '0.5', '2e-4', '3')
    """
    if _missing(value):
        return ""
    text = f"{float(value):.12g}"
    if "e" not in text and 0 < abs(float(value)) < 1e-3:
        text = f"{float(value):.11e}"
    mantissa, _, exponent = text.partition("e")
    short = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return short + (f"e{int(exponent)}" if exponent else "")


def _decimals(size: float, digits: int) -> int:
    """Decimals with which a number has so many significant digits, also where rounding carries."""
    if size == 0:
        return 0
    exponent = int(f"{abs(size):.{digits - 1}e}".split("e")[1])
    return digits - 1 - exponent


def _texts(numbers: tuple[float, ...], decimals: int) -> list[str]:
    if decimals <= _LONGEST:
        return [f"{round(each, decimals):z.{max(decimals, 0)}f}" for each in numbers]
    exponent = max((math.floor(math.log10(abs(each))) for each in numbers if each), default=0)
    if exponent > -4:
        return [f"{each:z.{decimals}f}" for each in numbers]
    return [f"{each / 10.0**exponent:z.{max(decimals + exponent, 0)}f}e{exponent}" for each in numbers]


def _missing(value: Any) -> bool:
    return value is None or bool(pd.isna(value)) or not math.isfinite(float(value))
