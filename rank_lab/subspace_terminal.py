"""A comparison of subspaces in the terminal: coverage first, then a line per kind of module or per module."""

from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from rank_lab.names import KINDS, natural_order
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_schema import SUBSPACE_TABLES
from rank_lab.subspace_summaries import STATED_EPSILON, at_epsilon, in_directions, similarity

__all__ = ["render_subspaces", "subspace_summary"]

_STATUS_STYLE = {"refused": "red", "unread": "red", "only": "yellow", "zero": "dim", "compared": "green"}
_LEGEND = (
    "Medians over the n modules, each as value / what random subspaces of those dimensions show. φ: of the first k"
    " directions of both, as many as stand above rounding in both, at most those asked for; A: of LoRA's matrix A, as"
    " in the paper. angle: the smallest principal angle between all directions asked for, in degrees; cos: its cosine."
    " resolved: how many of the leading directions of each update stand above the rounding of its files."
)
_WEIGHT_LEGEND = (
    "amplification: ‖ΔW‖ / ‖UᵀWV‖ in the first r directions of the update; own, random: ‖UᵀWV‖ in those of W and in"
    " random ones, over that. intruders: singular vectors among the first k of W + ΔW whose largest cosine with any of"
    " W is below ε, on the left, summed over modules / what white noise of the same norm does; span: those that leave"
    " the span of the first 2k of W."
)


def subspace_summary(report: SubspaceReport) -> dict[str, Any]:
    """What ``subspace --json`` prints: names, coverage, failures, and one row per module.

    Parameters
    ----------
    report
        Any.
    """
    coverage = report.coverage
    failed = coverage[coverage["failed"]]
    return {
        "name": report.provenance["settings"]["name"],
        "first": {key: report.provenance["first"][key] for key in ("run", "step", "source")},
        "second": {key: report.provenance["second"][key] for key in ("run", "step", "source")},
        "coverage": {str(status): int(count) for status, count in coverage["status"].value_counts().items()},
        "modules": _records(coverage),
        "failures": [{"module": str(row.module), "reason": str(row.reason)} for row in failed.itertuples()],
        **{
            name: _records(getattr(report, name))
            for name in SUBSPACE_TABLES
            if name not in ("phi", "angles", "coverage")
        },
        "similarity": _records(similarity(report)),
    }


def render_subspaces(report: SubspaceReport, *, modules: bool = False) -> Group:
    """Tables for a terminal.

    Parameters
    ----------
    report
        Any.
    modules
        One line per module instead of one per kind of module.
    """
    column = "module" if modules else "kind"
    parts: list[Any] = [_heading(report), _coverage(report.coverage), *_reasons(report.coverage)]
    similar = similarity(report)
    if len(similar):
        parts += [_similarity_table(similar, column), Text(_LEGEND, style="dim")]
    if len(report.amplification):
        parts += [_amplification_table(report, column)]
    if len(report.intruders):
        parts += [_intruder_table(report, column)]
    if len(report.amplification):
        parts.append(Text(_WEIGHT_LEGEND, style="dim"))
    return Group(*parts)


def _heading(report: SubspaceReport) -> Text:
    names = []
    for role in ("first", "second"):
        about = report.provenance[role]
        step = "" if about.get("step") is None else f" at step {about['step']}"
        steps = about.get("steps_in_run") or []
        last = f", the last of {len(steps)} checkpoints" if len(steps) > 1 else ""
        names.append(f"{about['run']}{step} ({about['source']}{last})")
    base = report.provenance["base"]
    against = f", on {base['source']}" if base else ", without a base"
    return Text.assemble("\n", (plain(names[0]), "bold"), " against ", (plain(names[1]), "bold"), plain(against))


def _coverage(coverage: pd.DataFrame) -> Text:
    counts, text = coverage["status"].value_counts(), Text("coverage: ")
    for status, style in _STATUS_STYLE.items():
        if status in counts:
            text.append(f"{counts[status]} {status}  ", style=style)
    return text


def _reasons(coverage: pd.DataFrame) -> list[Text]:
    told = coverage[coverage["reason"].fillna("") != ""]
    lines = []
    for (status, reason), rows in sorted(
        told.groupby(["status", "reason"], sort=False), key=lambda each: -len(each[1])
    ):
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        style = "red" if rows["failed"].any() else "yellow"
        lines.append(Text(plain(f"  {status}: {reason} - {rows['module'].iloc[0]}{more}"), style=style))
    return [
        *lines[:8],
        *([Text(f"  ... and {len(lines) - 8} more reasons in the coverage table")] if lines[8:] else []),
    ]


def _similarity_table(similar: pd.DataFrame, column: str) -> PlainTable:
    table = _table(column, "side", "n", "k", "φ / random", "angle", "cos / random", "resolved")
    for name in _ordered(similar, column):
        for side in ("left", "right", "A"):
            rows = similar[(similar[column] == name) & (similar["side"] == side)]
            if rows.empty:
                continue
            resolved = "-" if side == "A" else f"{_middle(rows, 'resolved_a'):g}, {_middle(rows, 'resolved_b'):g}"
            angle = _middle(rows, "angle") * 57.29577951308232
            table.add_row(
                name,
                side,
                str(len(rows)),
                f"{_middle(rows, 'k'):g}",
                f"{_middle(rows, 'phi'):.3f} / {_middle(rows, 'null'):.3f}",
                "-" if side == "A" else f"{angle:.3g}°",
                "-" if side == "A" else f"{_middle(rows, 'cosine'):.3f} / {_middle(rows, 'null_cosine'):.3f}",
                resolved,
            )
    return table


def _amplification_table(report: SubspaceReport, column: str) -> PlainTable:
    table = _table(column, "run", "step", "n", "r", "amplification", "‖ΔW‖", "own", "random")
    rows = report.amplification
    ratios = in_directions(rows)
    for name in _ordered(rows, column):
        for (run, step), found in ratios[ratios[column] == name].groupby(["run", "step"], dropna=False, sort=False):
            for r in sorted(found["r"].unique())[-1:]:
                at = found[found["r"] == r]
                cells = [f"{_middle(at, part):.3g}" for part in ("amplification", "update_norm", "own", "random")]
                table.add_row(name, str(run), _step(step), str(len(at)), str(r), *cells)
    return table


def _intruder_table(report: SubspaceReport, column: str) -> PlainTable:
    table = _table(column, "run", "step", "n", "k", "ε", "intruders / noise", "span / noise", "‖ΔW‖/‖W‖")
    rows = report.intruders
    rows = at_epsilon(rows[rows["side"] == "left"], STATED_EPSILON)
    for name in _ordered(rows, column):
        for (run, step), found in rows[rows[column] == name].groupby(["run", "step"], dropna=False, sort=False):
            for k in sorted(found["k"].unique()):
                at = found[found["k"] == k]
                table.add_row(
                    name,
                    str(run),
                    _step(step),
                    str(len(at)),
                    str(k),
                    f"{at['epsilon'].iloc[0]:g}",
                    f"{at['intruders'].sum()} / {at['null'].sum():g}",
                    f"{at['projected'].sum()} / {at['null_projected'].sum():g}",
                    f"{_middle(at, 'relative_frobenius'):.2g}",
                )
    return table


def _table(*columns: str) -> PlainTable:
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        left = name in ("side", "run") or not index
        table.add_column(name, justify="left" if left else "right", overflow="fold", no_wrap=index > 0)
    return table


def _ordered(rows: pd.DataFrame, column: str) -> list[str]:
    found = [str(name) for name in rows[column].dropna().unique()]
    return sorted(found, key=natural_order) if column == "module" else sorted(found, key=KINDS.index)


def _middle(rows: pd.DataFrame, column: str) -> float:
    return float(rows[column].astype("float64").median())


def _step(step: object) -> str:
    return "-" if pd.isna(step) else str(step)  # type: ignore[call-overload]


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
