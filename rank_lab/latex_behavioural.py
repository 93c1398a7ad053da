"""LaTeX tables of behavioural ranks, each beside random directions and the ranks of the spectrum."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from rank_lab.behavioural_report import BehaviouralReport
from rank_lab.behavioural_summaries import text_sets_in_words, weight_ranks
from rank_lab.latex_numbers import Shown, setting, shown
from rank_lab.latex_table import Cell, Column, LatexTable, Missing
from rank_lab.latex_text import latex_text

__all__ = ["behavioural_tables"]

Reports = Mapping[str, BehaviouralReport]

_ALL = "all targets"
_NOT_MEASURED = "not measured"


def behavioural_tables(reports: Reports) -> list[LatexTable]:
    """Tables of all behavioural ranks of a study.

    Parameters
    ----------
    reports
        By name; may be empty.
    """
    return [_ranks(reports), _kept(reports)] if reports else []


def _ranks(reports: Reports) -> LatexTable:
    rows = [_rank_cells(name, report, row) for name, report in reports.items() for row in _rows(report)]
    heads = [Column("run"), Column("target"), Column("$p$", "number"), Column("learned", "interval")]
    heads += [Column("$k_p$", "interval"), Column("$k_{90}$, common", "number"), Column("random", "number")]
    heads += [Column("bound", "number"), Column("$k_{90}$", "number"), Column(r"$\circ$", "number")]
    heads += [Column("erank", "number"), Column(r"$\circ$", "number")]
    caption = (
        r"Behavioural rank $k_p$: the least number of leading singular directions of every matrix's update that keeps"
        r" the share $p$ of what was learned (decrease of the loss on the target texts, nats a token), with its 95\,\%"
        r" interval over texts. $k_{90}$, common: the least number"
        r" of directions of every matrix that hold 90\,\% of the squared norm of all updates together. Random: the"
        r" least number of random directions of the update, of those that were tried, that keeps as much; one draw."
        r" $k_{90}$ and effective rank: means over matrices by their share of the change. "
        + latex_text(text_sets_in_words(reports)) + "."
    )  # fmt: skip
    note = r"$\circ$: noise of those shapes: white, or of adapters a product of random factors."
    return LatexTable("behavioural-rank", caption, tuple(heads), tuple(rows), (note,))


def _kept(reports: Reports) -> LatexTable:
    rows = [_kept_cells(name, row) for name, report in reports.items() for row in _rows(report)]
    heads = [Column("run"), Column("target"), Column("$k_p$", "number"), Column("energy", "number")]
    heads += [Column(head, "interval") for head in ("kept", "shrunk", "tail", "forgot", "forgot at $k_p$", "spared")]
    caption = (
        r"What the $k_p$ leading directions are worth. Energy: share of the squared norm of all updates that they hold."
        r" Shares of what was learned: kept by them, by the whole update shrunk to their norm (where that is no less,"
        r" the share is kept by size and not by direction), and by all other directions. Forgot: increase of the loss"
        r" on the source texts, nats a token, of the tuned model and of the truncated one; spared: the difference,"
        r" paired."
    )
    return LatexTable("behavioural-kept", caption, tuple(heads), tuple(rows))


def _rows(report: BehaviouralReport) -> list[dict[Any, Any]]:
    return report.ranks.to_dict("records")


def _rank_cells(name: str, report: BehaviouralReport, row: dict[Any, Any]) -> tuple[Cell, ...]:
    found = {each.name: each for each in weight_ranks(report)}
    weights = [found[each] for each in ("energy_rank_90", "effective_rank")]
    return (
        name, str(row["task"]) or _ALL, Shown(setting(row["share"])), _interval(row, "learned"), _rank(row),
        Shown(str(row["energy_rank_90"])), _random(row), Shown(str(row["rank_bound"])),
        *(_number(value) for each in weights for value in (each.value, each.null)),
    )  # fmt: skip


def _kept_cells(name: str, row: dict[Any, Any]) -> tuple[Cell, ...]:
    shares = ("share_at_rank", "shrunk_at_rank", "tail_at_rank")
    changes = ("forgotten", "forgotten_at_rank", "spared")
    without = pd.isna(row["rank"])
    reason = str(row["reason"]) if without else _NOT_MEASURED
    return (
        name, str(row["task"]) or _ALL, Missing(reason) if without else Shown(str(row["rank"])),
        Missing(reason) if without else shown(row["energy_at_rank"]),
        *(_interval(row, each, reason) for each in shares),
        *(_interval(row, each, str(row["forgotten_reason"])) for each in changes),
    )  # fmt: skip


def _rank(row: dict[Any, Any]) -> Cell:
    if pd.isna(row["rank"]):
        return Missing(str(row["reason"]))
    return shown(row["rank"], row["rank_low"], row["rank_high"], whole=True)


def _random(row: dict[Any, Any]) -> Cell:
    return Missing(str(row["random_reason"])) if pd.isna(row["random_rank"]) else Shown(str(row["random_rank"]))


def _interval(row: dict[Any, Any], name: str, reason: str = "") -> Cell:
    if pd.isna(row[name]):
        return Missing(reason)
    return shown(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _number(value: float) -> Cell:
    return Missing() if math.isnan(value) else shown(value)
