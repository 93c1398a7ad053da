"""Subspaces: how the updates of two runs lie to each other, and in the weight that both stand on."""

from typing import Literal

import pandas as pd
import streamlit as st

from rank_lab.figures import amplification_plot, intruder_map, phi_map, principal_angles
from rank_lab.study import Study
from rank_lab.subspace_choices import SubspaceChoices, compare_command, subspace_choices
from rank_lab.subspace_report import SubspaceReport
from rank_lab.subspace_views import amplification_view, angles_view, intruder_view, phi_view

from .choices import choose_module, choose_of
from .clicks import clicked_mark
from .guarded import in_words
from .missing import say_missing, say_problems
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = [
    "amplification_of", "angles_of", "choose_comparison", "choose_module_and_side", "choose_update", "intruders_of",
    "page", "phi_of",
]  # fmt: skip

_SIDES = {"left": "left singular vectors", "right": "right singular vectors", "A": "LoRA's matrix A (paper)"}
_QUANTITIES: tuple[Literal["cosine", "angle"], ...] = ("cosine", "angle")
_SHOWN_AS = {"cosine": "cosines", "angle": "angles, which tell small ones apart"}
_CLICKABLE = ("amplification", "intruders")  # keys of figures whose marks are matrices
_OF = {"module": "the matrix", "all": "all matrices"}


def page(study: Study) -> None:
    """What was compared, similarity and angles, then each update in its weight."""
    st.title("Subspaces")
    if not study.subspaces():
        if not say_problems(study, ".subspace"):
            say_missing(
                "This study has no comparison of two updates: whether two runs changed the same directions, and what"
                " the weight held there before. It appears here once this command has written one:",
                compare_command(study),
            )
        return
    for key in _CLICKABLE:
        if mark := clicked_mark(key):
            st.session_state["module"] = mark[2]
    report, choices, name = choose_comparison(study)
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


def choose_comparison(study: Study) -> tuple[SubspaceReport, SubspaceChoices, str]:
    """One of those that can be read, what can be chosen of it, and its name."""
    reports = study.subspaces()
    name = choose_of("Comparison", tuple(reports), key="comparison")
    report = reports[name]
    return report, _choices(report, (str(study.folder), study.signature(), name)), name


def choose_module_and_side(choices: SubspaceChoices) -> tuple[str, str]:
    """One of the modules that were compared, and which of its vectors."""
    left, right = st.columns([2, 1])
    with left:
        module = choose_module(choices.modules)
    with right:
        side = choose_of("Side", choices.sides, key="side", words=_SIDES)
    return module, side


def phi_of(report: SubspaceReport, module: str, side: str) -> Draw:
    """Similarity of the leading directions."""
    similar = phi_view(report.phi, module, side=side)
    return lambda style: phi_map(similar, style)


def angles_of(report: SubspaceReport, module: str, side: str) -> Draw:
    """Principal angles of the matrix or of all, with the choices of it."""
    columns = st.columns(2)
    with columns[0]:
        of = choose_of("Of", tuple(_OF), key="angles_of", words=_OF)
    with columns[1]:
        quantity = choose_of("Shown as", _QUANTITIES, key="angles_as", words=_SHOWN_AS)
    angles = angles_view(report.angles, (module,) if of == "module" else (), side=_of_update(side))
    return lambda style: principal_angles(angles, style, quantity=quantity)


def choose_update(choices: SubspaceChoices) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Amplification and intruders of one of the two updates."""
    return choices.updates[choose_of("Update", tuple(choices.updates), key="update")]


def amplification_of(rows: pd.DataFrame, choices: SubspaceChoices) -> tuple[Draw, pd.DataFrame]:
    """What the weight holds in the directions of an update, with the choice of how many, and its table."""
    view = amplification_view(rows, r=choose_of("Directions r", choices.ranks, key="r"))
    return lambda style: amplification_plot(view, style), view.table


def intruders_of(rows: pd.DataFrame, choices: SubspaceChoices) -> tuple[Draw, pd.DataFrame]:
    """Intruder dimensions of an update, with the choices of what counts as one, and their table."""
    columns = st.columns(3)
    with columns[0]:
        side = choose_of("Side of the weight", ("left", "right"), key="weight_side", words=_SIDES)
    with columns[1]:
        k = choose_of("Looked at, k", choices.intruder_ks, key="intruder_k")
    with columns[2]:
        thresholds = {f"{each:g}": each for each in choices.epsilons}
        epsilon = thresholds[choose_of("Largest cosine, ε", tuple(thresholds), key="epsilon")]
    view = intruder_view(rows, side=side, k=k, epsilon=epsilon)
    return lambda style: intruder_map(view, style), view.table


def _coverage(choices: SubspaceChoices, name: str) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in choices.counts.items())
    st.markdown(escaped(f"Modules: {counts or 'none'}."))
    if not choices.told.empty:
        with st.expander("Modules that were not compared, or not in full, and why"):
            show_table(choices.told, name=f"{name}-coverage", key="subspace_coverage")


def _similarity(report: SubspaceReport, choices: SubspaceChoices, name: str) -> None:
    module, side = choose_module_and_side(choices)
    st.subheader("Shared directions")
    with in_words():
        show_figure(phi_of(report, module, side), key="phi")
    st.subheader("Principal angles")
    with in_words():
        show_figure(angles_of(report, module, side), key="angles")
    show_table(choices.summary, name=f"{name}-similarity", key="similarity")


def _of_update(side: str) -> str:
    """The matrix A has no angles in the tables: those of the update on its side."""
    if side != "A":
        return side
    st.caption(escaped("Of the matrix A alone there are no angles; these are of the update's right singular vectors."))
    return "right"


def _in_weights(choices: SubspaceChoices, name: str) -> None:
    st.subheader("In the weight")
    amplified, intruding = choose_update(choices)
    if not amplified.empty:
        with in_words():
            draw, table = amplification_of(amplified, choices)
            show_figure(draw, key="amplification", clickable=True)
            show_table(table, name=f"{name}-amplification", key="amplification_table")
    if not intruding.empty:
        with in_words():
            draw, table = intruders_of(intruding, choices)
            show_figure(draw, key="intruders", clickable=True)
            show_table(table, name=f"{name}-intruders", key="intruders_table")


@st.cache_resource(max_entries=4, show_spinner=False)
def _choices(_report: SubspaceReport, state: tuple[str, str, str]) -> SubspaceChoices:  # noqa: ARG001
    """Looked up once for each state of the files."""
    return subspace_choices(_report)
