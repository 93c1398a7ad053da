"""The server of the dashboard, in a process that has loaded already what the first page needs.

``rank-lab dashboard`` starts it: ``serve.py SETTINGS STUDY``, Streamlit's settings as JSON.

Streamlit's own way to start it leaves Nagle's algorithm on: asyncio turns it off where a socket names TCP, and
Streamlit's does not. Each small answer then waits up to 40 ms for the browser to have confirmed the one before.
"""

import errno
import gc
import inspect
import json
import socket
import sys
from contextlib import suppress
from importlib import import_module
from logging import getLogger
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_INSTALLED = (_HERE.parent / "shown_values.py").is_file()  # as in main.py


def _package() -> str:
    if _INSTALLED:
        return "rank_lab.app"
    sys.path.insert(0, str(_HERE.parent))
    return "app"


def _serve(settings: dict[str, Any], study: str) -> None:
    app = _package()
    from rank_lab.dashboard_command import PORT_TAKEN

    try:
        listening = _listening(settings["server.address"], settings["server.port"])
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        sys.exit(PORT_TAKEN)  # the command tries the next, or says so
    about_caches = getLogger("streamlit.runtime.caching.cache_data_api")
    about_caches.disabled = True  # pages are loaded before there is a server, which it warns of
    pages = import_module(f"{app}.navigation").PAGES
    with suppress(Exception):  # the pages say what is wrong with a study
        import_module(f"{app}.overview").read_ahead(import_module(f"{app}.opened").opened(study))
    _ask_ahead()
    gc.freeze()  # Streamlit collects garbage after each run, before the last of a page is sent; here is none
    about_caches.disabled = False
    sys.argv[1:] = [study]  # of the script
    with listening, suppress(KeyboardInterrupt):  # how it ends
        _run(app, [path for *_, path in pages], settings, listening)


def _ask_ahead() -> None:
    """What Streamlit looks up for the first element and keeps: 0.15 s of the first page."""
    inspect.stack()  # the file of each module, to tell where it is called from


def _listening(host: str, port: int) -> socket.socket:
    """Listens before anything is loaded: from here on the port is ours. One that is bound alone others can have too."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # where it would let two programs have one port
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()
    except OSError:
        listening.close()
        raise
    return listening


def _run(app: str, paths: list[str], settings: dict[str, Any], listening: socket.socket) -> None:
    import streamlit
    import uvicorn
    from starlette.middleware import Middleware
    from streamlit.web import bootstrap

    static = Path(streamlit.__file__).parent / "static"
    kept = import_module(f"{app}.kept_files")
    served = streamlit.App(
        _HERE / "main.py",
        routes=import_module(f"{app}.shell").shell_routes(paths),
        middleware=[Middleware(kept.KeptFiles, kept=kept.files_below(static / "static", "/static/"))],
    )
    bootstrap.load_config_options(settings)
    sys.stdout.write(f"serving at :{settings['server.port']}\n")
    sys.stdout.flush()
    # Log and WebSockets as Streamlit has them.
    uvicorn.Server(
        uvicorn.Config(served, access_log=False, log_level="warning", use_colors=False, ws="websockets-sansio",
                       ws_ping_interval=30, ws_ping_timeout=30, ws_per_message_deflate=False)
    ).run(sockets=[listening])  # fmt: skip


if __name__ == "__main__":
    sys.path[:] = [
        place for place in sys.path if Path(place).resolve() != _HERE
    ]  # its files are no modules of their own
    _serve(json.loads(sys.argv[1]), sys.argv[2])
