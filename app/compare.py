"""Compare: two or more runs or steps side by side, module by module."""

from typing import TypeAlias

import pandas as pd
import streamlit as st

from rank_lab.errors import RankLabError
from rank_lab.figures import method_against_method, rank_by_kind
from rank_lab.kind_table import kind_table
from rank_lab.places import places_of
from rank_lab.run_comparison import Place, run_comparison
from rank_lab.shown_values import Over
from rank_lab.study import Study

from .choices import choose_delta_of, choose_metric, choose_of, choose_over, choose_several, choose_switch
from .empty import ranks_of
from .guarded import in_words
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["against_of", "kinds_of", "page"]

_MOST = 6

_Of: TypeAlias = tuple[str, Over, str]


def page(study: Study) -> None:
    """By kind of module, one against another, and the table of differences."""
    st.title("Compare")
    updates = ranks_of(study)
    if updates is None:
        return
    shown, of = _chosen(updates)
    metric, over, delta = of
    with in_words():
        table = kind_table(updates, list(shown.values()), metric, over=over, delta=delta)
        show_figure(lambda style: rank_by_kind(table, style), key="by_kind")
        show_table(table.summary, name=f"kinds-{metric}", key="kinds_table")
    if len(shown) < 2:
        st.info("Choose a second run or step, to see it against the first.", icon="ℹ️")
        return
    _differences(study, shown, of)


def kinds_of(study: Study) -> Draw:
    """A quantity by kind of module, with the choices of it."""
    updates = study.updates()
    shown, (metric, over, delta) = _chosen(updates)
    table = kind_table(updates, list(shown.values()), metric, over=over, delta=delta)
    return lambda style: rank_by_kind(table, style)


def against_of(study: Study) -> Draw:
    """One run or step against another, module by module."""
    updates = study.updates()
    shown, (metric, over, delta) = _chosen(updates)
    if len(shown) < 2:
        raise RankLabError("Choose a second run or step, to see it against the first.")
    other, log = _other(shown)
    comparison = run_comparison(updates, list(shown.values()), metric, over=over, delta=delta)
    return lambda style: method_against_method(comparison, style, other=other, log=log)


def _chosen(updates: pd.DataFrame) -> tuple[dict[str, Place], _Of]:
    """Runs and steps by name, and what of them."""
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


def _other(places: dict[str, Place]) -> tuple[int, bool]:
    """Which is drawn against the first, and whether on logarithmic axes."""
    names = dict(enumerate(places, 1))
    others = list(names)[1:]
    left, right = st.columns([3, 1])
    with left:
        other = choose_of("Against the first", others, key="other", words={str(n): names[n] for n in others})
    with right:
        return other, choose_switch("Logarithmic axes", key="log_axes")


def _differences(study: Study, places: dict[str, Place], of: _Of) -> None:
    metric, over, delta = of
    st.subheader("Module by module")
    other, log = _other(places)
    with in_words():
        comparison = run_comparison(study.updates(), list(places.values()), metric, over=over, delta=delta)
        show_figure(lambda style: method_against_method(comparison, style, other=other, log=log), key="against")
        st.caption(escaped("; ".join(f"{number}: {name}" for number, name in enumerate(places, 1))))
        show_table(comparison.table, name=f"differences-{metric}", key="differences")
        if not comparison.only.empty:
            st.subheader("Modules that not all of them have")
            show_table(comparison.only, name="modules-of-some", key="only")
