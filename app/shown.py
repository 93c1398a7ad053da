"""A figure or a table in a page, with its caption and everything to take along."""

from collections.abc import Callable
from functools import lru_cache, partial

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from rank_lab.figures import Figure, Style
from rank_lab.figures.drawn_once import drawn_once
from rank_lab.pictures import COLUMN_WIDTHS, PICTURES, html_page, no_pictures, picture
from rank_lab.plain_text import plain

from .text import escaped

__all__ = ["Draw", "screen_style", "show_figure", "show_paper_figure", "show_table"]

Draw = Callable[[Style], Figure]

_MIME = {"svg": "image/svg+xml", "pdf": "application/pdf", "png": "image/png"}


def screen_style() -> Style:
    """Light or dark, as the browser has it."""
    return "dark" if st.context.theme.type == "dark" else "light"


def show_figure(draw: Draw, *, key: str, clickable: bool = False) -> None:
    """A figure, its caption and its downloads.

    Parameters
    ----------
    draw
        From a style to the figure: the screen's now, the paper's when it is downloaded.
    key
        Of the element, one on each page.
    clickable
        Whether a click on a mark draws the page again; see :func:`app.clicks.clicked_mark`.
    """
    figure = draw(screen_style())
    st.plotly_chart(
        _sent(figure, clickable=clickable), theme=None, key=key, alt=figure.caption, config={"displaylogo": False},
        on_select="rerun" if clickable else "ignore", selection_mode="points",
    )  # fmt: skip
    st.caption(escaped(figure.caption))
    with st.popover("Download", icon=":material/download:"):
        _downloads(figure, draw, key)


@lru_cache(maxsize=16)
def _sent(figure: Figure, *, clickable: bool) -> go.Figure:
    """Prepared once for figures that are kept."""
    return drawn_once(figure.plot, clickable=clickable)


def show_paper_figure(draw: Draw, *, columns: int, key: str) -> None:
    """A figure as it is on paper, in its size there, with its caption as text and its files.

    Parameters
    ----------
    draw
        From a style to the figure.
    columns
        Width in columns of a paper.
    key
        Of the element, one on each page.
    """
    figure = draw("paper")
    st.plotly_chart(
        drawn_once(figure.plot), theme=None, key=key, alt=figure.caption, width=COLUMN_WIDTHS[columns],
        config={"displaylogo": False, "staticPlot": True},
    )  # fmt: skip
    st.code(plain(figure.caption), language=None, wrap_lines=True)
    with st.container(horizontal=True):
        _downloads(figure, draw, key, columns)


def _downloads(figure: Figure, draw: Draw, key: str, columns: int = 1) -> None:
    name = figure.name
    st.download_button(
        "Data (CSV)", partial(_csv, figure.data), f"{name}.csv", "text/csv", key=f"{key}-csv", on_click="ignore"
    )
    st.download_button(
        "Interactive page (HTML)", lambda: html_page(figure), f"{name}.html", "text/html", key=f"{key}-html",
        on_click="ignore",
    )  # fmt: skip
    if problem := _no_pictures():
        st.caption(escaped(problem))
        return
    for kind in PICTURES:
        st.download_button(
            f"For print ({kind.upper()})", partial(_drawn, draw, kind, columns), f"{name}.{kind}", _MIME[kind],
            key=f"{key}-{kind}", on_click="ignore",
        )  # fmt: skip


@lru_cache(maxsize=1)
def _no_pictures() -> str:
    """Looked for once: each figure of each page asks."""
    return no_pictures()


def _drawn(draw: Draw, kind: str, columns: int) -> bytes:
    return picture(draw("paper"), kind, columns=columns)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False)


def show_table(table: pd.DataFrame, *, name: str, key: str) -> None:
    """A table and its download.

    Parameters
    ----------
    table
        As it is shown.
    name
        File name without its ending.
    key
        Of the element, one on each page.
    """
    st.dataframe(table, hide_index=True, key=key)
    st.download_button(
        "Table (CSV)", partial(_csv, table), f"{plain(name)}.csv", "text/csv", key=f"{key}-csv", on_click="ignore"
    )
