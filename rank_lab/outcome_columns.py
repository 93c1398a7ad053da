"""Columns of the tables of outcomes: what kind of value each of them holds."""

import pandas as pd

__all__ = ["typed"]

_WHOLE = frozenset({"step", "seed", "seeds", "runs", "trainable_parameters", "parameters", "matrices"})
_FLAGS = frozenset({"on_front", "best_learning_rate"})
_TEXTS = frozenset(
    ("run", "method", "methods", "optimizer", "setting", "target", "measure", "rank", "level", "item", "kind")
) | {"reason", "score", "note"}


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The table with whole numbers that may be missing, flags, texts and else real numbers as such.

    Parameters
    ----------
    frame
        Of outcomes; columns of any type.

    Examples
    --------
    >>> typed(pd.DataFrame({"run": ["a"], "step": [None], "learning": [None]})).dtypes.astype(str).tolist()
    ['string', 'Int64', 'float64']
    """
    return frame.astype({str(name): _type(str(name)) for name in frame.columns})


def _type(name: str) -> str:
    if name in _WHOLE or name.endswith("_matrices"):
        return "Int64"
    if name in _FLAGS:
        return "boolean"
    return "string" if name in _TEXTS or name.endswith(("_how", "_reason", "_tasks")) else "float64"
