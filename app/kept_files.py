"""Streamlit's scripts, styles and fonts from memory: a page waits for sixty of them before it shows anything."""

import mimetypes
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["KeptFiles", "files_below"]

_KINDS = mimetypes.MimeTypes()  # Python's own: Windows may have scripts registered as plain text
_KEPT_BY_BROWSERS = {"Cache-Control": "public, immutable, max-age=31536000"}  # as Streamlit says: names hold a hash


def files_below(folder: Path, prefix: str) -> dict[str, Response]:
    """What a path of the server is answered with.

    Parameters
    ----------
    folder
        Whose files are read, those in folders below too.
    prefix
        Of the paths; with its slashes.
    """
    return {
        f"{prefix}{each.relative_to(folder).as_posix()}": _response(each)
        for each in sorted(folder.rglob("*"))
        if each.is_file()
    }


def _response(file: Path) -> Response:
    kind = _KINDS.guess_type(file.name)[0] or "application/octet-stream"
    return Response(file.read_bytes(), media_type=kind, headers=_KEPT_BY_BROWSERS)


class KeptFiles:
    """Answers what is kept, and leaves the rest to the server (ASGI middleware).

    Parameters
    ----------
    app
        The server.
    kept
        From :func:`files_below`: nothing but these very paths is answered.
    """

    def __init__(self, app: ASGIApp, kept: Mapping[str, Response]) -> None:
        self._app = app
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = scope["type"] == "http" and scope["method"] == "GET"
        found = self._kept.get(scope["path"]) if asked else None
        await (found or self._app)(scope, receive, send)
