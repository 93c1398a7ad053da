"""Function: the rank of what updates do to real texts, all methods on one axis, beside nulls and the weight's."""

import pandas as pd
import streamlit as st

from rank_lab.figures import functional_depth_plot, functional_weight_plot
from rank_lab.functional_choices import FunctionalChoices, functional_choices, measure_command
from rank_lab.functional_views import functional_depth, functional_weights
from rank_lab.shown_values import quantity_label
from rank_lab.study import Study

from .behavioural import show_behavioural
from .choices import choose_of, choose_several
from .guarded import in_words
from .missing import say_missing, say_problems
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["against_weight_of", "choose_functional", "depth_of", "page"]

_MOST = 8
_SCOPES = {
    "layer": "hidden states, same tokens", "module": "outputs of modules, same input",
    "weighted": "weight's change on the inputs",
}  # fmt: skip


def page(study: Study) -> None:
    """Ranks of what updates do along depth and beside the weight's own; how many of their directions do it."""
    st.title("Function")
    if study.functional():
        _functional(study)
    elif not say_problems(study, ".functional"):
        say_missing(
            "This study has no functional ranks: how many directions an update fills on real texts, which adapters"
            " without a weight update have as well. They appear here once this command has written them:",
            measure_command(study),
        )
    say_problems(study, ".behavioural")
    show_behavioural(study)


def _functional(study: Study) -> None:
    choices, metric = choose_functional(study)
    for warning in choices.warnings:
        st.warning(escaped(warning), icon=":material/warning:")
    with in_words():
        draw, table = depth_of(choices, metric)
        show_figure(draw, key="functional_depth")
        show_table(table, name=f"functional-{metric}", key="functional_table")
    if choices.has_weights:
        st.subheader("Beside the rank of the weight's change")
        with in_words():
            show_figure(against_weight_of(choices, metric), key="functional_weight")
    st.subheader("What changed, and what a linear map explains of it")
    show_table(choices.changes, name="functional-changes", key="functional_changes")
    if not choices.left_out.empty:
        with st.expander("Modules that were not measured, and why"):
            show_table(choices.left_out, name="functional-coverage", key="functional_coverage")


def choose_functional(study: Study) -> tuple[FunctionalChoices, str]:
    """The runs that are shown, with what can be chosen of them, and the quantity."""
    state = (str(study.folder), study.signature())
    names = tuple(study.functional())
    left, right = st.columns([2, 1])
    with left:
        chosen = choose_several("Runs", names, key="functional_runs", default=names[:_MOST], most=_MOST)
    choices = _choices(study, (*state, tuple(chosen)))
    with right:
        words = {name: quantity_label(name) for name in choices.metrics}
        metric = choose_of("Quantity", choices.metrics, key="functional_metric", words=words)
    return choices, metric


def depth_of(choices: FunctionalChoices, metric: str) -> tuple[Draw, pd.DataFrame]:
    """Along depth, with the choices of what changed, and its table."""
    left, right = st.columns(2)
    with left:
        scope = choose_of("What changed", tuple(choices.kinds), key="scope", words=_SCOPES)
    with right:
        kind = choose_of("Kind of module", choices.kinds[scope], key="functional_kind")
    view = functional_depth(choices.ranks, choices.all_changes, metric, scope=scope, kind=kind)
    return lambda style: functional_depth_plot(view, style), view.points


def against_weight_of(choices: FunctionalChoices, metric: str) -> Draw:
    """Each module's functional rank against the rank of its weight's change."""
    view = functional_weights(choices.ranks, choices.all_changes, metric)
    return lambda style: functional_weight_plot(view, style)


@st.cache_resource(max_entries=4, show_spinner=False)
def _choices(_study: Study, state: tuple[str, str, tuple[str, ...]]) -> FunctionalChoices:
    """Looked up once for each state of the files."""
    reports = _study.functional()
    return functional_choices({name: reports[name] for name in state[2]})
