"""Functional ranks in the terminal: what was looked at first, then a line per kind of place, or per place."""

from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from rank_lab.functional_report import FunctionalReport
from rank_lab.functional_summaries import SUMMARY_METRIC, by_kind, told_once
from rank_lab.names import natural_order
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain

__all__ = ["functional_summary", "render_functional"]

_LEGEND = (
    "k90 of the change on the probe texts / of a random linear change on the same inputs, with the 95 % interval over"
    " texts (> : too few texts for an upper end); weight: k90 of the update itself. layer: hidden state after a layer,"
    " same tokens through both models; module: output of a module, same input through both; weighted: ΔW C^½ with C"
    " of the base's inputs, shown where a change of the bias makes it another number than the module's. change: its"
    " size over that of what the base has there. mean: share of the change that is one vector. R²: what a linear map"
    " of the input explains, on texts that it was not fitted on, of the energy and (centred) of the variance. Medians"
    " over the n places."
)
_MOST = 6


def functional_summary(report: FunctionalReport) -> dict[str, Any]:
    """What ``functional --json`` prints.

    Parameters
    ----------
    report
        Any.
    """
    texts = report.provenance["texts"]
    return {
        "run": report.run,
        "texts": {name: texts[name] for name in ("file", "sha256", "texts", "tokens")},
        "kinds": _records(by_kind(report.ranks, report.changes)),
        "ranks": _records(report.ranks),
        "changes": _records(report.changes.drop(columns="spectrum")),
        "coverage": _records(report.coverage),
    }


def render_functional(report: FunctionalReport, *, modules: bool = False) -> Group:
    """Tables for a terminal.

    Parameters
    ----------
    report
        Any.
    modules
        One line per place instead of one per kind.
    """
    parts: list[Any] = [_heading(report), *_coverage(report.coverage)]
    if len(report.changes):
        rows = report.ranks, report.changes
        if modules:  # each place is then a kind by itself
            rows = tuple(table.assign(kind=table["module"]) for table in rows)  # type: ignore[assignment]
        parts += [_table(told_once(by_kind(*rows, SUMMARY_METRIC)), modules=modules), Text(_LEGEND, style="dim")]
    return Group(*parts, *_warnings(report.changes))


def _heading(report: FunctionalReport) -> Text:
    about, texts = report.provenance, report.provenance["texts"]
    told = f" on {texts['texts']} texts, {texts['tokens']} tokens of {texts['file']}, against {about['base']['source']}"
    centered = ", centred" if about["settings"].get("centered") else ""
    return Text.assemble("\n", ("what the update does: ", ""), (plain(report.run), "bold"), plain(told + centered))


def _coverage(coverage: pd.DataFrame) -> list[Text]:
    if coverage.empty:
        return []
    counts = coverage.drop_duplicates("module")["status"].value_counts()
    lines = [Text("linear modules: " + "  ".join(f"{count} {status}" for status, count in counts.items()))]
    told = coverage[coverage["reason"].fillna("") != ""].drop_duplicates("module")
    for reason, rows in told.groupby("reason", sort=False):
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        lines.append(Text(plain(f"  {reason} - {rows['module'].iloc[0]}{more}", limit=300), style="yellow"))
    return lines[: _MOST + 1]


def _table(found: pd.DataFrame, *, modules: bool) -> PlainTable:
    heads = ["scope", "module" if modules else "kind", "step", "n", "k90 / null", "interval", "weight", "change"]
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate((*heads, "mean", "R²", "centred")):
        table.add_column(name, justify="left" if index < 2 else "right", overflow="fold", no_wrap=index != 1)
    order = ("layer", "module", "weighted")
    keys = [(order.index(str(row["scope"])), natural_order(str(row["kind"]))) for _, row in found.iterrows()]
    for at in sorted(range(len(keys)), key=keys.__getitem__):
        table.add_row(*_cells(found.iloc[at].to_dict()))
    return table


def _cells(row: dict[Any, Any]) -> list[str]:
    more = ">" if row["open"] else ""
    interval = "-" if pd.isna(row["low"]) else f"{row['low']:g} to {more}{row['high']:g}"
    step = "-" if pd.isna(row["step"]) else str(row["step"])
    return [
        str(row["scope"]), str(row["kind"]), step, str(row["n"]), f"{row['value']:g} / {row['null']:.3g}", interval,
        _number(row["weight"], "g"), _number(row["relative_change"], ".2g"),
        *(_number(row[name], ".2f") for name in ("mean_share", "linear_share", "linear_share_centered")),
    ]  # fmt: skip


def _number(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(float(value), form)


def _warnings(changes: pd.DataFrame) -> list[Text]:
    told = changes["warning"].fillna("")
    each = pd.Series([part for text in told for part in text.split("; ") if part], dtype="object")
    counts = each.value_counts()
    lines = [
        Text(plain(f"warning: {text} ({count} place{'' if count == 1 else 's'})", limit=300), style="yellow")
        for text, count in counts.items()
    ]
    more = [Text(f"... and {len(lines) - _MOST} more warnings in the table of changes", style="yellow")]
    return lines[:_MOST] + (more if len(lines) > _MOST else [])


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.astype(object).to_dict(orient="records")
    ]
