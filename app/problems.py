"""Parts of the study that cannot be read, at the top of every page."""

import streamlit as st

from rank_lab.study import Study

from .text import escaped

__all__ = ["show_problems"]


def show_problems(study: Study) -> None:
    """One line that opens; nothing where all is well."""
    found = study.problems()
    if not found:
        return
    parts = f"{len(found)} parts" if len(found) > 1 else "1 part"
    with st.expander(f"{parts} of this study cannot be read", icon=":material/warning:"):
        for each in found:
            st.markdown(f"**{escaped(each.part)}**: {escaped(each.message)}")
