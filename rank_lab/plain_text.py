"""Text from files that nobody vouches for, made safe to print: no control characters, no endless lines."""

__all__ = ["MAX_NAME", "is_plain", "plain"]

MAX_NAME = 512
"""Characters of the longest tensor name that is taken for one; the longest of public models have under 200."""

_MAX_LINE = 1500


def is_plain(name: str) -> bool:
    r"""Whether a name can be printed and stored as it is: characters that show, and not too many.

    Examples
    --------
    >>> is_plain("model.layers.0.q_proj.weight"), is_plain("q\x1b[2J"), is_plain("q" * 10_000)
    (True, False, False)
    """
    return len(name) <= MAX_NAME and name.isprintable()


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
