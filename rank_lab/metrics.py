"""The table of all quantities: what each is called, how it is written, what it needs, where it is from.

One table drives the report's columns, the command line's choices, axis labels
and references, so that a name means one thing everywhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rank_lab.bulk import gavish_donoho_rank, marchenko_pastur_rank, tail_exponent
from rank_lab.errors import IncompleteSpectrumError, UnsupportedUpdateError
from rank_lab.quantities import (
    effective_rank,
    effective_rank_energy,
    energy_rank,
    frobenius_norm,
    intrinsic_dimension,
    nuclear_norm,
    nuclear_ratio,
    numerical_rank,
    numerical_rank_tolerance,
    participation_ratio,
    participation_ratio_energy,
    spectral_norm,
    stable_rank,
)
from rank_lab.spectrum import Spectrum

__all__ = [
    "DENOISED_RANKS",
    "ENERGY_SHARES",
    "METRICS",
    "Metric",
    "evaluate",
    "gavish_donoho_rank",
    "marchenko_pastur_rank",
    "tail_exponent",
]

ENERGY_SHARES = (50, 90, 95, 99)
"""Percentages of the energy for which the report has a rank."""

DENOISED_RANKS = ("energy_rank_90", "energy_rank_99", "stable_rank", "effective_rank")
"""Ranks of which a value without the rounding is given, by :mod:`rank_lab.denoised`."""


@dataclass(frozen=True)
class Metric:
    """One quantity of a spectrum.

    Parameters
    ----------
    name
        Column of the report.
    symbol
        As on an axis, in plain Unicode.
    formula
        In LaTeX, without dollar signs.
    function
        From a spectrum to the value.
    needs
        ``"norm"``, ``"leading"`` values or the ``"complete"`` spectrum.
    reference
        Where it is from, with DOI or arXiv id; empty for textbook quantities.
    rank
        Whether it counts directions, and so has a null.
    """

    name: str
    symbol: str
    formula: str
    function: Callable[[Spectrum], float]
    needs: Literal["norm", "leading", "complete"]
    reference: str = ""
    rank: bool = True


_BIDERMAN = "Biderman et al. (2024), arXiv:2405.09673"
_ROY = "Roy & Vetterli (2007), EUSIPCO, pp. 606-610"

_TABLE = (
    Metric("frobenius_norm", "‖ΔW‖F", r"(\sum_i \sigma_i^2)^{1/2}", frobenius_norm, "norm", rank=False),
    Metric("spectral_norm", "σ₁", r"\sigma_1", spectral_norm, "leading", rank=False),
    Metric("nuclear_norm", "‖ΔW‖*", r"\sum_i \sigma_i", nuclear_norm, "complete", rank=False),
    Metric("numerical_rank_tolerance", "τ", r"\max(\max(m, n)\,\epsilon\,\sigma_1, \mathrm{floor})", numerical_rank_tolerance, "leading", rank=False),
    Metric("numerical_rank", "rank", r"\#\{i : \sigma_i > \tau\}", numerical_rank, "leading", "numpy.linalg.matrix_rank"),
    *(
        Metric(
            f"energy_rank_{percent}", f"k{percent}", rf"\min\{{k : \sum_{{i \le k}} \sigma_i^2 \ge {percent / 100:g} \sum_i \sigma_i^2\}}",
            partial(energy_rank, share=percent / 100), "leading", _BIDERMAN,
        )
        for percent in ENERGY_SHARES
    ),
    Metric("stable_rank", "srank", r"\lVert \Delta W \rVert_F^2 / \sigma_1^2", stable_rank, "leading", "Rudelson & Vershynin (2007), doi:10.1145/1255443.1255449"),
    Metric("effective_rank", "erank", r"\exp(-\sum_i p_i \ln p_i),\ p_i = \sigma_i / \sum_j \sigma_j", effective_rank, "complete", _ROY),
    Metric("effective_rank_energy", "erank(σ²)", r"\exp(-\sum_i p_i \ln p_i),\ p_i = \sigma_i^2 / \sum_j \sigma_j^2", effective_rank_energy, "complete", _ROY),
    Metric("participation_ratio", "PR", r"(\sum_i \sigma_i)^2 / \sum_i \sigma_i^2", participation_ratio, "complete"),
    Metric("participation_ratio_energy", "PR(σ²)", r"(\sum_i \sigma_i^2)^2 / \sum_i \sigma_i^4", participation_ratio_energy, "complete", "Gao et al. (2017), doi:10.1101/214262"),
    Metric("nuclear_ratio", "(‖·‖*/‖·‖F)²", r"(\lVert \Delta W \rVert_* / \lVert \Delta W \rVert_F)^2", nuclear_ratio, "complete"),
    Metric("intrinsic_dimension", "intdim", r"\lVert \Delta W \rVert_* / \sigma_1", intrinsic_dimension, "complete", "Ipsen & Saibaba (2024), arXiv:2407.21594"),
    Metric("gavish_donoho_rank", "GD", r"\#\{i : \sigma_i > \lambda(\beta) \mu_\beta^{-1/2} \mathrm{median}(\sigma)\}", gavish_donoho_rank, "complete", "Gavish & Donoho (2014), doi:10.1109/TIT.2014.2323359"),
    Metric("marchenko_pastur_rank", "MP", r"\#\{i : \sigma_i > \mathrm{edge}_{95\,\%}\}", marchenko_pastur_rank, "complete", "Johnstone (2001), doi:10.1214/aos/1009210544"),
    Metric("tail_exponent", "α", r"1 + n / \sum_i \ln(x_i / x_{\min}),\ x = \sigma^2", tail_exponent, "complete", "Clauset, Shalizi & Newman (2009), doi:10.1137/070710111", rank=False),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""All quantities by name, in the order in which tables show them."""


def evaluate(spectrum: Spectrum) -> dict[str, float]:
    """All quantities of a spectrum; NaN where one does not apply to this kind of update.

    Parameters
    ----------
    spectrum
        Complete or truncated.

    Returns
    -------
    dict
        Name to value for every entry of :data:`METRICS`.

    Examples
    --------
    >>> values = evaluate(Spectrum.from_values([3.0, 1.0], shape=(2, 2)))
    >>> values["energy_rank_90"], values["participation_ratio"]
    (1.0, 1.6)
    """
    return {name: _value(metric, spectrum) for name, metric in METRICS.items()}


def _value(metric: Metric, spectrum: Spectrum) -> float:
    try:
        return float(metric.function(spectrum))
    except (IncompleteSpectrumError, UnsupportedUpdateError):
        return math.nan
