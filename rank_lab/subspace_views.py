"""Tables of a comparison of subspaces as figures show them: of one pair of runs, module and side."""

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.module_grid import on_grid
from rank_lab.scores import nearest

__all__ = [
    "AmplificationView", "AnglesView", "IntruderView", "Pair", "PhiView",
    "amplification_view", "angles_view", "intruder_view", "phi_view",
]  # fmt: skip

_PAIR = ["run", "step", "other_run", "other_step"]
_AGAIN = "compare with 'rank-lab subspace' again."


@dataclass(frozen=True)
class Pair:
    """What was compared.

    Parameters
    ----------
    run, step
        The first; its step is None where it is not known.
    other_run, other_step
        The second; empty and None where an update was compared with its own weight.
    """

    run: str
    step: int | None
    other_run: str = ""
    other_step: int | None = None

    @property
    def words(self) -> str:
        """Of a caption.

        Examples
        --------
        >>> Pair("a", 10, "b", None).words, Pair("a", None).words
        ('run a, step 10, and run b', 'run a')
        """
        first, other = (
            f"run {run}" + ("" if step is None else f", step {step}")
            for run, step in ((self.run, self.step), (self.other_run, self.other_step))
        )
        return f"{first}, and {other}" if self.other_run else first


@dataclass(frozen=True, eq=False)
class PhiView:
    """Similarity of all leading spans of two updates of one module.

    Parameters
    ----------
    pair, module, side
        Of what.
    phi, null
        Shape (i, j): of the spans of the first i and j directions; NaN where the table has none.
    resolved
        How many directions of the first and the second stand above rounding; None where that is not known.
    table
        The rows that were used.
    """

    pair: Pair
    module: str
    side: str
    phi: npt.NDArray[np.float64]
    null: npt.NDArray[np.float64]
    resolved: tuple[int | None, int | None]
    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class AnglesView:
    """Principal angles of several modules.

    Parameters
    ----------
    pair, side
        Of what.
    modules
        In order.
    table
        Rows of them, by module and index, with ``null_angle``: that of the null's mean cosine.
    """

    pair: Pair
    side: str
    modules: tuple[str, ...]
    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class IntruderView:
    """Intruder dimensions of all modules for one definition.

    Parameters
    ----------
    pair, side, k, epsilon
        Of what.
    cells
        A row a cell of the map: ``row``, ``column``, ``modules``, ``intruders``, ``null``, ``projected`` (sums over the
        cell's matrices), ``looked_at`` (how many directions that are of).
    rows, columns
        In order.
    table
        The rows that were used.
    """

    pair: Pair
    side: str
    k: int
    epsilon: float
    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class AmplificationView:
    """Amplification of all modules for one number of directions.

    Parameters
    ----------
    pair, r
        Of what.
    table
        A row a module with ``row`` and ``column`` of a map, in their order; ``random_amplification`` and
        ``own_amplification`` are what as many random directions, and the weight's own leading ones, would give.
    rows, columns
        In order.
    """

    pair: Pair
    r: int
    table: pd.DataFrame
    rows: tuple[str, ...]
    columns: tuple[str, ...]


def phi_view(table: pd.DataFrame, module: str | None = None, *, side: str = "left") -> PhiView:
    """Similarity of one module.

    Parameters
    ----------
    table
        ``phi`` of one comparison.
    module
        None for the first.
    side
        ``left``, ``right`` or ``A``.

    Raises
    ------
    RankLabError
        If there is no such row, or rows are of several pairs of runs.
    """
    own, pair = _side(table, side, "phi")
    module = _chosen(own["module"], "module", module)
    own = own[own["module"] == module]
    shape = (int(own["i"].max()), int(own["j"].max()))
    grids = []
    for name in ("phi", "null"):
        grid = np.full(shape, np.nan)
        grid[own["i"].astype(int) - 1, own["j"].astype(int) - 1] = own[name].astype("float64")
        grids.append(grid)
    return PhiView(pair, module, side, grids[0], grids[1], (_most(own, "resolved_a"), _most(own, "resolved_b")), own)


def angles_view(table: pd.DataFrame, modules: tuple[str, ...] = (), *, side: str = "left") -> AnglesView:
    """Principal angles of some modules.

    Parameters
    ----------
    table
        ``angles`` of one comparison.
    modules
        None given: all.
    side
        ``left`` or ``right``.

    Raises
    ------
    RankLabError
        If there is no such row, or rows are of several pairs of runs.
    """
    own, pair = _side(table, side, "angles")
    chosen = tuple(_chosen(own["module"], "module", each) for each in modules) or tuple(
        str(each) for each in own["module"].unique()
    )
    own = own[own["module"].isin(chosen)].sort_values(["module", "index"], kind="stable")
    null_angle = np.arccos(own["null_cosine"].astype("float64").clip(-1.0, 1.0))
    return AnglesView(pair, side, chosen, own.assign(null_angle=null_angle).reset_index(drop=True))


def intruder_view(
    table: pd.DataFrame,
    *,
    run: str | None = None,
    side: str = "left",
    k: int | None = None,
    epsilon: float | None = None,
) -> IntruderView:
    """Intruders of all modules by layer and kind.

    Parameters
    ----------
    table
        ``intruders`` of a comparison.
    run
        Which of its runs; None where it is of one.
    side
        ``left`` or ``right``.
    k
        How many leading directions were looked at, of small matrices as many as they have; None for the most.
    epsilon
        The threshold; None for the one nearest 0.5.

    Raises
    ------
    RankLabError
        If there is no such row, or rows are of several runs.
    """
    own, pair = _side(_of_run(table, run), side, "intruders")
    thresholds = sorted(float(each) for each in own["epsilon"].unique())
    epsilon = min(thresholds, key=lambda each: abs(each - 0.5)) if epsilon is None else epsilon
    if not np.isclose(thresholds, epsilon).any():
        raise RankLabError(f"no intruders at epsilon {epsilon:g}; the table has {_listed(thresholds)}.")
    own = own[np.isclose(own["epsilon"].astype("float64"), epsilon)]
    sizes = sorted(int(each) for each in own["k"].unique())
    if k is not None and k not in sizes:
        raise RankLabError(f"no intruders among the first {k}; the table has {_listed(sizes)}.")
    own = _largest(own if k is None else own[own["k"] <= k])
    most = int(own["k"].max())
    placed, (rows, columns) = on_grid(own)
    cells = [_intruder_cell(key, group) for key, group in placed.groupby(["row", "column"], sort=False)]
    return IntruderView(pair, side, most, float(epsilon), pd.DataFrame(cells), rows, columns, own)


def amplification_view(table: pd.DataFrame, *, run: str | None = None, r: int | None = None) -> AmplificationView:
    """Amplification of all modules.

    Parameters
    ----------
    table
        ``amplification`` of a comparison.
    run
        Which of its runs; None where it is of one.
    r
        How many directions; None for the most.

    Raises
    ------
    RankLabError
        If there is no such row, or rows are of several runs.
    """
    table = _of_run(table, run)
    pair = _pair(table, "amplification")
    sizes = sorted(int(each) for each in table["r"].unique())
    chosen = sizes[-1] if r is None else r
    if chosen not in sizes:
        raise RankLabError(f"no amplification of {chosen} directions; the table has {_listed(sizes)}.")
    placed, (rows, columns) = on_grid(table[table["r"] == chosen])
    for name in ("random", "own"):
        norm = placed[f"{name}_projected_norm"].astype("float64")
        placed[f"{name}_amplification"] = placed["update_norm"].astype("float64") / norm.where(norm > 0)
    order = placed.assign(at=placed["row"].map(rows.index), across=placed["column"].map(columns.index))
    own = order.sort_values(["at", "across", "module"], kind="stable").drop(columns=["at", "across"])
    return AmplificationView(pair, chosen, own.reset_index(drop=True), rows, columns)


def _side(table: pd.DataFrame, side: str, name: str) -> tuple[pd.DataFrame, Pair]:
    pair = _pair(table, name)
    sides = [str(each) for each in table["side"].unique()]
    if side not in sides:
        raise RankLabError(f"{name}: no side {side!r}; the table has {', '.join(sides)}.")
    return table[table["side"] == side], pair


def _of_run(table: pd.DataFrame, run: str | None) -> pd.DataFrame:
    return table if run is None or table.empty else table[table["run"] == _chosen(table["run"], "run", run)]


def _pair(table: pd.DataFrame, name: str) -> Pair:
    if table.empty:
        raise RankLabError(f"{name}: the comparison has no row; its coverage says why. Once that is mended {_AGAIN}")
    pairs = table[_PAIR].drop_duplicates()
    if len(pairs) > 1:
        runs = ", ".join(dict.fromkeys(str(each) for each in pairs["run"]))
        raise RankLabError(f"{name}: rows of {len(pairs)} pairs of runs ({runs}); a figure shows one: choose it.")
    run, step, other, other_step = pairs.iloc[0]
    return Pair(str(run), _whole(step), "" if pd.isna(other) else str(other), _whole(other_step))


def _whole(value: object) -> int | None:
    return None if pd.isna(value) else int(value)  # type: ignore[call-overload]


def _chosen(column: "pd.Series[str]", what: str, wanted: str | None) -> str:
    known = [str(each) for each in column.unique()]
    if wanted is None:
        return known[0]
    if wanted not in known:
        raise RankLabError(f"no {what} {wanted!r} in this comparison. Nearest: {nearest(wanted, known)}.")
    return wanted


def _most(rows: pd.DataFrame, name: str) -> int | None:
    known = rows[name].dropna() if name in rows.columns else rows["i"].iloc[:0]
    return int(known.max()) if len(known) else None


def _largest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each module its largest k: a small matrix has fewer directions than was asked for."""
    return rows[rows["k"] == rows.groupby("module")["k"].transform("max")]


def _intruder_cell(key: Hashable, group: pd.DataFrame) -> dict[str, object]:
    row, column = key if isinstance(key, tuple) else (key, "")
    sums = {name: group[name].astype("float64").sum(skipna=False) for name in ("intruders", "null", "projected")}
    names = tuple(str(each) for each in group["module"])
    return {"row": row, "column": column, "modules": names, **sums, "looked_at": int(group["k"].sum())}


def _listed(values: list[int] | list[float]) -> str:
    return ", ".join(f"{each:g}" for each in values)
