"""What was clicked in a figure.

Not by a callback of Streamlit: it calls them in the first run that sees the click, and that can be the one which looks
every few seconds whether files have changed. The run that draws the figures comes after it, with the choice that the
browser had before the click, and the click would be lost.
"""

from typing import Any

import streamlit as st

__all__ = ["clicked_mark"]


def clicked_mark(key: str) -> list[Any] | None:
    """The customdata of the mark that was clicked since this was asked last; None if none was.

    Asked before the choices are drawn that it changes.

    Parameters
    ----------
    key
        Of the figure; see :func:`app.shown.show_figure`.
    """
    points = st.session_state.get(key, {}).get("selection", {}).get("points", [])
    mark = list(points[0].get("customdata") or []) if points else []
    before = st.session_state.get(f"{key}-taken", [])
    st.session_state[f"{key}-taken"] = mark
    return mark if mark and mark != before else None
