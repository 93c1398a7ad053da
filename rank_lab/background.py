"""Published values as points behind one's own: never joined to them, and only behind axes of the same quantities."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.published import MARKS, SETTING
from rank_lab.score_origin import direction
from rank_lab.scores import nearest

__all__ = ["Background", "Quantity", "published_points", "trade_off_background"]

Quantity: TypeAlias = str | tuple[str, str]
"""What an axis shows of published values: a number of a setting (``"parameters"``, ``"rank"``), or task and metric."""

_OF_SETTINGS = ("rank", "bottleneck", "parameters", "parameters_percent", "amount")
_OF_UNIT = {"fraction": 1.0, "percent": 0.01}


@dataclass(frozen=True, eq=False)
class Background:
    """Points that others measured.

    Parameters
    ----------
    x, y
        What they are values of, as the figure calls what its axes show: of a trade-off the target and the measure of
        forgetting, of ranks along training ``"step"`` and the metric.
    points
        A row a point: ``x`` and ``y`` in the units of the axes, ``source`` (arXiv id), ``table``, ``model``,
        ``method``, ``name`` (setting in words) and ``mark``.

    Raises
    ------
    RankLabError
        If there is no point.
    """

    x: str
    y: str
    points: pd.DataFrame

    def __post_init__(self) -> None:
        """Refuse a background that is empty."""
        if self.points.empty:
            raise RankLabError(f"background of {self.y} over {self.x}: has no points.")

    @property
    def methods(self) -> list[str]:
        """Each once, in the order of the points."""
        return [str(method) for method in dict.fromkeys(self.points["method"])]

    def behind(self, x: str, y: str) -> "Background":
        """Itself, if that is what it is a background of.

        Parameters
        ----------
        x, y
            What the axes show.

        Raises
        ------
        RankLabError
            If it is of other quantities.
        """
        if (self.x, self.y) != (x, y):
            raise RankLabError(
                f"background of {self.y} over {self.x}: cannot stand behind {y} over {x}; make one of these."
            )
        return self


def published_points(values: pd.DataFrame, x: Quantity, y: Quantity) -> pd.DataFrame:
    """Settings of which two quantities were published, as points.

    Parameters
    ----------
    values
        From :func:`rank_lab.published.published_values`, or a part of it. Bounds (``<``, ``>``) are no points.
    x, y
        What is wanted of each.

    Returns
    -------
    pandas.DataFrame
        A row a setting: ``x``, ``y``, ``x_unit``, ``y_unit``, the columns of
        :data:`rank_lab.published.SETTING`, ``table`` (all it is from), ``name`` and ``mark`` (the least sure).

    Raises
    ------
    RankLabError
        If a quantity is not there, no setting has both, or one quantity comes in two units.

    Examples
    --------
    >>> from rank_lab.published import published_values
    >>> points = published_points(published_values(), ("humaneval", "pass@1"), ("source average", "accuracy"))
    >>> best = points.loc[points["x"].idxmax()]
    >>> best["name"], float(best["x"]), float(best["y"]), best["table"]
    ('rank 256, code IFT, 4 epochs', 0.498, 0.631, 'Table S5, Table S6')
    """
    known = values[values["relation"] == "="]
    parts = [_part(known, quantity, name) for quantity, name in ((x, "x"), (y, "y"))]
    both = parts[0].merge(parts[1], on=list(SETTING), suffixes=("_x", "_y"))
    if both.empty:
        raise RankLabError(f"no setting has both {_words(x)} and {_words(y)} among {len(values)} published values.")
    for name, quantity in (("x", x), ("y", y)):
        units = sorted(set(both[f"{name}_unit"]))
        if len(units) > 1:
            raise RankLabError(f"{_words(quantity)}: published in {' and '.join(units)}; choose the values of one.")
    least = list(MARKS)
    pairs = zip(both["mark_x"], both["mark_y"], strict=True)
    both["mark"] = [max(pair, key=least.index) for pair in pairs]
    tables = zip(both["table_x"], both["table_y"], strict=True)
    both["table"] = [", ".join(dict.fromkeys(filter(None, pair))) for pair in tables]
    both["name"] = [_name(row) for row in both[list(SETTING)].to_dict("records")]
    return both[["x", "y", "x_unit", "y_unit", *SETTING, "table", "name", "mark"]]


def trade_off_background(
    values: pd.DataFrame,
    learning: tuple[str, str],
    forgetting: tuple[str, str],
    base: tuple[float, float],
    axes: tuple[str, str],
) -> Background:
    r"""Published scores as learning and forgetting: :math:`s - s_0` of one, :math:`s_0 - s` of the other.

    Parameters
    ----------
    values
        From :func:`rank_lab.published.published_values`, or a part of it: of one base.
    learning, forgetting
        Task and metric of each; larger values must be better ones, in fractions or percent.
    base
        Both scores of the model that they all were made from, as fractions: the papers' tables seldom have them.
    axes
        Target and measure of the figure that these points are for, as it names them.

    Raises
    ------
    RankLabError
        If a metric has no known direction, a unit is no share, or the values are of several models.

    Examples
    --------
    >>> from rank_lab.published import published_values
    >>> found = trade_off_background(
    ...     published_values(), ("gsm8k", "exact_match"), ("source average", "accuracy"), (0.15, 0.65),
    ...     ("gsm8k exact_match 5-shot", "forgetting"))
    >>> found.points[["x", "y"]].max().round(3).tolist()
    [0.492, 0.091]
    """
    for _, metric in (learning, forgetting):
        if direction(metric) is not True:
            raise RankLabError(f"metric {metric!r}: expected one of which a larger value is better, such as accuracy.")
    points = published_points(values, learning, forgetting)
    models = sorted(set(points["model"]))
    if len(models) > 1:
        raise RankLabError(f"values of {', '.join(models)}: have no base in common; choose those of one model.")
    for name in ("x", "y"):
        unit = points[f"{name}_unit"].iloc[0]
        if unit not in _OF_UNIT:
            raise RankLabError(f"values in {unit}: expected fractions or percent.")
        points[name] *= _OF_UNIT[unit]
    points["x"], points["y"] = points["x"] - base[0], base[1] - points["y"]
    return Background(*axes, points.reset_index(drop=True))


def _part(values: pd.DataFrame, quantity: Quantity, name: str) -> pd.DataFrame:
    """Setting, value, unit, table and mark of one quantity."""
    if isinstance(quantity, str):
        if quantity not in _OF_SETTINGS:
            raise RankLabError(f"{quantity!r}: no number of a setting. Nearest: {nearest(quantity, _OF_SETTINGS)}.")
        own = values[values[quantity].notna()].drop_duplicates(list(SETTING))
        unit = own["amount_unit"] if quantity == "amount" else quantity
        return own[list(SETTING)].assign(**{name: own[quantity], f"{name}_unit": unit, "table": "", "mark": "S"})
    task, metric = quantity
    own = values[(values["task"] == task) & (values["metric"] == metric)]
    if own.empty:
        known = sorted(set(values["task"] + " " + values["metric"]))
        raise RankLabError(
            f"{task} {metric}: not among the published values. Nearest: {nearest(_words(quantity), known)}."
        )
    return own[[*SETTING, "table", "mark"]].assign(**{name: own["value"], f"{name}_unit": own["unit"]})


def _words(quantity: Quantity) -> str:
    return quantity if isinstance(quantity, str) else " ".join(quantity)


def _name(row: Mapping[Any, Any]) -> str:
    """A setting in words, without its method."""
    parts = [f"{name} {row[name]:g}" for name in ("rank", "bottleneck") if pd.notna(row[name])]
    if pd.notna(row["parameters_percent"]):
        parts.append(f"{row['parameters_percent']:g} % of the parameters")
    parts.append(str(row["training"]))
    if pd.notna(row["amount"]):
        parts.append(f"{row['amount']:g} {row['amount_unit']}")
    return ", ".join(filter(None, parts))
