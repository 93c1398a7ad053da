"""One quantity along training: each matrix by itself, or the middle of many with their quartiles."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import pandas as pd

from rank_lab.background import Background
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.names import KINDS
from rank_lab.shown_values import STATES, Over, shown_values

__all__ = ["LINES", "LinesBy", "TrainingTable", "training_table"]

LinesBy: TypeAlias = Literal["run", "kind", "module"]
LINES: tuple[LinesBy, ...] = ("run", "kind", "module")
"""What one line of a plot over training stands for."""

_KEY = ["run", "line", "step"]


@dataclass(frozen=True, eq=False)
class TrainingTable:
    """One quantity over optimizer steps.

    Parameters
    ----------
    runs
        Names of the runs.
    delta, metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    by
        What a line stands for.
    points
        A row a line and step: ``line``, ``run``, ``step``, ``matrices``, ``known`` (how many of them have a value),
        ``value`` (of one matrix its own, of several the median of the known), ``lower`` and ``upper`` quartile (of
        several), ``low`` and ``high`` (95 % interval, of one matrix where it was measured), ``null`` (median),
        the counts ``zero``, ``unresolved`` and ``missing``, and ``noise_regime`` (``exact 3, partial 1``).
    lines
        Names of the lines in the order in which they are shown.
    without_step
        Matrices of reports that do not say at which step they are, and have no place here.
    background
        Published points of this metric over ``"step"``, where there are any.
    """

    runs: tuple[str, ...]
    delta: str
    metric: str
    over: Over
    by: LinesBy
    points: pd.DataFrame
    lines: tuple[str, ...]
    without_step: int
    background: Background | None = None


def training_table(
    updates: pd.DataFrame,
    metric: str,
    *,
    over: Over = "",
    delta: str = "cumulative",
    by: LinesBy = "run",
    background: Background | None = None,
) -> TrainingTable:
    """One quantity at every step, a line a run, a kind of module, or a matrix.

    Parameters
    ----------
    updates
        Rows of one or more runs.
    metric, over
        See :func:`rank_lab.shown_values.shown_values`.
    delta
        ``cumulative``: since the base; ``step``: since the checkpoint before.
    by
        What a line stands for; where the rows are of several runs, each run has lines of its own.
    background
        Published points, ``x`` being ``"step"`` and ``y`` the metric (with ``over``: ``"METRIC over OVER"``).

    Raises
    ------
    RankLabError
        If there are no such rows, none of them says its step, ``by`` is not known, or the background is of another
        quantity.
    SchemaError
        If a matrix is there twice.
    """
    if by not in LINES:
        raise RankLabError(f"lines by {by!r}; expected one of 'run', 'kind', 'module'.")
    behind = None if background is None else background.behind("step", f"{metric} over {over}" if over else metric)
    own = updates[updates["delta"] == delta]
    stepped = own[own["step"].notna()]
    if stepped.empty:
        why = "none with a step: they are of single checkpoints" if len(own) else f"none with delta {delta!r}"
        raise RankLabError(f"no matrices over training ({why}); analyze a folder of checkpoints.")
    twice = stepped[stepped.duplicated(["run", "step", "module"])]
    if len(twice):
        first = twice.iloc[0]
        raise SchemaError(f"run {first['run']!r} at step {first['step']} is in two reports; rename one (--name).")
    values = pd.concat(
        [stepped[["run", "step", "module", "kind", "noise_regime"]], shown_values(stepped, metric, over)], axis=1
    )
    values["line"] = _lines(values, by)
    points = _points(values)
    kinds = values.drop_duplicates("line").set_index("line")["kind"]
    lines = sorted(kinds.index, key=lambda line: KINDS.index(str(kinds[line]))) if by == "kind" else list(kinds.index)
    points = points.sort_values(
        ["line", "step"], key=lambda column: column.map(lines.index) if column.name == "line" else column
    )
    return TrainingTable(
        tuple(map(str, dict.fromkeys(values["run"]))), delta, metric, over, by, points.reset_index(drop=True),
        tuple(map(str, lines)), len(own) - len(stepped), behind,
    )  # fmt: skip


def _lines(values: pd.DataFrame, by: LinesBy) -> "pd.Series[str]":
    names = values[by].astype(str)
    several = by != "run" and values["run"].nunique() > 1
    return values["run"].astype(str) + ": " + names if several else names


def _points(values: pd.DataFrame) -> pd.DataFrame:
    """A row a line and step."""
    groups = values.groupby(_KEY, sort=False)
    known = groups["value"]
    found = pd.DataFrame(
        {
            "matrices": groups.size(), "known": known.count(), "value": known.median(),
            "lower": known.quantile(0.25), "upper": known.quantile(0.75),
            "low": groups["low"].first(), "high": groups["high"].first(), "null": groups["null"].median(),
        }
    )  # fmt: skip
    many = found["matrices"] > 1
    found[["lower", "upper"]] = found[["lower", "upper"]].where(many)
    found[["low", "high"]] = found[["low", "high"]].where(~many)
    for state in STATES:
        if state != "value":
            found[state] = (values["state"] == state).groupby([values[name] for name in _KEY], sort=False).sum()
    regimes: dict[object, list[str]] = {}
    counts = values.groupby([*_KEY, "noise_regime"]).size().rename("count").reset_index()
    for run, line, step, regime, count in counts.itertuples(index=False):
        regimes.setdefault((run, line, step), []).append(f"{regime} {count}")
    found["noise_regime"] = [", ".join(regimes.get(key, [])) for key in found.index]
    return found.reset_index().astype({"step": "int64"})
