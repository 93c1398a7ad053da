"""Text from files in a page: Streamlit takes its text for Markdown."""

import re

from rank_lab.plain_text import plain

__all__ = ["escaped"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])")


def escaped(text: str) -> str:
    r"""The text as it is, in Markdown.

    Examples
    --------
    >>> escaped("<b>q_proj</b> $x$")
    '\\<b\\>q\\_proj\\</b\\> \\$x\\$'
    """
    return _SPECIAL.sub(r"\\\1", plain(text))
