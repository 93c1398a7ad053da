"""A page that says what is wrong and what to do, never a traceback."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import streamlit as st

from rank_lab.errors import RankLabError
from rank_lab.plain_text import plain
from rank_lab.study import Study

from .opened import study
from .text import escaped

__all__ = ["Page", "guarded", "in_words"]

Page = Callable[[Study], None]

_LOG = logging.getLogger("rank_lab.app")


def guarded(page: Page) -> Callable[[], None]:
    """The page with its study, and with its errors in words."""

    @wraps(page)
    def shown() -> None:
        try:
            page(study())
        except RankLabError as error:
            st.error(escaped(str(error)), icon=":material/warning:")
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader gets words and the log the rest
            _LOG.exception("a page failed")
            what = f"{type(error).__name__}: {plain(str(error), limit=300)}"
            text = f"This page could not be shown ({what}). The other pages are not affected; the log has the details."
            st.error(escaped(text), icon=":material/warning:")

    return shown


@contextmanager
def in_words() -> Iterator[None]:
    """A part of a page: what is wrong with it stands in its place, and the rest of the page is shown."""
    try:
        yield
    except RankLabError as error:
        st.warning(escaped(str(error)), icon=":material/warning:")
