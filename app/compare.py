"""Compare: two or more runs or steps side by side, module by module."""

import pandas as pd
import streamlit as st

from rank_lab.figures import method_against_method, rank_by_kind
from rank_lab.kind_table import KindTable, kind_table
from rank_lab.places import places_of
from rank_lab.run_comparison import Place, RunComparison, run_comparison
from rank_lab.shown_values import Over
from rank_lab.study import Study

from .choices import choose_delta_of, choose_metric, choose_of, choose_over, choose_several, choose_switch
from .empty import ranks_of
from .guarded import in_words
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["against_of", "choose_places", "kinds_of", "page"]

_MOST = 6

_Of = tuple[str, Over, str]
"""Quantity, what it is divided by, and since when the change is."""


def page(study: Study) -> None:
    """By kind of module, one against another, and the table of differences."""
    st.title("Compare")
    updates = ranks_of(study)
    if updates is None:
        return
    places, of = choose_places(updates)
    metric, _, _ = of
    with in_words():
        draw, table = kinds_of(updates, places, of)
        show_figure(draw, key="by_kind")
        show_table(table.summary, name=f"kinds-{metric}", key="kinds_table")
    if len(places) < 2:
        st.info("Choose a second run or step, to see it against the first.", icon=":material/info:")
        return
    st.subheader("Module by module")
    with in_words():
        draw, comparison = against_of(updates, places, of)
        show_figure(draw, key="against")
        st.caption(escaped("; ".join(f"{number}: {name}" for number, name in enumerate(places, 1))))
        show_table(comparison.table, name=f"differences-{metric}", key="differences")
        if not comparison.only.empty:
            st.subheader("Modules that not all of them have")
            show_table(comparison.only, name="modules-of-some", key="only")


def choose_places(updates: pd.DataFrame) -> tuple[dict[str, Place], _Of]:
    """Runs and steps by name, and the quantity that is compared."""
    columns = st.columns(3)
    with columns[0]:
        delta = choose_delta_of(updates)
    with columns[1]:
        metric = choose_metric()
    with columns[2]:
        over = choose_over(metric)
    places = places_of(updates, delta)
    names = list(places)
    shown = choose_several(
        "Runs and steps; the first is what the others are compared with", names, key="places", default=names[:2],
        most=_MOST,
    )  # fmt: skip
    return {name: places[name] for name in shown}, (metric, over, delta)


def kinds_of(updates: pd.DataFrame, places: dict[str, Place], of: _Of) -> tuple[Draw, KindTable]:
    """By kind of module, and the table of it."""
    metric, over, delta = of
    table = kind_table(updates, list(places.values()), metric, over=over, delta=delta)
    return lambda style: rank_by_kind(table, style), table


def against_of(updates: pd.DataFrame, places: dict[str, Place], of: _Of) -> tuple[Draw, RunComparison]:
    """Another against the first, with the choice of which, and the table of all of them."""
    metric, over, delta = of
    names = dict(enumerate(places, 1))
    others = list(names)[1:]
    left, right = st.columns([3, 1])
    with left:
        other = choose_of("Against the first", others, key="other", words={str(n): names[n] for n in others})
    with right:
        log = choose_switch("Logarithmic axes", key="log_axes")
    comparison = run_comparison(updates, list(places.values()), metric, over=over, delta=delta)
    return lambda style: method_against_method(comparison, style, other=other, log=log), comparison
