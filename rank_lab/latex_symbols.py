"""How quantities are written in the heads and captions of LaTeX tables, and which digits they have without interval."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from rank_lab.metrics import METRICS
from rank_lab.schema import RANKS

__all__ = ["COUNTS", "SYMBOLS", "definitions"]

_NUCLEAR = r"\lVert \Delta W \rVert_*"
_FROBENIUS = r"\lVert \Delta W \rVert_F"

SYMBOLS: Mapping[str, str] = MappingProxyType(
    {
        "frobenius_norm": _FROBENIUS,
        "spectral_norm": r"\sigma_1",
        "nuclear_norm": _NUCLEAR,
        "numerical_rank_tolerance": r"\tau",
        "numerical_rank": r"\mathrm{rank}",
        "energy_rank_50": "k_{50}",
        "energy_rank_90": "k_{90}",
        "energy_rank_95": "k_{95}",
        "energy_rank_99": "k_{99}",
        "stable_rank": r"\mathrm{srank}",
        "effective_rank": r"\mathrm{erank}",
        "effective_rank_energy": r"\mathrm{erank}(\sigma^2)",
        "participation_ratio": r"\mathrm{PR}",
        "participation_ratio_energy": r"\mathrm{PR}(\sigma^2)",
        "nuclear_ratio": rf"({_NUCLEAR} / {_FROBENIUS})^2",
        "intrinsic_dimension": r"\mathrm{intdim}",
        "gavish_donoho_rank": r"r_{\mathrm{GD}}",
        "marchenko_pastur_rank": r"r_{\mathrm{MP}}",
        "tail_exponent": r"\alpha",
        "relative_frobenius": rf"{_FROBENIUS} / \lVert W \rVert_F",
    }
)
"""Column of a report to its symbol, without dollar signs."""

COUNTS = frozenset(
    name for name in RANKS if name.startswith("energy_rank") or name in ("numerical_rank", "gavish_donoho_rank")
) | {"marchenko_pastur_rank"}
"""Ranks that are whole numbers."""


def definitions(names: Iterable[str]) -> str:
    r"""Symbols and formulas of quantities, for a caption.

    Examples
    --------
    >>> print(definitions(["stable_rank"]))
    $\mathrm{srank} = \lVert \Delta W \rVert_F^2 / \sigma_1^2$
    """
    return "; ".join(f"${SYMBOLS[name]} = {METRICS[name].formula}$" for name in names)
