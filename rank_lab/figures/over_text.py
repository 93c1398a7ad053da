"""What a figure says about what its quantity is divided by, and of values that are not there."""

from collections.abc import Mapping

__all__ = ["DIVIDED", "counted_states"]

DIVIDED = {
    "": "",
    "bound": ", divided by the largest rank that shape and factors allow",
    "null": ", divided by what white noise of that shape (of factors: random factors) shows",
}
"""By what :data:`rank_lab.shown_values.OVER` says."""

_WORDS = {
    "zero": "did not change at all",
    "unresolved": "are hidden by the rounding of the files",
    "missing": "have no value, as it does not apply or was not measured",
}


def counted_states(counts: Mapping[str, int], what: str = "matrices") -> list[str]:
    """Sentences on the values that are not plain numbers; none where there are none.

    Parameters
    ----------
    counts
        State (``zero``, ``unresolved``, ``missing``) to how many there are.
    what
        Is counted, in the plural.

    Examples
    --------
    >>> counted_states({"zero": 0, "unresolved": 3})
    ['3 matrices are hidden by the rounding of the files']
    """
    return [f"{counts[state]} {what} {words}" for state, words in _WORDS.items() if counts.get(state)]
