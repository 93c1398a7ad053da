"""Overview: what is in the study; what is missing from it and what to beware of comes first."""

import pandas as pd
import streamlit as st

from rank_lab.coverage_overview import CoverageOverview, coverage_overview
from rank_lab.figures import noise_and_coverage
from rank_lab.places import last_steps
from rank_lab.run_overview import left_out, run_overview
from rank_lab.study import Study
from rank_lab.warning_groups import warning_groups

from .choices import choose_switch
from .empty import ranks_of
from .guarded import in_words
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["coverage_of", "page", "read_ahead"]


def page(study: Study) -> None:
    """Coverage and warnings, runs, and what else there is."""
    st.title(escaped(study.name))
    updates = ranks_of(study)
    if study.reports():
        state = (str(study.folder), study.signature())
        warnings, runs = _tables(study, state)
        without = left_out(_overview(study, state, every=True).reasons)
        if not without.empty:
            st.subheader("Tensors without ranks, and why")
            show_table(without, name="coverage-reasons", key="reasons")
        if not warnings.empty:
            st.subheader("Warnings")
            show_table(warnings, name="warnings", key="warnings")
        st.subheader("Runs")
        show_table(runs, name="runs", key="runs_table")
        if updates is not None:
            with in_words():
                show_figure(coverage_of(study), key="coverage")
    _beside(study)


def read_ahead(study: Study) -> None:
    """Read, count and draw what the page shows, so that its first reader does not wait for it."""
    study.problems()  # reads all that is there
    if study.reports():
        state = (str(study.folder), study.signature())
        _tables(study, state)
        _overview(study, state, every=True)
        noise_and_coverage(_overview(study, state, every=False), "light")


def coverage_of(study: Study) -> Draw:
    """What became of the tensors and what rounding hides, at the last step of each run or at all of them."""
    every = choose_switch("All steps", key="all_steps", explained="Else the last step of each run.")
    overview = _overview(study, (str(study.folder), study.signature()), every=every)
    return lambda style: noise_and_coverage(overview, style)


@st.cache_resource(max_entries=4, show_spinner=False)
def _overview(_study: Study, state: tuple[str, str], *, every: bool) -> CoverageOverview:  # noqa: ARG001
    """Counted once for each state of the files."""
    tables = (_study.updates(), _study.coverage())
    return coverage_overview(*(tables if every else map(last_steps, tables)))


@st.cache_resource(max_entries=2, show_spinner=False)
def _tables(_study: Study, state: tuple[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:  # noqa: ARG001
    """Warnings and runs, counted once for each state of the files."""
    return warning_groups(_study.updates()), run_overview(_study.reports())


def _beside(study: Study) -> None:
    """Curve and scores, if any."""
    st.subheader("Also in this study")
    curve, outcomes = study.curve(), study.outcomes()
    if curve is not None:
        st.markdown(escaped(f"A curve of memorization and generalization, {len(curve.records)} rows: page Scheduler."))
    if outcomes is not None:
        st.markdown("Scores: what was learned and what was forgotten, page Forgetting.")
    if curve is None and outcomes is None:
        st.caption("No scores yet (rank-lab evaluate, import-scores) and no curve of a schedule (rank-lab schedule).")
