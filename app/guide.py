"""How to read a page: the user guide, a file a page, shown where it is needed."""

from pathlib import Path

import streamlit as st

__all__ = ["GUIDES", "guide_text", "show_guide"]

GUIDES = Path(__file__).resolve().parent / "guide"


def guide_text(page: str) -> str:
    """The guide of a page without its heading, by the name that the page has in the URL."""
    text = (GUIDES / f"{page}.md").read_text(encoding="utf-8")
    return text.split("\n", 1)[1].strip()


def show_guide(page: str) -> None:
    """An expander with the guide."""
    with st.expander("How to read this page"):
        st.markdown(guide_text(page))
