"""A behavioural rank in the terminal: the rank beside its nulls, then what was kept at each rank that was tried."""

import math
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_schema import BEHAVIOURAL_TABLES
from rank_lab.behavioural_summaries import WeightRank, beside_energy_rank, curve_of, rank_words, weight_ranks
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain

__all__ = ["behavioural_summary", "render_behavioural"]

_WAYS = ("leading", "random", "shrunk", "tail")
_WORDS = {"energy_rank_90": "k90", "effective_rank": "effective rank", "rank_above_rounding": "above rounding"}
_UNTESTED = "not tested, as rounding explains next to nothing of the update"
_LEGEND = (
    "rank: the least number of directions of each matrix whose truncated update keeps that share of what was"
    " learned, with its 95 % interval over texts; random: the same of random directions of the update, of one draw."
    " k90: the least number of directions of each matrix that hold 90 % of the squared norm of all updates together;"
    " energy: what rank directions hold of it. At that rank, shares of what was learned: kept by the leading"
    " directions, by the whole update shrunk to their norm (if that is no less, the share is kept by size and not by"
    " direction), and by all other directions, the tail."
)


def behavioural_summary(report: BehaviouralReport) -> dict[str, Any]:
    """What ``behavioural --json`` prints: ranks, points, matrices, and the ranks of the spectrum beside them.

    Parameters
    ----------
    report
        Any.
    """
    settings = report.provenance["settings"]
    tables = {name: _records(getattr(report, name)) for name in BEHAVIOURAL_TABLES if name != "scores"}
    return {
        "run": report.run, "step": settings.get("step"), "method": settings.get("run_method"),
        "tuned": report.provenance["tuned"][0]["source"], "base": report.provenance["base"]["source"],
        "vectors": _vectors(report),
        "weight_ranks": {
            each.name: {"value": _number(each.value), "null": _number(each.null), "matrices": each.matrices[0]}
            for each in weight_ranks(report)
        },
        **tables,
    }  # fmt: skip


def render_behavioural(report: BehaviouralReport, *, modules: bool = False) -> Group:
    """Tables for a terminal.

    Parameters
    ----------
    report
        Any.
    modules
        A line per matrix, too.
    """
    parts: list[Any] = [_heading(report), _ranks(report)]
    parts += [Text(plain(line), style="yellow") for line in _reasons(report)]
    told = (*_at_rank(report), *_forgetting(report), *_vector_lines(report))
    parts += [Text(plain(line)) for line in told]
    parts.append(Text(plain(f"in weight space: {'; '.join(_weight_words(each) for each in weight_ranks(report))}")))
    for row in report.ranks.to_dict("records"):
        parts += [Text(""), _points(report, str(row["task"]))]
    parts += [_matrices(report)] if modules else []
    return Group(*parts, Text(_LEGEND, style="dim"))


def _heading(report: BehaviouralReport) -> Text:
    settings, tuned = report.provenance["settings"], report.provenance["tuned"][0]
    step = "" if settings.get("step") is None else f" at step {settings['step']}"
    counts = report.matrices["status"].value_counts()
    told = ", ".join(f"{counts[name]} {name}" for name in counts.index)
    return Text.assemble(
        "\n", (plain(f"behavioural rank of {report.run}{step}"), "bold"),
        plain(f" ({tuned['source']}), on {report.provenance['base']['source']}"), f"\nmatrices: {plain(told)}",
    )  # fmt: skip


def _ranks(report: BehaviouralReport) -> PlainTable:
    heads = ("target", "learned", "share", "rank", "random", "of", "k90", "energy")
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    for name in heads:
        table.add_column(name, justify="left" if name == "target" else "right", overflow="fold")
    for row in report.ranks.to_dict("records"):
        star = " *" if pd.notna(row["lasting_rank"]) and row["lasting_rank"] != row["rank"] else ""
        table.add_row(
            str(row["task"]) or "all targets", _told(row, "learned"), f"{row['share']:g}",
            f"{rank_words(row)}{star}", rank_words(row, "random_rank"), str(row["rank_bound"]),
            str(row["energy_rank_90"]), _share(row["energy_at_rank"]),
        )  # fmt: skip
    return table


def _reasons(report: BehaviouralReport) -> list[str]:
    lines = []
    for row in report.ranks.to_dict("records"):
        name = str(row["task"]) or "all targets"
        if row["reason"]:
            lines.append(f"  {name}: {'no rank' if pd.isna(row['rank']) else 'no interval'}: {row['reason']}")
        if pd.notna(row["lasting_rank"]) and row["lasting_rank"] != row["rank"]:
            lines.append(
                f"  * {name}: of the ranks that were tried, a larger one keeps less again; from {row['lasting_rank']}"
                " on all keep it"
            )
        if row["random_reason"] and "random" in report.provenance["settings"].get("controls", ()):
            lines.append(f"  {name}: no rank of random directions: {row['random_reason']}")
    return lines


def _at_rank(report: BehaviouralReport) -> list[str]:
    lines = []
    for row in report.ranks.to_dict("records"):
        ways = {"the whole update shrunk to their norm": "shrunk_at_rank", "all others": "tail_at_rank"}
        told = [f"{way} {_told(row, name)}" for way, name in ways.items() if pd.notna(row[name])]
        if pd.notna(row["share_at_rank"]):
            kept = (
                f"these directions hold {_share(row['energy_at_rank'])} of the squared norm and keep"
                f" {_told(row, 'share_at_rank')} of what was learned"
            )
            lines.append(f"{str(row['task']) or 'all targets'}, at rank {row['rank']}: {'; '.join([kept, *told])}")
        lines.append(_beside_k90(report, str(row["task"])))
    return lines


def _beside_k90(report: BehaviouralReport, task: str) -> str:
    found = beside_energy_rank(report, task)
    ratio = "" if math.isnan(found.ratio) else f" (the rank is {found.ratio:.2g} of it)"
    if found.kept is None:
        kept = "what so many directions keep was not measured, or is no share of anything"
    else:
        kept = f"so many directions keep {_told(found.kept, 'share')} of what was learned"
    return f"{task or 'all targets'}, at k90 {found.value}{ratio}: {kept}"


def _forgetting(report: BehaviouralReport) -> list[str]:
    lines = []
    for row in report.ranks.to_dict("records"):
        name = str(row["task"]) or "all targets"
        if pd.isna(row["forgotten"]):
            lines.append(f"forgetting: {row['forgotten_reason']}")
            continue
        line = f"forgotten: {_told(row, 'forgotten')} by the tuned model"
        if pd.notna(row["forgotten_at_rank"]):
            apart = pd.notna(row["spared_low"]) and row["spared_low"] * row["spared_high"] > 0
            verdict = "" if apart else ", which cannot be told from none"
            line += f", {_told(row, 'forgotten_at_rank')} at the rank for {name}: {_told(row, 'spared')} less{verdict}"
        lines.append(line)
    return list(dict.fromkeys(lines))


def _vectors(report: BehaviouralReport) -> str:
    """How norms and biases were treated, in a word or two."""
    statuses = set(report.matrices["status"])
    return next((name for name in ("kept", "left out") if f"vector {name}" in statuses), "none changed")


def _vector_lines(report: BehaviouralReport) -> list[str]:
    kept = _vectors(report)
    return [
        f"norms and biases ({kept} in the curve): {str(row['task']) or 'all targets'}: they alone keep"
        f" {_told(row, 'share_of_vectors')} of what was learned, all matrices without them"
        f" {_told(row, 'share_without_vectors')}"
        for row in report.ranks.to_dict("records")
        if pd.notna(row["share_of_vectors"])
    ]


def _weight_words(found: WeightRank) -> str:
    if math.isnan(found.value):
        return f"{_WORDS[found.name]} {_UNTESTED if found.resolved else 'not known'}"
    null = "" if math.isnan(found.null) else f" (noise {found.null:.3g})"
    some = "" if found.matrices[0] == found.matrices[1] else f", {found.matrices[0]} of {found.matrices[1]} matrices"
    return f"{_WORDS[found.name]} {found.value:.3g}{null}{some}"


def _points(report: BehaviouralReport, task: str) -> PlainTable:
    """A line per rank: shares of what was learned in each way, and of what was forgotten by the leading directions."""
    curves = {way: curve_of(report, way, "target", task) for way in _WAYS}
    sources = [str(name) for name in report.points.loc[report.points["role"] == "source", "task"].unique()]
    source = "" if "" in sources else next(iter(sources), None)
    ways = [way for way in _WAYS if len(curves[way])]
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    name = task or "all targets"
    for head in ("k", "energy", *(f"{name}: {way}" for way in ways), *(["forgotten"] if source is not None else [])):
        table.add_column(plain(head), justify="right", overflow="fold")
    forgotten = curve_of(report, "leading", "source", source) if source is not None else None
    for k in sorted({int(k) for curve in curves.values() for k in curve["k"]}):
        rows = {way: curve[curve["k"] == k].to_dict("records") for way, curve in curves.items()}
        energy = next(found[0]["energy"] for found in rows.values() if found)
        cells = [_told(rows[way][0], "share") if rows[way] else "" for way in ways]
        if forgotten is not None:
            at = forgotten[forgotten["k"] == k].to_dict("records")
            cells.append(_told(at[0], "share") if at else "")
        table.add_row(str(k), _share(energy), *cells)
    return table


def _matrices(report: BehaviouralReport) -> PlainTable:
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    heads = ("matrix", "status", "shape", "bound", "share", "k90", "noise", "effective rank", "noise", "above rounding")
    for name in heads:
        table.add_column(name, justify="left" if name in ("matrix", "status") else "right", overflow="fold")
    for row in report.matrices.to_dict("records"):
        shape = "" if pd.isna(row["out_features"]) else f"{row['out_features']} x {row['in_features']}"
        numbers = ("energy_rank_90", "null_energy_rank_90", "effective_rank", "null_effective_rank")
        table.add_row(
            str(row["module"]), str(row["status"]), shape, "" if pd.isna(row["rank_bound"]) else str(row["rank_bound"]),
            _share(row["change_share"]), *(_three(row[name]) for name in numbers), _three(row["rank_above_rounding"]),
        )  # fmt: skip
    return table


def _told(row: dict[Any, Any], name: str) -> str:
    if pd.isna(row[name]):
        return "-"
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    ends = "" if pd.isna(low) or pd.isna(high) or low == high else f" ({low:.3f} to {high:.3f})"
    return f"{row[name]:.3f}{ends}"


def _share(value: Any) -> str:
    return "-" if pd.isna(value) else f"{value:.3f}"


def _three(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:.3g}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {str(key): None if pd.isna(value) else value for key, value in row.items()}
        for row in table.to_dict(orient="records")
    ]
