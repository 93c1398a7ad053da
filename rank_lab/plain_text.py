"""Text from files that nobody vouches for, made safe to print: no control characters, no endless lines."""

import re

__all__ = ["MAX_NAME", "first_line", "holds_controls", "is_plain", "markdown", "plain"]

MAX_NAME = 512
"""Characters of the longest tensor name that is taken for one; the longest of public models have under 200."""

_MAX_LINE = 1500
# What a terminal obeys or shows in another order than it is written in.
_CONTROLS = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|&~$])")  # of Markdown


def is_plain(name: str) -> bool:
    r"""Whether a name can be printed and stored as it is: characters that show, and not too many.

    Examples
    --------
    >>> is_plain("model.layers.0.q_proj.weight"), is_plain("q\x1b[2J"), is_plain("q" * 10_000)
    (True, False, False)
    """
    return len(name) <= MAX_NAME and name.isprintable()


def holds_controls(text: str) -> bool:
    r"""Whether printing this would do more than show it.

    Examples
    --------
    >>> holds_controls("caf\xe9 \u4e2d"), holds_controls("a\x1b[2J")
    (False, True)
    """
    return _CONTROLS.search(text) is not None


def plain(text: str, *, limit: int = _MAX_LINE) -> str:
    r"""Text on one line: what does not show is escaped as in a Python literal, and the middle of a long one is cut.

    Parameters
    ----------
    text
        Any, with names and paths of other people in it.
    limit
        Characters that may stay; the start and the end do, which say where and what to do.

    Examples
    --------
    >>> print(plain("q\x1b[2J\nw"))
    q\x1b[2J\nw
    >>> plain("a" * 20 + "z" * 20, limit=20)
    'aaaaaaa ... zzzzzzzz'
    """
    shown = text if text.isprintable() else "".join(map(_escaped, text))
    if len(shown) <= limit:
        return shown
    kept = limit - 5
    return f"{shown[: kept // 2]} ... {shown[-(kept - kept // 2) :]}"


def _escaped(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def first_line(error: Exception) -> str:
    r"""What another library's error says first; the rest is advice for its own users.

    Examples
    --------
    >>> first_line(OSError("no such model\nsee the manual"))
    'no such model'
    >>> first_line(RuntimeError("Errors in loading:\n\tsize mismatch for q\n\tsize mismatch for k"))
    'Errors in loading: size mismatch for q'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def markdown(text: str, *, limit: int = 5000) -> str:
    r"""Text as it is, whatever marks of Markdown or HTML are in it.

    Examples
    --------
    >>> print(markdown("a_b <i>"))
    a\_b \<i\>
    """
    return _MARKUP.sub(r"\\\1", plain(text, limit=limit))
