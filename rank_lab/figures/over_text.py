"""What a figure says about what its quantity is divided by, and of values that are not there."""

from collections.abc import Mapping

__all__ = ["DIVIDED", "counted", "counted_states"]

DIVIDED = {
    "": "",
    "bound": ", divided by the largest rank that shape and factors allow",
    "null": ", divided by what white noise of that shape (of factors: random factors) shows",
}
"""By what :data:`rank_lab.shown_values.OVER` says."""

_WORDS = {
    "zero": "without any change",
    "unresolved": "hidden by the rounding of the files",
    "missing": "without a value, as it does not apply or was not measured",
}


def counted(number: int, one: str, many: str) -> str:
    """A number with its noun.

    Examples
    --------
    >>> counted(1, "matrix", "matrices"), counted(0, "matrix", "matrices")
    ('1 matrix', '0 matrices')
    """
    return f"{number} {one if number == 1 else many}"


def counted_states(counts: Mapping[str, int], one: str = "matrix", many: str = "matrices") -> list[str]:
    """Sentences on the values that are not plain numbers; none where there are none.

    Parameters
    ----------
    counts
        State (``zero``, ``unresolved``, ``missing``) to how many there are.
    one, many
        What is counted.

    Examples
    --------
    >>> counted_states({"zero": 0, "unresolved": 3})
    ['3 matrices hidden by the rounding of the files']
    """
    return [f"{counted(counts[state], one, many)} {words}" for state, words in _WORDS.items() if counts.get(state)]
