"""The singular values of an update, with what is known about their accuracy."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rank_lab.errors import IncompleteSpectrumError, ShapeMismatchError

__all__ = ["METHODS", "Method", "Spectrum"]

Method = Literal["auto", "factors", "gram", "svd", "randomized"]
METHODS: tuple[Method, ...] = ("auto", "factors", "gram", "svd", "randomized")

_NORM_TOLERANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Spectrum:
    r"""Singular values of an update, descending, in float64.

    Parameters
    ----------
    values
        The largest singular values, all of them up to ``rank_bound`` if complete.
    shape
        ``(out, in)`` of the update.
    rank_bound
        The largest rank that shape and factors allow.
    frobenius_norm
        Of the whole update, from the stream or the factors: known without the tail.
    method
        How the values were computed.
    floor
        Values below it mean nothing: the arithmetic cannot tell them from zero.
    U, Vh
        Leading singular vectors, ``(out, k)`` and ``(k, in)``, or None.
    noise
        Largest singular value that noise alone explains, or None where it was not estimated.

    Raises
    ------
    ShapeMismatchError
        If values are negative, unsorted, not finite or more than ``rank_bound``,
        or their norm is not that of the update (more than that, if truncated), or
        norm or floor is no finite number.

    Examples
    --------
    >>> spectrum = Spectrum.from_values([2.0, 1.0, 1.0], shape=(3, 5))
    >>> spectrum.complete, round(spectrum.frobenius_norm**2, 9)
    (True, 6.0)
    """

    values: npt.NDArray[np.float64]
    shape: tuple[int, int]
    rank_bound: int
    frobenius_norm: float
    method: str = "given"
    floor: float = 0.0
    U: npt.NDArray[np.float64] | None = None
    Vh: npt.NDArray[np.float64] | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        """Check order, signs, count and norm; freeze the values."""
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 1 or len(values) > self.rank_bound or self.rank_bound > min(self.shape):
            raise ShapeMismatchError(
                f"{values.shape} singular values for a matrix of shape {self.shape} and rank at most {self.rank_bound};"
                " expected a vector of no more than that."
            )
        if not np.isfinite(values).all() or (values < 0).any() or (np.diff(values) > 0).any():
            raise ShapeMismatchError("singular values must be finite, not negative and in descending order.")
        for name, number in (("Frobenius norm", self.frobenius_norm), ("floor", self.floor)):
            if not 0.0 <= number < math.inf:
                raise ShapeMismatchError(f"{name} {number}; expected a finite number that is not negative.")
        values.flags.writeable = False
        object.__setattr__(self, "values", values)
        norm, room = math.hypot(*values), _NORM_TOLERANCE * self.frobenius_norm + self.floor
        if norm > self.frobenius_norm + room or (self.complete and norm < self.frobenius_norm - room):
            raise ShapeMismatchError(
                f"the singular values have norm {norm:.9g} but the update has {self.frobenius_norm:.9g}: one of them is"
                " of another matrix."
            )

    @classmethod
    def from_values(
        cls, values: Sequence[float] | npt.NDArray[np.float64], *, shape: tuple[int, int], rank_bound: int | None = None
    ) -> "Spectrum":
        """A complete spectrum from its values alone; missing ones up to ``rank_bound`` are zero.

        Parameters
        ----------
        values
            Singular values in any order.
        shape
            ``(out, in)``.
        rank_bound
            Defaults to the smaller side.
        """
        bound = min(shape) if rank_bound is None else rank_bound
        ordered = np.sort(np.asarray(values, dtype=np.float64))[::-1]
        padded = np.concatenate([ordered, np.zeros(max(bound - len(ordered), 0))])
        return cls(padded, shape, bound, math.hypot(*padded))

    @property
    def complete(self) -> bool:
        """Whether all singular values are here."""
        return len(self.values) == self.rank_bound

    @property
    def full_rank_bound(self) -> bool:
        """Whether the update could have full rank: a difference of matrices, not a product of thin factors."""
        return self.rank_bound == min(self.shape)

    @property
    def zero(self) -> bool:
        """Whether the update is exactly zero."""
        return self.frobenius_norm == 0.0

    @property
    def energy_shares(self) -> npt.NDArray[np.float64]:
        """Share of the squared norm in each value; zeros for a zero update."""
        return np.zeros_like(self.values) if self.zero else (self.values / self.frobenius_norm) ** 2

    def require_complete(self, quantity: str) -> None:
        """Raise unless all singular values are here.

        Raises
        ------
        IncompleteSpectrumError
            Naming the quantity and the missing energy.
        """
        if not self.complete:
            kept = 1.0 if self.zero else float(self.energy_shares.sum())
            raise IncompleteSpectrumError(
                f"{quantity} needs every singular value; this spectrum holds {len(self.values)} of {self.rank_bound} "
                f"({kept:.3f} of the energy, method {self.method!r}). Use method='auto'."
            )
