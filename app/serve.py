"""Streamlit in a process that has loaded already what the first page needs; ``rank-lab dashboard`` starts it.

Its arguments are Streamlit's: ``serve.py run main.py ... -- STUDY``.
"""

import runpy
import sys
from importlib import import_module
from logging import getLogger
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_INSTALLED = (_HERE.parent / "shown_values.py").is_file()  # as in main.py
_SERVER = "streamlit"


def _package() -> str:
    if _INSTALLED:
        return "rank_lab.app"
    sys.path.insert(0, str(_HERE.parent))
    return "app"


if __name__ == "__main__":
    sys.path[:] = [
        place for place in sys.path if Path(place).resolve() != _HERE
    ]  # its files are no modules of their own
    app = _package()
    about_caches = getLogger("streamlit.runtime.caching.cache_data_api")
    about_caches.disabled = True  # pages are loaded before there is a server, which it warns of
    import_module(f"{app}.navigation")
    import_module(f"{app}.opened").read_ahead(sys.argv[-1])
    about_caches.disabled = False
    sys.argv[0] = _SERVER
    runpy.run_module(_SERVER, run_name="__main__", alter_sys=True)
