"""The pages, and what stands around each of them."""

import sys

import streamlit as st

from rank_lab.errors import RankLabError

from . import (
    compare,
    export,
    forgetting,
    function,
    layers,
    overview,
    rank_plan,
    scheduler,
    spectra,
    subspaces,
    training,
)
from .guarded import guarded
from .guide import show_guide
from .opened import study
from .problems import show_problems
from .text import escaped

__all__ = ["PAGES", "run"]

PAGES = (
    # section, page, title, name in the URL and of the guide
    ("Study", overview.page, "Overview", "overview"),
    ("Ranks", layers.page, "Layers", "layers"),
    ("Ranks", spectra.page, "Spectra", "spectra"),
    ("Ranks", compare.page, "Compare", "compare"),
    ("Ranks", training.page, "Training", "training"),
    ("Ranks", subspaces.page, "Subspaces", "subspaces"),
    ("Ranks", function.page, "Function", "function"),
    ("Outcomes", scheduler.page, "Scheduler", "scheduler"),
    ("Outcomes", forgetting.page, "Forgetting", "forgetting"),
    ("Results", rank_plan.page, "Rank plan", "rank_plan"),
    ("Results", export.page, "Export", "export"),
)


def run() -> None:
    """Show the page that the URL names."""
    st.set_page_config(page_title="rank_lab", layout="wide")
    sections: dict[str, list[st.Page]] = {}
    for section, page, title, path in PAGES:
        first = not sections
        sections.setdefault(section, []).append(st.Page(guarded(page), title=title, url_path=path, default=first))
    chosen = st.navigation(sections)
    with st.sidebar:
        _follow()
    show_guide(next(path for _, _, title, path in PAGES if title == chosen.title))
    guarded(show_problems)()
    chosen.run()


@st.fragment(run_every=3.0)
def _follow() -> None:
    """Look whether files have changed; a study can be open while it is being written."""
    follow = st.toggle("Follow changes", value=True, key="follow", help="Show what is new in the study's files.")
    try:
        opened = study()
        now = opened.signature()
    except (RankLabError, OSError) as error:
        sys.stderr.write(f"rank-lab dashboard: {error}\n")
        now = None
    else:
        st.caption(escaped(opened.name))
    before = st.session_state.get("seen_signature", now)
    st.session_state["seen_signature"] = now
    if follow and before != now:
        st.rerun()
