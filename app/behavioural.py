"""How many directions of an update do it: a part of the page Function."""

import streamlit as st

from rank_lab.behavioural_export import behavioural_data
from rank_lab.behavioural_view import behavioural_targets, behavioural_view
from rank_lab.figures import behavioural_curve
from rank_lab.study import Study

from .choices import choose_of
from .guarded import in_words
from .shown import Draw, show_figure, show_table

__all__ = ["behavioural_of", "show_behavioural"]

_MEAN = {"": "all targets, their mean"}


def show_behavioural(study: Study) -> None:
    """Nothing where there is none: the page says how it comes to be."""
    reports = study.behavioural()
    if not reports:
        return
    st.subheader("How many directions do it")
    with in_words():
        show_figure(behavioural_of(study), key="behavioural_curve")
    ranks = behavioural_data(reports)["behavioural_ranks"]
    show_table(ranks, name="behavioural-ranks", key="behavioural_ranks")


def behavioural_of(study: Study) -> Draw:
    """The curves of a run and a target that are chosen."""
    reports = study.behavioural()
    left, right = st.columns(2)
    with left:
        report = reports[choose_of("Truncated run", tuple(reports), key="truncated")]
    with right:
        task = choose_of("Target", tuple(behavioural_targets(report)), key="target", words=_MEAN)
    view = behavioural_view(report, task)
    return lambda style: behavioural_curve(view, style)
