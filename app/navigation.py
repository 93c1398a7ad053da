"""The pages, and what stands around each of them."""

import sys

import streamlit as st

from . import export, forgetting, layers, rank_plan, scheduler, training
from .guarded import guarded
from .guide import show_guide
from .opened import study

__all__ = ["run"]

_PAGES = (
    (layers.page, "Layers", "layers"),
    (training.page, "Training", "training"),
    (scheduler.page, "Scheduler", "scheduler"),
    (forgetting.page, "Forgetting", "forgetting"),
    (rank_plan.page, "Rank plan", "rank_plan"),
    (export.page, "Export", "export"),
)


def run() -> None:
    """Show the page that the URL names."""
    st.set_page_config(page_title="rank_lab", page_icon="📐", layout="wide")
    pages = [
        st.Page(guarded(page), title=title, url_path=path, default=index == 0)
        for index, (page, title, path) in enumerate(_PAGES)
    ]
    chosen = st.navigation(pages)
    with st.sidebar:
        _follow()
    show_guide(next(path for _, title, path in _PAGES if title == chosen.title))
    chosen.run()


@st.fragment(run_every=3.0)
def _follow() -> None:
    """Look whether files have changed; a study can be open while it is being written."""
    follow = st.toggle("Follow changes", value=True, key="follow", help="Show what is new in the study's files.")
    try:
        now = study().signature()
    except Exception as error:  # noqa: BLE001 - the page itself says what is wrong
        sys.stderr.write(f"rank-lab dashboard: {error}\n")
        return
    before = st.session_state.get("seen_signature")
    st.session_state["seen_signature"] = now
    if follow and before is not None and before != now:
        st.rerun()
