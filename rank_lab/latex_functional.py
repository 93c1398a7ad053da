"""A LaTeX table of functional ranks: per run, scope and kind of place, beside nulls and the weight's own rank."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_summaries import SUMMARY_METRIC, by_kind, told_once
from rank_lab.functional_views import not_comparable, probes_in_words
from rank_lab.latex_numbers import Shown, shown
from rank_lab.latex_symbols import SYMBOLS
from rank_lab.latex_table import Cell, Column, LatexTable, Missing
from rank_lab.latex_text import latex_text

__all__ = ["functional_tables_tex"]

_NO_WEIGHT = "the change is no weight update"
_NO_MAP = "too few tokens for a linear map"
_NO_STEP = "the checkpoint does not say its step"
_SCOPES = ("layer", "module", "weighted")


def functional_tables_tex(reports: Mapping[str, FunctionalReport]) -> list[LatexTable]:
    """The table of all reports of a study; none where there is no row.

    Parameters
    ----------
    reports
        By name; may be empty.
    """
    rows: list[tuple[Cell, ...]] = []
    groups = []
    for report in reports.values():
        found = told_once(by_kind(report.ranks, report.changes))
        order = found["scope"].map(_SCOPES.index)
        own = [_row(row) for row in found.loc[order.sort_values(kind="stable").index].to_dict("records")]
        rows += own
        groups.append(len(own))
    if not rows:
        return []
    few = any(report.ranks["low"].isna().any() for report in reports.values())
    notes = (*_NOTES, r"Without an interval: too few texts for one, or none was asked for.") if few else _NOTES
    symbol = SYMBOLS[SUMMARY_METRIC]
    heads = [Column("run"), Column("method"), Column("step", "number"), Column("scope"), Column("kind")]
    heads += [Column("$n$", "number"), Column(f"${symbol}$", "interval"), Column(r"$\circ$", "number")]
    heads += [Column(f"${symbol}(\\Delta W)$", "number"), Column("change", "number"), Column("mean", "number")]
    heads += [Column("$R^2$", "number"), Column(r"$R^2_{\mathrm{c}}$", "number")]
    return [
        LatexTable("functional-ranks", _caption(reports), tuple(heads), tuple(rows), notes, tuple(groups), long=True)
    ]


_NOTES = (
    r"$\circ$: a random linear change of the same shape and rank on the same inputs.",
    r"Where texts are too few, the upper end is the bound, the least of tokens, outputs and inputs.",
)


def _caption(reports: Mapping[str, FunctionalReport]) -> str:
    told = latex_text(probes_in_words((each.run, each.probe) for each in reports.values()))
    warning = "".join(f" {latex_text(each)}." for each in not_comparable(each.origin for each in reports.values()))
    return (
        r"Rank of what the update does to real inputs (" + told + r"): least $k$ that holds 90\,\% of"
        r" $\mathrm{E}\,\lVert \Delta h \rVert^2$, medians over the $n$ places of a kind, with the medians of the"
        r" ends of their 95\,\% intervals over texts. Layer: hidden state after a layer, same tokens through both"
        r" models;"
        r" module: output of a module, same input through both; weighted: $\Delta W C^{1/2}$ with $C$ the second moment"
        r" of the base's inputs, where it differs from module. Change: root mean square of $\Delta h$ over that of $h$;"
        r" mean: share of its energy in one vector; $R^2$: what a linear map of the input explains of the energy, and"
        r" with an intercept ($R^2_{\mathrm{c}}$) of the variance, on texts that it was not fitted on." + warning
    )


def _row(row: Mapping[Any, Any]) -> tuple[Cell, ...]:
    value: Cell = shown(row["value"], row["low"], row["high"])
    step: Cell = Missing(_NO_STEP) if pd.isna(row["step"]) else Shown(str(int(row["step"])))
    shares: list[Cell] = [_fixed(row[name]) for name in ("linear_share", "linear_share_centered")]
    return (
        str(row["run"]), str(row["method"]), step, str(row["scope"]), str(row["kind"]), Shown(str(row["n"])), value,
        shown(row["null"]), Missing(_NO_WEIGHT) if pd.isna(row["weight"]) else shown(row["weight"]),
        shown(row["relative_change"]), _fixed(row["mean_share"]), *shares,
    )  # fmt: skip


def _fixed(value: float) -> Cell:
    return Missing(_NO_MAP) if pd.isna(value) else Shown(f"{float(value):.3f}")
