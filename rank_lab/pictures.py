"""Figures as files: one interactive page, and pictures drawn by a browser that is found on this machine."""

import html
import importlib.util
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rank_lab.errors import RankLabError
from rank_lab.figures import Figure
from rank_lab.plain_text import first_line, plain
from rank_lab.vector_cells import vector_cells

__all__ = ["COLUMN_WIDTHS", "PICTURES", "browser_kept", "find_browser", "html_page", "no_pictures", "picture"]

PICTURES = ("svg", "pdf", "png")
"""Kinds of picture."""

COLUMN_WIDTHS = {1: 312, 2: 648}
"""Pixels, of 1/96 inch, of a column of a paper (3.25 in, 234 pt) and of two (6.75 in, 486 pt)."""

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_SCALE = 4  # 384 dots an inch in PNG
_CONFIG = {"displaylogo": False, "responsive": True}  # the logo is a link to a server
_STYLE = (
    "body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}"
    "section{margin:3rem 0}h2{font-size:1.1rem}nav{columns:2}p{max-width:45rem}"
)


def find_browser() -> Path | None:
    """The browser that draws pictures: ``BROWSER_PATH``, or Chromium, Chrome or Edge on the path."""
    named = os.environ.get("BROWSER_PATH")
    if named and Path(named).is_file():
        return Path(named)
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    return None if found is None else Path(found)


def no_pictures() -> str:
    """Why no picture can be drawn on this machine, and what to do; empty where one can."""
    if find_browser() is None:
        return (
            "SVG, PDF and PNG are drawn by Chromium or Chrome, and none was found on the path (nor at BROWSER_PATH);"
            " install one (Debian: apt-get install chromium). HTML, data and LaTeX need none."
        )
    if importlib.util.find_spec("kaleido") is None:
        return (
            "SVG, PDF and PNG need the package kaleido: pip install 'rank_lab[export]'. HTML, data and LaTeX need none."
        )
    return ""


@contextmanager
def browser_kept() -> Iterator[None]:
    """Keep one browser for all pictures that are drawn within: 0.2 s a picture, in place of 2."""
    if no_pictures():
        yield
        return
    import kaleido

    kaleido.start_sync_server(n=1, path=str(find_browser()), silence_warnings=True)
    try:
        yield
    finally:
        kaleido.stop_sync_server(silence_warnings=True)


def picture(figure: Figure, kind: str, *, columns: int = 1) -> bytes:
    """A figure as SVG, PDF or PNG, vector but for the last.

    Parameters
    ----------
    figure
        In the style ``paper`` for print.
    kind
        One of :data:`PICTURES`.
    columns
        Width in columns of a paper, see :data:`COLUMN_WIDTHS`.

    Raises
    ------
    RankLabError
        If no browser was found, it failed, or kaleido is not installed.
    """
    if kind not in PICTURES:
        raise RankLabError(f"picture of kind {kind!r}; expected one of {', '.join(PICTURES)}.")
    if problem := no_pictures():
        raise RankLabError(problem)
    width = COLUMN_WIDTHS[columns]
    height = figure.plot.layout.height or round(width * 0.7)
    plot = figure.plot if kind == "png" else vector_cells(figure.plot)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The kopts argument is ignored", UserWarning)
            drawn: bytes = plot.to_image(kind, width=width, height=height, scale=_SCALE if kind == "png" else 1)
    except (ImportError, ValueError) as error:
        raise RankLabError(f"kaleido did not draw {figure.name} ({first_line(error)}).") from error
    except RuntimeError as error:
        raise RankLabError(f"{find_browser()} did not draw {figure.name} ({first_line(error)}).") from error
    return drawn


def html_page(figures: Figure | Sequence[Figure], *, title: str = "") -> str:
    """Figures as one page that needs nothing else: plotly's script is in it, once (about 5 MB).

    Parameters
    ----------
    figures
        One or more.
    title
        Of the page; default that of the first figure.
    """
    shown = [figures] if isinstance(figures, Figure) else list(figures)
    heading = html.escape(plain(title or shown[0].title))
    links = "".join(f'<li><a href="#{each.name}">{_text(each.title)}</a></li>' for each in shown)
    nav = f"<nav><ul>{links}</ul></nav>" if len(shown) > 1 else ""
    parts = "".join(_section(each, first=number == 0) for number, each in enumerate(shown))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{heading}</title>'
        f'<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,"><style>{_STYLE}</style>'
        f"</head><body><h1>{heading}</h1>{nav}{parts}</body></html>\n"
    )


def _section(figure: Figure, *, first: bool) -> str:
    drawn: Any = figure.plot.to_html(include_plotlyjs=first, include_mathjax=False, full_html=False, config=_CONFIG)
    return (
        f'<section id="{html.escape(figure.name)}"><h2>{_text(figure.title)}</h2>{drawn}'
        f"<p>{_text(figure.caption)}</p></section>\n"
    )


def _text(text: str) -> str:
    return html.escape(plain(text))
