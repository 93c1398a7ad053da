"""The study that the dashboard was started for; nothing outside of it is read."""

import sys
from pathlib import Path

import streamlit as st

from rank_lab.study import Study

__all__ = ["study"]


def study() -> Study:
    """The study, one reader for all sessions.

    Raises
    ------
    SchemaError
        If it is not there.
    """
    return _opened(sys.argv[1] if len(sys.argv) > 1 else ".")


@st.cache_resource(show_spinner=False)
def _opened(folder: str) -> Study:
    return Study(Path(folder).resolve())
