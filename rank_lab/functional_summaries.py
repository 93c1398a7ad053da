"""Medians of functional ranks over the places of one kind, each beside its null and its interval."""

import pandas as pd

__all__ = ["SUMMARY_METRIC", "by_kind", "told_once"]

SUMMARY_METRIC = "energy_rank_90"
"""Rank that summaries and tables show unless asked for another."""

_KEY = ["run", "method", "step", "scope", "kind"]
_BOTH = ["run", "step", "scope", "module"]


def by_kind(ranks: pd.DataFrame, changes: pd.DataFrame, metric: str = SUMMARY_METRIC) -> pd.DataFrame:
    """A row per run, step, scope and kind.

    Parameters
    ----------
    ranks, changes
        Of a report, or of several.
    metric
        One of :data:`rank_lab.functional_metrics.FUNCTIONAL_RANKS`.

    Returns
    -------
    pandas.DataFrame
        ``n`` places and medians over them: ``value``, ``low``, ``high`` (of those that have an interval), ``null``,
        ``bound``, ``weight``, ``relative_change``, ``mean_share``, ``linear_share``, ``linear_share_centered``;
        ``open``, how many have no upper end; ``warned``, how many have a warning.
    """
    own = ranks[ranks["metric"] == metric]
    joined = own.merge(changes[[*_BOTH, *_SHARES, "warning"]], on=_BOTH, how="left", validate="one_to_one")
    joined["open"] = joined["open_above"].fillna(value=False).astype("int64")
    joined["warned"] = (joined["warning"].fillna("") != "").astype("int64")
    columns = ["value", "low", "high", "null", "bound", "weight", *_SHARES]
    joined[columns] = joined[columns].astype("float64")
    grouped = joined.groupby(_KEY, sort=False, dropna=False)
    found = grouped[columns].median()
    found.insert(0, "n", grouped.size())
    for name in ("open", "warned"):
        found[name] = grouped[name].sum()
    return found.reset_index()


def told_once(found: pd.DataFrame) -> pd.DataFrame:
    """Without the weighted ranks of modules whose bias did not change: they are those of the module's output.

    Parameters
    ----------
    found
        From :func:`by_kind`.
    """
    key = ["run", "step", "kind", "value", "null"]
    rows = pd.Series(list(found[key].fillna(-1.0).itertuples(index=False, name=None)), index=found.index)
    same = rows.isin(rows[found["scope"] == "module"])
    return found[~(same & (found["scope"] == "weighted"))]


_SHARES = ["relative_change", "mean_share", "linear_share", "linear_share_centered"]
