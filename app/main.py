"""Entry of the dashboard; started by ``rank-lab dashboard STUDY``, which is ``streamlit run main.py -- STUDY``."""

import sys
from importlib import import_module
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_INSTALLED = (_HERE.parent / "shown_values.py").is_file()  # as rank_lab/app; in a checkout it lies beside rank_lab


def _package() -> str:
    if _INSTALLED:
        return "rank_lab.app"
    if str(_HERE.parent) not in sys.path:
        sys.path.insert(0, str(_HERE.parent))
    return "app"


import_module(f"{_package()}.navigation").run()
