"""The HTML in which every page starts: Streamlit's own, with our name and icon, and told where its server is.

Opened at the address of a page Streamlit looks for its server beside that page first, which costs a tenth of a second
and which browsers report as two errors. The name that tells it is Streamlit's for pages that are embedded elsewhere; a
Streamlit that does not know it works as it did.

The icon is drawn of shapes: Streamlit makes one of an emoji, and a browser that has to find a font for it stands still
for a tenth of a second while the page is waiting.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import streamlit
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

__all__ = ["shell", "shell_routes"]

_ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
<path d="M3 3h5v26H3zM10 11h5v18h-5zM17 19h5v10h-5zM24 24h5v5h-5z" fill="#0072b2"/>
<path d="M1 21h30" stroke="#c2002f" stroke-width="2" stroke-dasharray="4 2"/></svg>"""  # a spectrum and its noise edge
_HEAD = {
    r'<link rel="shortcut icon"[^>]*>': f'<link rel="icon" href="data:image/svg+xml,{quote(_ICON)}">',
    "<title>[^<]*</title>": "<title>rank_lab</title>",
}
_SERVER = "<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin}</script>"
_LATER = """<script>addEventListener("load", () => document.head.append(
Object.assign(document.createElement("link"), {rel: "modulepreload", href: "SCRIPT"})))</script>"""


def shell_routes(paths: Iterable[str]) -> list[Route]:
    """Where it is served: the start, and every page.

    Parameters
    ----------
    paths
        Of the pages, without a slash.
    """
    static = Path(streamlit.__file__).parent / "static"
    plots = [f"/{each.relative_to(static).as_posix()}" for each in static.glob("static/js/PlotlyChart.*.js")]
    page = shell((static / "index.html").read_text(encoding="utf-8"), plots)

    async def answer(_: Request) -> HTMLResponse:
        return HTMLResponse(page, headers={"Cache-Control": "no-cache"})

    return [Route(f"/{path}", answer) for path in ("", *paths)]


def shell(page: str, scripts: Iterable[str] = ()) -> str:
    """Streamlit's page with our name and icon, and the place of its server.

    Parameters
    ----------
    page
        Its ``index.html``.
    scripts
        Addresses of what a page will need: fetched once those are there that it starts with, and read meanwhile.

    Examples
    --------
    >>> "BACKEND_BASE_URL: window.location.origin" in shell("<html><head></head></html>")
    True
    >>> shell("<title>Streamlit</title>")
    '<title>rank_lab</title>'
    """
    for theirs, ours in _HEAD.items():
        page = re.sub(theirs, ours, page, count=1)
    return page.replace("<head>", f"<head>{_SERVER}{''.join(_LATER.replace('SCRIPT', each) for each in scripts)}", 1)
