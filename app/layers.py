"""Layers: one quantity of every matrix; a click on a cell gives its spectrum and its numbers."""

import pandas as pd
import streamlit as st

from rank_lab.drawn_spectra import drawn_spectrum
from rank_lab.figures import Figure, Style, layer_map, spectrum
from rank_lab.layer_table import layer_table
from rank_lab.module_numbers import Numbers, module_numbers, numbers_of
from rank_lab.row_choices import rows_of
from rank_lab.shown_values import Over
from rank_lab.study import Study

from .choices import choose_delta, choose_metric, choose_module, choose_over, choose_run, choose_step
from .clicks import clicked_mark
from .empty import ranks_of
from .guarded import in_words
from .shown import show_figure, show_table
from .text import escaped

__all__ = ["page"]


def page(study: Study) -> None:
    """Heat map and, below it, the matrix that is chosen there or by name."""
    st.title("Layers")
    updates = ranks_of(study)
    if updates is None:
        return
    columns = st.columns(5)
    with columns[0]:
        run = choose_run(updates)
    with columns[1]:
        step = choose_step(updates, run)
    with columns[2]:
        delta = choose_delta(updates, run)
    with columns[3]:
        metric = choose_metric()
    with columns[4]:
        over = choose_over(metric)
    _map_and_matrix(study, rows_of(updates, run, step, delta), metric, over)


@st.fragment
def _map_and_matrix(study: Study, rows: pd.DataFrame, metric: str, over: Over) -> None:
    """Drawn again by itself on a click."""
    if mark := clicked_mark("layer_map"):
        st.session_state["module"] = mark[2]
    delta = str(rows["delta"].iloc[0])
    stamp = study.signature()

    def draw(style: Style) -> Figure:
        key = (stamp, str(rows["run"].iloc[0]), str(rows["step"].iloc[0]), delta, metric, over, style)
        return _drawn_map(rows, key)

    show_figure(draw, key="layer_map", clickable=True)
    module = choose_module([str(each) for each in rows["module"]])
    st.subheader(escaped(module))
    with in_words():
        curve = drawn_spectrum(study, rows, module)
        show_figure(lambda style: spectrum([curve], style), key="matrix_spectrum")
    place = (stamp, str(rows["run"].iloc[0]), str(rows["step"].iloc[0]), delta)
    show_table(module_numbers(rows, module, _numbers(rows, place)), name=f"{place[1]}-{module}", key="numbers")


@st.cache_resource(max_entries=8, show_spinner=False)
def _numbers(_rows: pd.DataFrame, place: tuple[str, ...]) -> Numbers:  # noqa: ARG001
    return numbers_of(_rows)


@st.cache_resource(max_entries=32, show_spinner=False)
def _drawn_map(_rows: pd.DataFrame, key: tuple[str, str, str, str, str, Over, Style]) -> Figure:
    *_, delta, metric, over, style = key
    return layer_map(layer_table(_rows, metric, over=over, delta=delta), style)
