"""Regular expressions out of files that nobody vouches for: those that may take for ever are refused.

Python's matcher goes back and tries again, which takes exponential time where a
repeated group can split a text in many ways, as ``(a+)+`` does, and a power of
the text's length for repeats that compete for the same characters.
"""

import re

__all__ = ["refuse_slow"]

_MAX_LENGTH = 1000
_MAX_OPEN_REPEATS = 2  # beside the one that PEFT puts in front: the cube of a name's length at worst
_MAX_WAYS = 4096  # to choose between alternatives and leave out what may be left out
_TOKEN = re.compile(
    r"""(?P<escape>\\.)|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])|(?P<open>\((?:\?[:=!<P>\w]*)?)|(?P<close>\))
    |(?P<repeat>[*+][?+]?|\{\d*,?\d*\}[?+]?)|(?P<optional>\?)|(?P<branch>\|)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_DIGITS = frozenset({"\\d", "[0-9]", "[\\d]"})


def refuse_slow(pattern: str) -> None:
    r"""Refuse a pattern whose matching is not bounded by a low power of the text's length.

    Parameters
    ----------
    pattern
        Of module paths, as in PEFT's ``rank_pattern``.

    Raises
    ------
    ValueError
        If it is longer than 1000 characters, repeats a group that itself holds
        a repeat or a choice, refers back to a group, offers more than 4096
        choices, or has more than two repeats beside numbers between dots.

    Examples
    --------
    >>> refuse_slow(r"model\.layers\.\d+\.(q|k)_proj")
    >>> refuse_slow("(a+)+$")
    Traceback (most recent call last):
    ValueError: pattern '(a+)+$' repeats a group that holds a repeat or a choice; write module names
    """
    if len(pattern) > _MAX_LENGTH:
        raise ValueError(f"pattern {pattern[:40]!r} ... of {len(pattern)} characters; write module names")
    if re.search(r"\\[1-9]|\(\?P=|\(\?\(", pattern):
        raise ValueError(f"pattern {pattern!r} refers back to a group; write module names")
    if _repeats_a_choice(pattern):
        raise ValueError(f"pattern {pattern!r} repeats a group that holds a repeat or a choice; write module names")
    if _open_repeats(pattern) > _MAX_OPEN_REPEATS or _ways(pattern) > _MAX_WAYS:
        raise ValueError(
            f"pattern {pattern!r} has too many repeats or choices to be matched in time; write module names"
        )


def _repeats_a_choice(pattern: str) -> bool:
    """Whether a group with a repeat or a choice inside is itself repeated."""
    groups, closed = [False], False  # of each open group: whether it holds one; and whether one that does just ended
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        if kind == "repeat" and closed:
            return True
        closed = False
        if kind == "open":
            groups.append(False)
        elif kind == "close" and len(groups) > 1:
            closed = groups.pop()
            groups[-1] = groups[-1] or closed
        elif kind in ("repeat", "optional", "branch"):
            groups[-1] = True
    return False


def _open_repeats(pattern: str) -> int:
    """Repeats that may end in several places: all but exact counts and numbers that a full stop ends."""
    tokens = list(_TOKEN.finditer(pattern))
    texts = ["", *(token.group() for token in tokens), ""]
    return sum(
        token.lastgroup == "repeat"
        and not re.fullmatch(r"\{\d+\}\??", token.group())
        and not (texts[place] in _DIGITS and texts[place + 2] == r"\.")
        for place, token in enumerate(tokens)
    )


def _ways(pattern: str) -> int:
    """How often, at most, choices that follow each other multiply."""
    ways, branches = 1, [1]
    for token in _TOKEN.finditer(pattern):
        kind = token.lastgroup
        if kind == "open":
            branches.append(1)
        elif kind == "close" and len(branches) > 1:
            ways *= branches.pop()
        elif kind == "optional":
            ways *= 2
        elif kind == "branch":
            branches[-1] += 1
    return ways * branches[0]
