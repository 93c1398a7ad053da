"""The points of an Algorithm-1 curve as a figure shows them: of one seed, or of all seeds together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import pandas as pd

from rank_lab.bands import bands
from rank_lab.curve import SORA, Curve
from rank_lab.errors import RankLabError

__all__ = ["CURVE_AXES", "MEASURED", "CurveAxis", "CurvePoints", "curve_points", "points_of_rows"]

CurveAxis: TypeAlias = Literal["nonzero_parameters", "threshold"]
CURVE_AXES: tuple[CurveAxis, ...] = ("nonzero_parameters", "threshold")
"""What a curve may be drawn over."""

MEASURED = ("memorization", "generalization")
"""What is drawn of it."""

_KNEE_AXES = {"nonzero_parameters": "sparsity", "threshold": "threshold"}
_COLUMNS = ["seed", "control", "stage", *CURVE_AXES, *(f"{n}{end}" for n in MEASURED for end in ("", "_low", "_high"))]


@dataclass(frozen=True, eq=False)
class CurvePoints:
    """One curve of memorization and generalization, with its controls.

    Parameters
    ----------
    axis
        What it is drawn over.
    points
        A row a control and stage: ``control`` (``sora``: a stage of the algorithm itself), ``stage``, ``seeds``, the
        axes, :data:`MEASURED` with ``_low`` and ``_high``, ``converged`` (missing where nothing was trained). Several
        seeds are their mean, also of the axes, which then have ends as well.
    of_seeds
        A row a seed, control and stage, as measured.
    knees
        Of the curves that are shown: ``curve``, ``value``, ``low``, ``high`` on this axis (missing where there is no
        knee), ``reason``.
    seed
        None: all seeds together.
    about
        ``model``, ``task``, ``score``, ``reference``, ``train_examples``, ``validation_examples``.
    warnings
        Of the stages shown, in words.
    without_axis
        How many rows have no place on the axis and are left out.
    """

    axis: CurveAxis
    points: pd.DataFrame
    of_seeds: pd.DataFrame
    knees: pd.DataFrame
    seed: int | None
    about: dict[str, Any]
    warnings: tuple[str, ...]
    without_axis: int

    @property
    def seeds(self) -> int:
        """How many are shown together."""
        return int(self.of_seeds["seed"].nunique())


def curve_points(curve: Curve, axis: CurveAxis = "nonzero_parameters", *, seed: int | None = None) -> CurvePoints:
    """What a figure shows of a curve, also of one that is still being written.

    Parameters
    ----------
    curve
        Of a study.
    axis
        One of :data:`CURVE_AXES`. A knee over the share of parameters that is gone is told as the number left.
    seed
        One of its seeds with the intervals over examples; None for all, as mean and Student's interval over seeds where
        there are several.

    Raises
    ------
    RankLabError
        If the curve has no row yet, no such seed, or no place on the axis.
    """
    return points_of_rows(curve.rows, curve.knees, axis, seed=seed, where=str(curve.file))


def points_of_rows(
    rows: pd.DataFrame,
    knees: Sequence[Mapping[str, Any]],
    axis: CurveAxis = "nonzero_parameters",
    *,
    seed: int | None = None,
    where: str = "curve",
) -> CurvePoints:
    """The same of rows that are not in a study's folder, such as those that several studies of one seed each gave.

    Parameters
    ----------
    rows
        With the columns of :class:`rank_lab.curve.CurveRow` that :class:`CurvePoints` names; of one model and task.
    knees
        With the fields of ``knees.json``: of each seed, and of all together where ``seed`` is None.
    axis, seed
        See :func:`curve_points`.
    where
        What an error calls the curve.

    Raises
    ------
    RankLabError
        If there is no row, no such seed, no place on the axis, or more than one model or task.
    """
    if axis not in CURVE_AXES:
        raise RankLabError(f"a curve over {axis!r}; expected one of {', '.join(CURVE_AXES)}.")
    if rows.empty:
        raise RankLabError(f"{where}: no stage is done yet; look again once one is.")
    if len(rows[["model", "task"]].drop_duplicates()) > 1:
        raise RankLabError(f"{where}: rows of several models or tasks; one curve is of one of each.")
    seeds = sorted(int(each) for each in rows["seed"].unique())
    if seed is not None and seed not in seeds:
        raise RankLabError(f"{where}: no row of seed {seed}; it has {', '.join(map(str, seeds))}.")
    chosen = seeds[0] if seed is None and len(seeds) == 1 else seed
    own = rows if chosen is None else rows[rows["seed"] == chosen]
    placed = own[own[axis].notna()]
    if placed.empty:
        raise RankLabError(f"{where}: no stage has a {axis}; draw the curve over nonzero_parameters.")
    first = own.iloc[0]
    names = ("model", "task", "score", "reference", "train_examples", "validation_examples")
    return CurvePoints(
        axis,
        _together(placed) if chosen is None else placed.assign(seeds=1),
        placed[_COLUMNS],
        _knees(knees, own, axis, chosen),
        chosen,
        {name: first[name] for name in names},
        tuple(_warning(row) for row in own[own["warning"] != ""].to_dict("records")),
        len(own) - len(placed),
    )


def _together(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds and their intervals, in wide form."""
    found = bands(rows, [*CURVE_AXES, *MEASURED])
    keys = ["control", "stage"]
    wide = found.pivot(index=keys, columns="quantity", values=["mean", "low", "high"])
    kinds, names = (wide.columns.get_level_values(level).astype(str) for level in (0, 1))
    wide.columns = pd.Index(
        [name if kind == "mean" else f"{name}_{kind}" for kind, name in zip(kinds, names, strict=True)]
    )
    wide = wide.join(rows.groupby(keys)["seed"].nunique().rename("seeds"))
    done = rows.dropna(subset="converged").groupby(keys)["converged"].all()
    return wide.join(done.rename("converged")).reset_index()


def _knees(knees: Sequence[Mapping[str, Any]], rows: pd.DataFrame, axis: CurveAxis, seed: int | None) -> pd.DataFrame:
    dense = rows[rows["control"] == SORA].groupby("seed")["nonzero_parameters"].max()
    found = []
    for knee in knees:
        if knee["seed"] != seed or knee["axis"] != _KNEE_AXES[axis]:
            continue
        value, low, high, reason = (knee[name] for name in ("value", "low", "high", "reason"))
        if axis == "nonzero_parameters" and value is not None:
            value, low, high, reason = _as_parameters(value, low, high, dense)
        found.append({"curve": knee["curve"], "value": value, "low": low, "high": high, "reason": reason})
    frame = pd.DataFrame(found, columns=["curve", "value", "low", "high", "reason"])
    return frame.astype(dict.fromkeys(("value", "low", "high"), "float64"))


def _as_parameters(
    value: float, low: float | None, high: float | None, dense: "pd.Series[int]"
) -> tuple[float | None, float | None, float | None, str]:
    """The share that is gone as the number that is left."""
    if dense.nunique() != 1:
        return None, None, None, f"at {value:.1%} of the parameters gone, of numbers that differ between seeds"
    whole = float(dense.iloc[0])
    left = [None if share is None else (1 - share) * whole for share in (value, high, low)]
    return left[0], left[1], left[2], ""


def _warning(row: dict[Any, Any]) -> str:
    return f"seed {row['seed']}, {row['control']}, stage {row['stage']}: {row['warning']}"
