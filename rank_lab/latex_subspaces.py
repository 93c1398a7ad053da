"""LaTeX tables of comparisons of subspaces: similarity, amplification, intruders, coverage, each beside its null."""

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from rank_lab.latex_numbers import Shown, setting, shown
from rank_lab.latex_table import Cell, Column, LatexTable, Missing
from rank_lab.names import KINDS
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_summaries import STATED_EPSILON, at_epsilon, in_directions, similarity

__all__ = ["subspace_tables"]

_SIDES = ("left", "right", "A")
_STATUS = ("compared", "zero", "only", "refused", "unread")
_NULL = Column(r"$\circ$", "number")
_UPDATE = r"\lVert \Delta W \rVert_F"
_HELD = r"\lVert U^{\top} W V \rVert_F"
_FLAT = "the projection of the weight is zero"
_PARAMETERS = "the A of an adapter has no angles here"

Reports = Mapping[str, SubspaceReport]


def subspace_tables(reports: Reports) -> list[LatexTable]:
    """Tables of all comparisons of a study; one without a row is left out, as the coverage says.

    Parameters
    ----------
    reports
        By name; may be empty.
    """
    if not reports:
        return []
    tables = (_similarity(reports), _amplification(reports), _intruders(reports))
    return [*(table for table in tables if table.rows), _coverage(reports)]


def _similarity(reports: Reports) -> LatexTable:
    rows: list[tuple[Cell, ...]] = []
    groups = []
    for name, report in reports.items():
        found = similarity(report)
        own = [(name, *_similar(kind, side, part)) for kind, side, part in _by_kind_and_side(found)]
        rows += own
        groups.append(len(own))
    heads = [Column("comparison"), Column("kind"), Column("side"), Column("$n$", "number"), Column("$k$", "number")]
    heads += [Column(r"$\phi(k, k)$", "number"), _NULL, Column(r"$\theta_1$ (\si{\degree})", "number")]
    heads += [Column(r"$\cos\theta_1$", "number"), _NULL]
    heads += [Column(f"resolved, {which}", "number") for which in ("first", "second")]
    caption = (
        r"Similarity of two updates, medians over the $n$ modules of a kind. $\phi(k, k) = \lVert U_1^{\top} U_2"
        r" \rVert_F^2 / k$ of the first $k$ singular vectors of both, of as many as stand above the rounding of the"
        r" files in both, at least one; side A: right singular vectors of LoRA's matrix $A$. $\theta_1$: smallest"
        r" principal angle between the spans of all directions asked for. Resolved: how many directions of each update"
        r" stand above rounding; what is said of any beyond these is said of noise."
    )
    note = r"$\circ$: mean of random subspaces of those dimensions."
    return LatexTable("subspace-similarity", caption, tuple(heads), tuple(rows), (note,), tuple(filter(None, groups)))


def _similar(kind: str, side: str, rows: pd.DataFrame) -> tuple[Cell, ...]:
    cells: list[Cell] = [kind, side, Shown(str(len(rows))), _count(rows, "k"), _fraction(rows, "phi")]
    cells.append(_fraction(rows, "null"))
    if side == "A":
        cells += [Missing(_PARAMETERS), Missing(_PARAMETERS), Missing()]
    else:
        cells.append(shown(math.degrees(_median(rows, "angle"))))
        cells += [_fraction(rows, name) for name in ("cosine", "null_cosine")]
    return (*cells, _count(rows, "resolved_a"), _count(rows, "resolved_b"))


def _amplification(reports: Reports) -> LatexTable:
    rows: list[tuple[Cell, ...]] = []
    groups = []
    for name, report in reports.items():
        for run, step, kind, part in _by_update_and_kind(in_directions(report.amplification)):
            own = [(name, run, step, kind, *_amplified(at)) for _, at in part.groupby("r", sort=True)]
            rows += own
            groups.append(len(own))
    heads = [Column("comparison"), Column("run"), Column("step", "number"), Column("kind"), Column("$n$", "number")]
    heads += [Column("$r$", "number"), Column(f"${_UPDATE}$", "number")]
    heads += [Column(f"${_HELD}$, {of}", "number") for of in (r"$\Delta W$", "$W$", "random")]
    heads.append(Column("amplification", "number"))
    caption = (
        rf"Amplification ${_UPDATE} / {_HELD}$, with $U$ and $V$ the first $r$ singular vectors of the update, medians"
        r" over the $n$ modules of a kind that have so many; beside it what the weight holds in its own first $r$"
        r" directions, the most that any can, and the root mean square over random ones, $\lVert W \rVert_F\, r /"
        r" \sqrt{mn}$. Factors of different $r$ do not compare."
    )
    return LatexTable("subspace-amplification", caption, tuple(heads), tuple(rows), groups=tuple(groups), long=True)


def _amplified(rows: pd.DataFrame) -> tuple[Cell, ...]:
    cells: list[Cell] = [Shown(str(len(rows))), _count(rows, "r")]
    names = ("update_norm", "projected_norm", "own_projected_norm", "random_projected_norm")
    cells += [shown(_median(rows, name)) for name in names]
    factor = _median(rows, "amplification")
    return (*cells, Missing(_FLAT) if math.isnan(factor) else shown(factor))


def _intruders(reports: Reports) -> LatexTable:
    rows: list[tuple[Cell, ...]] = []
    groups = []
    for name, report in reports.items():
        for run, step, kind, part in _by_update_and_kind(at_epsilon(report.intruders, STATED_EPSILON)):
            own = [
                (name, run, step, kind, str(side), *_intruding(at))
                for (side, _), at in part.groupby(["side", "k"], sort=True)
            ]
            rows += own
            groups.append(len(own))
    heads = [Column("comparison"), Column("run"), Column("step", "number"), Column("kind"), Column("side")]
    heads += [Column("$n$", "number"), Column("$k$", "number"), Column(r"$\epsilon$", "number")]
    heads += [Column("intruders", "number"), _NULL, Column("outside the span", "number"), _NULL]
    heads.append(Column(rf"${_UPDATE} / \lVert W \rVert_F$", "number"))
    caption = (
        r"Intruder dimensions: singular vectors among the first $k$ of $W + \Delta W$ whose cosine with every one of"
        r" $W$ is below $\epsilon$ in modulus, summed over the $n$ modules of a kind, of $nk$ that were looked at; and"
        r" those of which the span of the first $2k$ of $W$ holds less than $\epsilon$. The last column is a median."
    )
    note = r"$\circ$: the same of $W$ and white noise of the norm of $\Delta W$."
    return LatexTable(
        "subspace-intruders", caption, tuple(heads), tuple(rows), (note,), tuple(groups), long=True
    )  # fmt: skip


def _intruding(rows: pd.DataFrame) -> tuple[Cell, ...]:
    cells: list[Cell] = [Shown(str(len(rows))), _count(rows, "k"), Shown(setting(rows["epsilon"].iloc[0]))]
    for name, null in (("intruders", "null"), ("projected", "null_projected")):
        expected = rows[null].astype("float64").sum(skipna=False)
        cells.append(Shown(str(int(rows[name].sum()))))
        cells.append(Missing("no null was drawn") if pd.isna(expected) else Shown(f"{expected:.12g}"))
    return (*cells, shown(_median(rows, "relative_frobenius")))


def _coverage(reports: Reports) -> LatexTable:
    rows: list[tuple[Cell, ...]] = []
    for name, report in reports.items():
        counts = report.coverage["status"].value_counts()
        failed = int(report.coverage["failed"].fillna(value=False).sum())
        numbers = (len(report.coverage), *(int(counts.get(status, 0)) for status in _STATUS), failed)
        rows.append((name, *(Shown(str(number)) for number in numbers)))
    heads = [Column("comparison"), *(Column(name, "number") for name in ("modules", *_STATUS, "failed"))]
    caption = (
        "Modules of either run of each comparison. Zero: one of the updates is; only: in one run; refused: the two"
        " could not be compared; unread: a tensor that could not be read. A module that failed should have been"
        " compared, in all that the table shows of it."
    )
    return LatexTable("subspace-coverage", caption, tuple(heads), tuple(rows))


def _by_kind_and_side(rows: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for kind in _kinds(rows):
        of_kind = rows[rows["kind"] == kind]
        for side in _SIDES:
            found = of_kind[of_kind["side"] == side]
            if len(found):
                yield kind, side, found


def _by_update_and_kind(rows: pd.DataFrame) -> Iterator[tuple[str, Cell, str, pd.DataFrame]]:
    for (run, _), own in rows.groupby(["run", "step"], sort=False, dropna=False):
        step = own["step"].iloc[0]
        told: Cell = Missing("the checkpoint does not say its step") if pd.isna(step) else Shown(str(int(step)))
        for kind in _kinds(own):
            yield str(run), told, kind, own[own["kind"] == kind]


def _kinds(rows: pd.DataFrame) -> list[str]:
    """In the usual order; one that a newer version knows stands last."""
    found = [str(kind) for kind in rows["kind"].dropna().unique()] if len(rows) else []
    return sorted(found, key=lambda kind: (KINDS.index(kind) if kind in KINDS else len(KINDS), kind))


def _median(rows: pd.DataFrame, name: str) -> float:
    return float(rows[name].astype("float64").median())


def _count(rows: pd.DataFrame, name: str) -> Shown | Missing:
    middle = _median(rows, name)
    return Missing() if math.isnan(middle) else Shown(f"{middle:g}")


def _fraction(rows: pd.DataFrame, name: str) -> Shown | Missing:
    """To three decimals, as it lies between 0 and 1."""
    middle = _median(rows, name)
    return Missing() if math.isnan(middle) else Shown(f"{middle:.3f}")
