"""What can be chosen of a study's outcomes: targets, measures, runs."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from rank_lab.checkpoint_scores import FORGETTING, MEASURES
from rank_lab.outcomes import Outcomes
from rank_lab.rank_summaries import SUMMARY_RANKS
from rank_lab.trade_offs import TradeOffTables

__all__ = ["forgetting_measures_of", "measures_of", "methods_of", "of_runs", "of_trade_off", "ranks_of", "targets_of"]


def targets_of(outcomes: Outcomes) -> tuple[str, ...]:
    """Targets that some checkpoint was scored on, in the order of the table."""
    return tuple(str(name) for name in outcomes.learning["target"].unique())


def measures_of(outcomes: Outcomes) -> tuple[str, ...]:
    """Measures of how far checkpoints went from their base, of those that were taken; those with a value first."""
    table = outcomes.checkpoints
    taken = [name for name in MEASURES if name in table.columns]
    return tuple(sorted(taken, key=lambda name: bool(table[name].isna().all())))


def forgetting_measures_of(outcomes: Outcomes) -> tuple[str, ...]:
    """Measures of forgetting that were taken."""
    return tuple(name for name in measures_of(outcomes) if name in FORGETTING)


def ranks_of(outcomes: Outcomes) -> tuple[str, ...]:
    """Ranks that may stand beside forgetting, first the one that correlations are of."""
    correlated = set(outcomes.associations["rank"])
    return tuple(sorted(SUMMARY_RANKS, key=lambda name: name not in correlated))


def methods_of(outcomes: Outcomes) -> tuple[str, ...]:
    """What correlations are of: all methods together, and each where there are several."""
    return tuple(str(name) for name in outcomes.associations["methods"].unique())


def of_runs(outcomes: Outcomes, runs: Sequence[str]) -> Outcomes:
    """The rows of some runs; what is said of runs together (areas, groups, correlations) is left as it is.

    Parameters
    ----------
    outcomes
        Of a study.
    runs
        Names.
    """
    points = _rows(outcomes.trade_offs.points, "run", runs)
    return replace(
        outcomes,
        checkpoints=_rows(outcomes.checkpoints, "run", runs),
        kinds=_rows(outcomes.kinds, "run", runs),
        learning=_rows(outcomes.learning, "run", runs),
        trade_offs=replace(outcomes.trade_offs, points=points),
    )


def of_trade_off(tables: TradeOffTables, target: str, measure: str) -> TradeOffTables:
    """The rows of one target and one measure of forgetting.

    Parameters
    ----------
    tables
        Of a study's outcomes.
    target, measure
        Which.
    """
    names = ("points", "areas", "groups", "equal_learning")
    found = {name: _rows(_rows(getattr(tables, name), "target", [target]), "measure", [measure]) for name in names}
    return TradeOffTables(**found)


def _rows(table: pd.DataFrame, column: str, values: Sequence[str]) -> pd.DataFrame:
    return table[table[column].isin(list(values))].reset_index(drop=True)
