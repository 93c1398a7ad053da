"""Layers: one quantity of every matrix; a click on a cell gives its numbers."""

import streamlit as st

from rank_lab.figures import layer_map
from rank_lab.layer_table import layer_table
from rank_lab.module_numbers import module_numbers, rows_of
from rank_lab.study import Study

from .choices import choose_delta, choose_metric, choose_module, choose_over, choose_run, choose_step
from .shown import show_figure, show_table
from .text import escaped

__all__ = ["page"]


def page(study: Study) -> None:
    """Heat map and, below it, the matrix that is chosen there or by name."""
    st.title("Layers")
    updates = study.updates()
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
    rows = rows_of(updates, run, step, delta)
    table = layer_table(rows, metric, over=over, delta=delta)
    show_figure(lambda style: layer_map(table, style), key="layer_map", clicked=_chosen)
    module = choose_module(list(rows["module"]))
    st.subheader(escaped(module))
    show_table(module_numbers(rows, module), name=f"{run}-{module}", key="numbers")


def _chosen(customdata: list[object]) -> None:
    st.session_state["module"] = customdata[2]
