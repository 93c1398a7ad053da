"""LaTeX tables of reports: ranks per run and kind of module, all modules, coverage."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rank_lab.latex_numbers import Shown, shown
from rank_lab.latex_symbols import COUNTS, SYMBOLS, definitions
from rank_lab.latex_table import Column, LatexTable, Missing
from rank_lab.latex_text import latex_text
from rank_lab.names import KINDS, natural_order
from rank_lab.report import RankReport
from rank_lab.told_ranks import told

__all__ = ["coverage_table", "modules_table", "ranks_table"]

_RANKS = ("energy_rank_90", "stable_rank", "effective_rank", "numerical_rank")
_STATUS = ("analysed", "vector", "identical", "new", "skipped")
_HIDDEN = "rounding to the storage type leaves nothing to be told"
_NO_BASE = "no base weight to compare with"
_ABOUT_NULLS = (
    r"$\circ$: the same of white noise of that shape, of factors that of a product of random factors of their rank; of"
    r" the numerical rank its bound."
)
_ABOUT_RANKS = (
    "Ranks are without the rounding to the storage type where it was tested; what the words exact, resolved, partial"
    " and unresolved say is how much of the change rounding leaves to be seen."
)


def ranks_table(reports: Sequence[RankReport]) -> LatexTable:
    """Median ranks of each run and kind of module at the last step, each beside its null.

    Parameters
    ----------
    reports
        Of a study.
    """
    rows: list[tuple[Any, ...]] = []
    groups = []
    for report in reports:
        updates = _last(report.updates[report.updates["delta"] == "cumulative"])
        kinds = sorted(updates["kind"].dropna().unique(), key=KINDS.index)
        rows += [_kind_row(report, str(kind), updates[updates["kind"] == kind]) for kind in kinds]
        groups.append(len(kinds))
    heads = [Column("run"), Column("step", "number"), Column("kind"), Column("$n$", "number"), Column("rounding")]
    heads.append(Column(f"${SYMBOLS['relative_frobenius']}$", "number"))
    caption = (
        "Ranks of weight updates, medians over the $n$ matrices of a kind, at the last step of each run. "
        f"{definitions(_RANKS)}. {_ABOUT_RANKS} {_provenance(reports)}"
    )
    return LatexTable(
        "ranks", caption, (*heads, *_rank_heads()), tuple(rows), (_ABOUT_NULLS,), tuple(filter(None, groups))
    )


def modules_table(reports: Sequence[RankReport]) -> LatexTable:
    """Every matrix at the last step of its run, ranks with the intervals that they have.

    Parameters
    ----------
    reports
        Of a study.
    """
    rows: list[tuple[Any, ...]] = []
    groups = []
    for report in reports:
        updates = _last(report.updates[report.updates["delta"] == "cumulative"])
        ordered = sorted(updates.index, key=lambda index: natural_order(str(updates.loc[index, "module"])))
        rows += [_module_row(updates.loc[[index]]) for index in ordered]
        groups.append(len(ordered))
    heads = [Column("run"), Column("module"), Column("shape"), Column("rounding")]
    heads += [Column(f"${SYMBOLS[name]}$", "number") for name in ("frobenius_norm", "relative_frobenius")]
    caption = (
        "Every updated matrix at the last step of its run; norms are in units of the weights. "
        f"{definitions(_RANKS)}. {_ABOUT_RANKS} In brackets: 95\\,\\% interval. {_provenance(reports)}"
    )
    columns = (*heads, *_rank_heads("interval"))
    return LatexTable("modules", caption, columns, tuple(rows), (_ABOUT_NULLS,), tuple(filter(None, groups)), long=True)


def coverage_table(reports: Sequence[RankReport]) -> LatexTable:
    """How many tensors of each run were analysed, and what became of the others, at its last step.

    Parameters
    ----------
    reports
        Of a study.
    """
    rows = []
    for report in reports:
        last = _last(report.coverage)
        counts = last["status"].value_counts()
        numbers = [Shown(str(int(counts.get(status, 0)))) for status in _STATUS]
        failed = Shown(str(int(last["failed"].sum())))
        outside = last.loc[last["status"] == "vector", "change_share"].sum()
        rows.append((_run(report), _step(last), Shown(str(len(last))), *numbers, failed, shown(100 * float(outside))))
    heads = [Column("run"), Column("step", "number"), Column("tensors", "number")]
    heads += [Column(status, "number") for status in (*_STATUS, "failed")]
    heads.append(Column(r"change in vectors (\%)", "number"))
    caption = (
        "Tensors of each run at its last step, those of its base with no counterpart included. The last column is the"
        " share of the squared norm of the whole change that lies in vectors, which have no rank. A tensor that failed"
        f" should have been analysed, and is among those skipped. {_provenance(reports)}"
    )
    return LatexTable("coverage", caption, tuple(heads), tuple(rows))


def _rank_heads(kind: Any = "number") -> list[Column]:
    heads = []
    for name in _RANKS:
        heads += [Column(f"${SYMBOLS[name]}$", kind), Column(r"$\circ$", "number")]
    return heads


def _kind_row(report: RankReport, kind: str, rows: pd.DataFrame) -> tuple[Any, ...]:
    relative = rows["relative_frobenius"].median()
    cells: list[Any] = [_run(report), _step(rows), kind, Shown(str(len(rows))), _regime(rows)]
    failed = rows["frobenius_norm"].isna().all()
    why = str(rows["warning"].iloc[0]) if failed else ""
    cells.append(Missing(why or _NO_BASE) if pd.isna(relative) else shown(relative))
    for name in _RANKS:
        values = told(rows, name).dropna()
        if values.empty:
            cells.append(Missing(why or _HIDDEN))
        else:
            cells.append(_rank(float(values.median()), name))
        cells.append(_rank(_null(rows, name), name))
    return tuple(cells)


def _module_row(rows: pd.DataFrame) -> tuple[Any, ...]:
    row = rows.iloc[0]
    shape = f"{row['out_features']}×{row['in_features']}"
    cells: list[Any] = [str(row["run"]), str(row["module"]), shape, _regime(rows)]
    failed = pd.isna(row["frobenius_norm"])
    why = str(row["warning"]) if failed else _HIDDEN
    for name, reason in (("frobenius_norm", why), ("relative_frobenius", why if failed else _NO_BASE)):
        cells.append(Missing(reason) if pd.isna(row[name]) else shown(row[name]))
    for name in _RANKS:
        value: Any = told(rows, name).iloc[0]
        column = "rank_above_rounding" if name == "numerical_rank" else f"{name}_denoised"
        ends = (row.get(f"{column}_low"), row.get(f"{column}_high"))
        if pd.isna(value):
            cells.append(Missing(why))
        else:
            cells.append(shown(value, *ends, whole=name in COUNTS) if _has_width(ends) else _rank(float(value), name))
        cells.append(_rank(_null(rows, name), name))
    return tuple(cells)


def _has_width(ends: tuple[Any, Any]) -> bool:
    return not any(pd.isna(end) for end in ends) and ends[1] > ends[0]


def _rank(value: float, name: str) -> Shown | Missing:
    """Without an interval: counts whole, medians of an even number of them with a half, other ranks to a tenth."""
    if math.isnan(value):
        return Missing()
    return Shown(f"{value:.0f}" if name in COUNTS and value == int(value) else f"{value:.1f}")


def _null(rows: pd.DataFrame, name: str) -> float:
    if name == "numerical_rank":
        return float(rows["rank_bound"].astype("float64").median())
    factored = rows[f"factor_null_{name}"].notna().any()
    null = float(rows[f"{'factor_' if factored else ''}null_{name}"].median())
    return round(null) if name in COUNTS and not math.isnan(null) else null


def _last(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table) or table["step"].isna().all():
        return table
    last: pd.DataFrame = table.loc[table["step"] == table["step"].max()]
    return last


def _step(rows: pd.DataFrame) -> Shown | Missing:
    known = rows["step"].dropna()
    return Missing("the checkpoint does not say its step") if known.empty else Shown(str(int(known.iloc[0])))


def _regime(rows: pd.DataFrame) -> str:
    found = rows["noise_regime"].dropna().unique()
    return "-" if not len(found) else str(found[0]) if len(found) == 1 else "mixed"


def _run(report: RankReport) -> str:
    return str(report.provenance["settings"]["run"])


def _provenance(reports: Sequence[RankReport]) -> str:
    """Versions and days, as far as they are told: reports may be of several."""
    found: Mapping[str, list[str]] = {"versions": [], "days": []}
    for report in reports:
        versions = report.provenance.get("versions") or {}
        found["versions"].append(str(versions.get("rank-lab", "of unknown version")))
        found["days"].append(str(report.provenance.get("created_at", ""))[:10])
    versions, days = (sorted(set(filter(None, each))) for each in found.values())
    told = f"Computed by rank\\_lab {latex_text(', '.join(versions))}"
    span = f", {days[0]}" + (f" to {days[-1]}" if len(days) > 1 else "") if days else ""
    return f"{told}{latex_text(span)}."
