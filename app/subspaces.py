"""Subspaces: how the updates of two runs lie to each other, and in the weight that both stand on."""

from typing import Literal

import pandas as pd
import streamlit as st

from rank_lab.errors import SchemaError
from rank_lab.figures import amplification_plot, intruder_map, phi_map, principal_angles
from rank_lab.study import Study
from rank_lab.subspace_choices import SubspaceChoices, compare_command, subspace_choices
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_views import (
    AmplificationView,
    IntruderView,
    amplification_view,
    angles_view,
    intruder_view,
    phi_view,
)

from .choices import choose_module, choose_of
from .guarded import in_words
from .missing import say_missing, say_problems
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["amplification_of", "angles_of", "intruders_of", "page", "phi_of"]

_SIDES = {"left": "left singular vectors", "right": "right singular vectors", "A": "LoRA's matrix A (paper)"}
_QUANTITIES: tuple[Literal["cosine", "angle"], ...] = ("cosine", "angle")
_SHOWN_AS = {"cosine": "cosines", "angle": "angles, which tell small ones apart"}
_OF = {"module": "the matrix", "all": "all matrices"}


def page(study: Study) -> None:
    """What was compared, similarity and angles, then each update in its weight."""
    st.title("Subspaces")
    reports = study.subspaces()
    if not reports:
        if not say_problems(study, ".subspace"):
            say_missing(
                "This study has no comparison of two updates: whether two runs changed the same directions, and what"
                " the weight held there before. It appears here once this command has written one:",
                compare_command(study),
            )
        return
    name, report, choices = _compared(study)
    _coverage(choices, name)
    if choices.modules:
        _similarity(report, choices, name)
    if choices.updates:
        _in_weights(choices, name)
    elif choices.modules:
        say_missing(
            "Compared without a base: nothing is known of amplification and intruders, which are of an update in its"
            " weight.",
            compare_command(study),
        )


def _coverage(choices: SubspaceChoices, name: str) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in choices.counts.items())
    st.markdown(escaped(f"Modules: {counts or 'none'}."))
    if not choices.told.empty:
        with st.expander("Modules that were not compared, or not in full, and why"):
            show_table(choices.told, name=f"{name}-coverage", key="subspace_coverage")


def _similarity(report: SubspaceReport, choices: SubspaceChoices, name: str) -> None:
    module, side = _place(choices)
    st.subheader("Shared directions")
    with in_words():
        show_figure(_phi(report, module, side), key="phi")
    st.subheader("Principal angles")
    with in_words():
        show_figure(_angles(report, module, side), key="angles")
    show_table(choices.summary, name=f"{name}-similarity", key="similarity")


def _of_update(side: str) -> str:
    """The matrix A has no angles in the tables: those of the update on its side."""
    if side != "A":
        return side
    st.caption(escaped("Of the matrix A alone there are no angles; these are of the update's right singular vectors."))
    return "right"


def _in_weights(choices: SubspaceChoices, name: str) -> None:
    st.subheader("In the weight")
    amplified, intruding = _in_weight(choices)
    if not amplified.empty:
        with in_words():
            view = _amplification(amplified, choices)
            show_figure(lambda style: amplification_plot(view, style), key="amplification", clicked=_chosen)
            show_table(view.table, name=f"{name}-amplification", key="amplification_table")
    if not intruding.empty:
        with in_words():
            found = _intruders(intruding, choices)
            show_figure(lambda style: intruder_map(found, style), key="intruders", clicked=_chosen)
            show_table(found.table, name=f"{name}-intruders", key="intruders_table")


def _compared(study: Study) -> tuple[str, SubspaceReport, SubspaceChoices]:
    reports = study.subspaces()
    if not reports:  # they were there when the page was opened
        raise SchemaError("The comparison is not there any more; look again.")
    name = choose_of("Comparison", tuple(reports), key="comparison")
    return name, reports[name], _choices(reports[name], (str(study.folder), study.signature(), name))


def _place(choices: SubspaceChoices) -> tuple[str, str]:
    left, right = st.columns([2, 1])
    with left:
        module = choose_module(choices.modules)
    with right:
        return module, choose_of("Side", choices.sides, key="side", words=_SIDES)


def _phi(report: SubspaceReport, module: str, side: str) -> Draw:
    view = phi_view(report.phi, module, side=side)
    return lambda style: phi_map(view, style)


def _angles(report: SubspaceReport, module: str, side: str) -> Draw:
    columns = st.columns(2)
    with columns[0]:
        of = choose_of("Of", tuple(_OF), key="angles_of", words=_OF)
    with columns[1]:
        quantity = choose_of("Shown as", _QUANTITIES, key="angles_as", words=_SHOWN_AS)
    view = angles_view(report.angles, (module,) if of == "module" else (), side=_of_update(side))
    return lambda style: principal_angles(view, style, quantity=quantity)


def _in_weight(choices: SubspaceChoices) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Amplification and intruders of one of the updates."""
    if not choices.updates:
        raise SchemaError("Compared without a base: nothing is known of an update in its weight.")
    return choices.updates[choose_of("Update", tuple(choices.updates), key="update")]


def phi_of(study: Study) -> Draw:
    """Directions that two updates share, with the choices of it."""
    _, report, choices = _compared(study)
    return _phi(report, *_place(choices))


def angles_of(study: Study) -> Draw:
    """Principal angles of two updates."""
    _, report, choices = _compared(study)
    return _angles(report, *_place(choices))


def amplification_of(study: Study) -> Draw:
    """How far an update strengthens what its weight does."""
    _, _, choices = _compared(study)
    view = _amplification(_in_weight(choices)[0], choices)
    return lambda style: amplification_plot(view, style)


def intruders_of(study: Study) -> Draw:
    """Directions of a tuned weight that the base does not have."""
    _, _, choices = _compared(study)
    view = _intruders(_in_weight(choices)[1], choices)
    return lambda style: intruder_map(view, style)


def _amplification(rows: pd.DataFrame, choices: SubspaceChoices) -> AmplificationView:
    return amplification_view(rows, r=choose_of("Directions r", choices.ranks, key="r"))


def _intruders(rows: pd.DataFrame, choices: SubspaceChoices) -> IntruderView:
    columns = st.columns(3)
    with columns[0]:
        side = choose_of("Side of the weight", ("left", "right"), key="weight_side", words=_SIDES)
    with columns[1]:
        k = choose_of("Looked at, k", choices.intruder_ks, key="intruder_k")
    with columns[2]:
        thresholds = {f"{each:g}": each for each in choices.epsilons}
        epsilon = thresholds[choose_of("Largest cosine, ε", tuple(thresholds), key="epsilon")]
    return intruder_view(rows, side=side, k=k, epsilon=epsilon)


def _chosen(customdata: list[object]) -> None:
    st.session_state["module"] = customdata[2]


@st.cache_resource(max_entries=4, show_spinner=False)
def _choices(_report: SubspaceReport, state: tuple[str, str, str]) -> SubspaceChoices:  # noqa: ARG001
    """Looked up once for each state of the files."""
    return subspace_choices(_report)
