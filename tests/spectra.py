"""Matrices whose singular values were chosen first, and strategies for spectra."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from rank_lab.spectrum import Spectrum

Array = npt.NDArray[np.float64]

LAWS = settings(max_examples=150, deadline=None, derandomize=True)
"""The same examples on every run, however slow the machine."""


def geometric(count: int) -> Array:
    """From 1 down to 1e-6 in equal ratios: the fast decay of a fine-tune with few directions."""
    return np.geomspace(1.0, 1e-6, count)


def flat(count: int) -> Array:
    """All equal: an orthogonal map, without any leading direction."""
    return np.ones(count)


def power_law(count: int) -> Array:
    """1/i: the heavy tail of trained weights."""
    return 1.0 / np.arange(1, count + 1)


def spike(count: int) -> Array:
    """One direction a thousand times as large as the bulk."""
    return np.concatenate([[1.0], np.full(count - 1, 1e-3)])


def deficient(count: int) -> Array:
    """A quarter of the directions, and exactly nothing beyond."""
    values = power_law(count)
    values[max(count // 4, 1) :] = 0.0
    return values


SPECTRA: dict[str, Callable[[int], Array]] = {
    function.__name__: function for function in (geometric, flat, power_law, spike, deficient)
}


def orthonormal(length: int, count: int, generator: torch.Generator) -> Tensor:
    """``count`` random orthonormal columns."""
    columns: Tensor = torch.linalg.qr(torch.randn(length, count, dtype=torch.float64, generator=generator)).Q
    return columns


def factors(values: Array, shape: tuple[int, int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """``B`` and ``A`` of rank ``len(values)`` whose product has these singular values."""
    root = torch.from_numpy(np.sqrt(values))
    left, right = (orthonormal(length, len(values), generator) for length in shape)
    return left * root, (right * root).T.contiguous()


def matrix(
    values: Array, shape: tuple[int, int], generator: torch.Generator, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random matrix of that shape with these singular values, rounded once to ``dtype``."""
    B, A = factors(values, shape, generator)
    return (B @ A).to(dtype)


def white_noise(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Independent standard normal entries."""
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def singular_values(dense: Tensor) -> Array:
    """By LAPACK's SVD in float64, without rank_lab."""
    return np.asarray(torch.linalg.svdvals(dense.double()))


def integers(shape: tuple[int, ...], generator: torch.Generator, *, largest: int = 3) -> Tensor:
    """Small integers, on which sums and products are exact in every type."""
    return torch.randint(-largest, largest + 1, shape, generator=generator).double()


@st.composite
def spectra(draw: st.DrawFn, *, smallest: float = 1e-6) -> Spectrum:
    """Complete spectra of any shape, rank bound and decay, with ties and with zeros; never of a zero update."""
    bound = draw(st.integers(1, 24))
    shape = (draw(st.integers(bound, 40)), draw(st.integers(bound, 40)))
    relative = draw(
        st.lists(st.one_of(st.just(1.0), st.floats(smallest, 1.0), st.just(0.0)), max_size=bound - 1).map(np.array)
    )
    scale = draw(st.floats(1e-9, 1e9))
    return Spectrum.from_values(scale * np.append(relative, 1.0), shape=shape, rank_bound=bound)
