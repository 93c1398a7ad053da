"""The HTML in which every page starts: Streamlit's own, told where its server is.

Opened at the address of a page Streamlit looks for its server beside that page first, which costs a tenth of a second
and which browsers report as two errors. The name that tells it is Streamlit's for pages that are embedded elsewhere; a
Streamlit that does not know it works as it did.
"""

from collections.abc import Iterable
from pathlib import Path

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

__all__ = ["shell", "shell_routes"]

_SERVER = "<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin}</script>"


def shell_routes(paths: Iterable[str]) -> list[Route]:
    """Where it is served: the start, and every page.

    Parameters
    ----------
    paths
        Of the pages, without a slash.
    """
    page = shell((Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8"))

    async def answer(_: Request) -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    return [Route(f"/{path}", answer) for path in ("", *paths)]


def shell(page: str) -> str:
    """Streamlit's page with the place of its server.

    Parameters
    ----------
    page
        Its ``index.html``.

    Examples
    --------
    >>> "BACKEND_BASE_URL: window.location.origin" in shell("<html><head></head></html>")
    True
    """
    return page.replace("<head>", f"<head>{_SERVER}", 1)
