"""What a page says where a study has nothing for it: a sentence, and the command that makes it."""

import streamlit as st

from rank_lab.study import Study

from .text import escaped

__all__ = ["say_missing", "say_problems"]


def say_missing(sentence: str, command: str) -> None:
    """What is not there, and how it comes to be."""
    st.info(escaped(sentence), icon=":material/info:")
    st.code(command, language=None, wrap_lines=True)


def say_problems(study: Study, *ends: str) -> bool:
    """Parts of the study that cannot be read, by the ends of their names; whether there are any."""
    found = [each for each in study.problems() if each.part.endswith(ends)]
    for each in found:
        st.error(escaped(f"{each.part}: {each.message}"), icon=":material/warning:")
    return bool(found)
