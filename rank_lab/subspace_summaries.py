"""A comparison's rows as tables show them: one similarity a module, ratios to other directions, one threshold."""

import numpy as np
import pandas as pd

from rank_lab.subspace_report import SubspaceReport

__all__ = ["STATED_EPSILON", "at_epsilon", "in_directions", "similarity"]

STATED_EPSILON = 0.5
"""Largest cosine of an intruder where a table has room for one threshold: the middle of those that are swept."""


def similarity(report: SubspaceReport) -> pd.DataFrame:
    """One row per module and side: φ of as many directions as are resolved in both, and the smallest angle.

    Parameters
    ----------
    report
        Any.

    Returns
    -------
    pandas.DataFrame
        ``k``, how many directions, at least one; ``phi`` and ``null`` of that many; ``angle``, ``cosine`` and
        ``null_cosine`` of the smallest principal angle of all directions that were compared, missing for the side A.
    """
    phi, angles = report.phi, report.angles
    if not len(phi):
        return pd.DataFrame()
    k = phi[["resolved_a", "resolved_b"]].min(axis=1).clip(lower=1)
    at = phi[(phi["i"] == phi["j"]) & (phi["i"] <= k)]
    last = at.loc[at.groupby(["module", "side"], sort=False)["i"].idxmax()]
    smallest = angles.loc[angles["index"] == 1, ["module", "side", "angle", "cosine", "null_cosine", "k_a", "k_b"]]
    columns = ["module", "layer", "kind", "side", "i", "phi", "null", "resolved_a", "resolved_b"]
    return last[columns].rename(columns={"i": "k"}).merge(smallest, on=["module", "side"], how="left")


def in_directions(amplification: pd.DataFrame) -> pd.DataFrame:
    """The table with what the weight holds in other directions, over what it holds in those of the update.

    Parameters
    ----------
    amplification
        Of a report.

    Returns
    -------
    pandas.DataFrame
        With ``own``, of the weight's own leading directions, and ``random``.
    """
    held = amplification["projected_norm"].astype("float64")
    over = {
        name: amplification[f"{name}_projected_norm"].astype("float64") / held.where(held > 0)
        for name in ("own", "random")
    }
    return amplification.assign(**over)


def at_epsilon(intruders: pd.DataFrame, epsilon: float) -> pd.DataFrame:
    """Rows of one threshold, the nearest that there is.

    Parameters
    ----------
    intruders
        Of a report.
    epsilon
        Wanted.

    Examples
    --------
    >>> at_epsilon(pd.DataFrame({"epsilon": [0.4, 0.6, 0.9]}), 0.85)["epsilon"].tolist()
    [0.9]
    """
    known = intruders["epsilon"].astype("float64")
    if known.empty:
        return intruders
    nearest = float(known.iloc[int((known - epsilon).abs().to_numpy().argmin())])
    return intruders[np.isclose(known, nearest)]
