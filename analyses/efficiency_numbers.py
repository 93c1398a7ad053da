"""Numbers of :mod:`analyses.parameter_efficiency`: chosen rates, means over seeds, and whether one is not worse."""

import pandas as pd

__all__ = ["chosen_rates"]


def chosen_rates(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each task and arm the rate with the best score on the half that chooses; of equal ones the smallest.

    Parameters
    ----------
    rows
        Of all rates with the first seed: ``task``, ``arm``, ``learning_rate``, ``choice_score``.
    """
    known = rows.fillna({"choice_score": float("-inf")})  # a score that is not defined chooses nothing
    ordered = known.sort_values(["choice_score", "learning_rate"], ascending=[False, True], kind="stable")
    best = ordered.groupby(["task", "arm"], sort=False).head(1)
    return best[["task", "arm", "learning_rate"]].reset_index(drop=True)
