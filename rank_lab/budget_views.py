"""A rank budget as figures show it: what is kept for how many parameters, and the ranks of a plan."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.module_grid import on_grid

__all__ = ["BUDGET_METHODS", "CHOSEN", "BudgetView", "PlanView", "budget_view", "plan_view"]

BUDGET_METHODS = ("greedy", "per_layer", "uniform")
"""Ways to allot ranks, as a budget names them."""

CHOSEN = ("parameters", "kept_energy", "relative_error")
"""What is told of a plan that was chosen."""


@dataclass(frozen=True, eq=False)
class BudgetView:
    """Kept energy and relative error against parameters.

    Parameters
    ----------
    about
        Of which run, for the caption.
    table
        A row a method and budget: ``method``, ``parameters``, ``kept_energy``, ``relative_error``, by parameters.
    methods
        In order.
    chosen
        :data:`CHOSEN` of the plan that was chosen, or None.
    """

    about: str
    table: pd.DataFrame
    methods: tuple[str, ...]
    chosen: dict[str, float] | None


@dataclass(frozen=True, eq=False)
class PlanView:
    """Ranks of a plan by layer and kind.

    Parameters
    ----------
    about
        Of which run and step.
    cells
        A row a cell: ``row``, ``column``, ``modules``, ``rank`` (mean over the cell's matrices; missing where no matrix
        has one), ``low``, ``high``, ``bound``, ``reason``.
    rows, columns
        In order.
    table
        Of the plan.
    """

    about: str
    cells: pd.DataFrame
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    table: pd.DataFrame


def budget_view(curve: pd.DataFrame, chosen: Mapping[str, float] | None = None, *, about: str = "") -> BudgetView:
    """What a budget's curve shows.

    Parameters
    ----------
    curve
        Rows ``method``, ``parameters``, ``kept_energy``, ``relative_error``.
    chosen
        Of the plan that was chosen: ``parameters``, ``kept_energy``, ``relative_error``; None for none.
    about
        Of which run and step, for the caption.

    Raises
    ------
    RankLabError
        If the curve is empty.
    """
    known = curve[curve["parameters"].notna() & curve["kept_energy"].notna()]
    if known.empty:
        raise RankLabError(
            "the curve of the budget has no point; plan ranks of a report whose updates are not all zero."
        )
    present = [str(each) for each in known["method"].unique()]
    methods = [each for each in BUDGET_METHODS if each in present]
    methods += [each for each in present if each not in BUDGET_METHODS]
    table = known.sort_values(["method", "parameters"], kind="stable").reset_index(drop=True)
    marked = None if chosen is None else {name: float(chosen[name]) for name in CHOSEN}
    return BudgetView(about, table, tuple(methods), marked)


def plan_view(plan: pd.DataFrame) -> PlanView:
    """Ranks of a plan as a map.

    Parameters
    ----------
    plan
        A row a matrix: ``run``, ``step``, ``module``, ``layer``, ``kind``, ``rank_bound``, ``rank``, ``reason``.

    Raises
    ------
    RankLabError
        If the plan is empty, or of several runs or steps.
    """
    if plan.empty:
        raise RankLabError("the plan has no matrix; plan ranks of a report with updates.")
    if len(plan[["run", "step"]].drop_duplicates()) > 1:
        raise RankLabError("the plan is of several runs or steps; a map shows one: choose it.")
    placed, (rows, columns) = on_grid(plan)
    return PlanView(_about(plan), _cells(placed), rows, columns, plan)


def _cells(placed: pd.DataFrame) -> pd.DataFrame:
    """A row a place, in the order of their first matrices."""
    numbers = placed.assign(**{name: placed[name].astype("float64") for name in ("rank", "rank_bound")})
    groups = numbers.groupby(["row", "column"], sort=False)
    modules: dict[tuple[str, str], list[str]] = {}
    reasons: dict[tuple[str, str], dict[str, None]] = {}
    said = placed["reason"].fillna("")
    for row, column, module, reason in zip(placed["row"], placed["column"], placed["module"], said, strict=True):
        modules.setdefault((row, column), []).append(str(module))
        reasons.setdefault((row, column), {}).update({str(reason): None} if reason else {})
    return pd.DataFrame(
        {
            "modules": [tuple(names) for names in modules.values()],
            "rank": groups["rank"].mean(), "low": groups["rank"].min(), "high": groups["rank"].max(),
            "bound": groups["rank_bound"].mean(), "reason": ["; ".join(texts) for texts in reasons.values()],
        }
    ).reset_index()  # fmt: skip


def _about(plan: pd.DataFrame) -> str:
    first = plan.iloc[0]
    return f"run {first['run']}" + ("" if pd.isna(first["step"]) else f", step {int(first['step'])}")
