"""The server of the dashboard, in a process that has loaded already what the first page needs.

``rank-lab dashboard`` starts it: ``serve.py SETTINGS STUDY``, Streamlit's settings as JSON.
"""

import json
import sys
from contextlib import suppress
from importlib import import_module
from logging import getLogger
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_INSTALLED = (_HERE.parent / "shown_values.py").is_file()  # as in main.py


def _package() -> str:
    if _INSTALLED:
        return "rank_lab.app"
    sys.path.insert(0, str(_HERE.parent))
    return "app"


def _serve(settings: str, study: str) -> None:
    app = _package()
    about_caches = getLogger("streamlit.runtime.caching.cache_data_api")
    about_caches.disabled = True  # pages are loaded before there is a server, which it warns of
    pages = import_module(f"{app}.navigation").PAGES
    import_module(f"{app}.opened").read_ahead(study)
    about_caches.disabled = False
    from streamlit import App

    routes = import_module(f"{app}.shell").shell_routes(path for *_, path in pages)
    sys.argv[1:] = [study]  # of the script
    with suppress(KeyboardInterrupt):  # how it ends
        App(_HERE / "main.py", routes=routes).run(config=json.loads(settings))


if __name__ == "__main__":
    sys.path[:] = [
        place for place in sys.path if Path(place).resolve() != _HERE
    ]  # its files are no modules of their own
    _serve(*sys.argv[1:])
