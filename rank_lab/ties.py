"""Which modules share their weight with another one, as the coverage of a comparison says it."""

import re
from collections.abc import Iterable

__all__ = ["tied_to"]

_TIED = re.compile(r"tied(?: to |: the same bytes as )(?P<module>\S+?)(?:\.weight)?, counted there")


def tied_to(rows: Iterable[tuple[object, object]]) -> dict[str, str]:
    """Module to the name of the tensor that is tied to it.

    Parameters
    ----------
    rows
        Pairs of tensor and reason.

    Examples
    --------
    >>> tied_to([("lm_head.weight", "tied to wte.weight, counted there"), ("q.weight", "")])
    {'wte': 'lm_head.weight'}
    """
    matches = ((_TIED.fullmatch(str(reason)), str(name)) for name, reason in rows)
    return {match["module"]: name for match, name in matches if match}
