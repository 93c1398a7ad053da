"""Figures as files: interactive pages, and pictures drawn by a browser that is found on this machine."""

import os
import shutil
from pathlib import Path

from rank_lab.errors import RankLabError
from rank_lab.figures import Figure
from rank_lab.plain_text import first_line

__all__ = ["COLUMN_WIDTHS", "PICTURES", "find_browser", "html_page", "picture"]

PICTURES = ("svg", "pdf", "png")
"""Kinds of picture."""

COLUMN_WIDTHS = {1: 312, 2: 648}
"""Pixels, of 1/96 inch, of a column of a paper (3.25 in) and of two (6.75 in)."""

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
_SCALE = 4  # 384 dots an inch in PNG


def find_browser() -> Path | None:
    """The browser that draws pictures: ``BROWSER_PATH``, or Chromium, Chrome or Edge on the path."""
    named = os.environ.get("BROWSER_PATH")
    if named and Path(named).is_file():
        return Path(named)
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    return None if found is None else Path(found)


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
    if find_browser() is None:
        raise RankLabError(
            "SVG, PDF and PNG are drawn by Chromium or Chrome, and none was found on the path (nor at BROWSER_PATH);"
            " install one (Debian: apt-get install chromium). HTML, data and LaTeX need none."
        )
    width = COLUMN_WIDTHS[columns]
    height = figure.plot.layout.height or round(width * 0.7)
    try:
        drawn: bytes = figure.plot.to_image(kind, width=width, height=height, scale=_SCALE if kind == "png" else 1)
    except (ImportError, ValueError) as error:
        raise RankLabError(
            f"pictures need the package kaleido: pip install 'rank_lab[export]' ({first_line(error)})."
        ) from error
    except RuntimeError as error:
        raise RankLabError(f"{find_browser()} did not draw the figure ({first_line(error)}).") from error
    return drawn


def html_page(figure: Figure) -> str:
    """A figure as a page that needs nothing else: plotly's script is in it (about 5 MB)."""
    page: str = figure.plot.to_html(include_plotlyjs=True, full_html=True)
    return page
