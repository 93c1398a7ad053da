"""Overview: what is in the study; what is missing from it and what to beware of comes first."""

import pandas as pd
import streamlit as st

from rank_lab.coverage_overview import CoverageOverview, coverage_overview
from rank_lab.figures import noise_and_coverage
from rank_lab.run_overview import left_out, run_overview
from rank_lab.study import Study
from rank_lab.warning_groups import warning_groups

from .empty import ranks_of
from .guarded import in_words
from .shown import show_figure, show_table
from .text import escaped

__all__ = ["page"]


def page(study: Study) -> None:
    """Coverage and warnings, runs, and what else there is."""
    st.title(escaped(study.name))
    updates = ranks_of(study)
    if study.reports():
        overview, warnings, runs = _tables(study, (str(study.folder), study.signature()))
        without = left_out(overview.reasons)
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
                show_figure(lambda style: noise_and_coverage(overview, style), key="coverage")
    _beside(study)


@st.cache_resource(max_entries=2, show_spinner=False)
def _tables(
    _study: Study,
    state: tuple[str, str],  # noqa: ARG001
) -> tuple[CoverageOverview, pd.DataFrame, pd.DataFrame]:
    """Coverage, warnings and runs, counted once for each state of the files."""
    updates = _study.updates()
    return coverage_overview(updates, _study.coverage()), warning_groups(updates), run_overview(_study.reports())


def _beside(study: Study) -> None:
    """Curve and scores, if any."""
    st.subheader("Also in this study")
    curve, outcomes = study.curve(), study.outcomes()
    if curve is not None:
        st.markdown(escaped(f"A curve of memorization and generalization, {len(curve.records)} rows: page Scheduler."))
    if outcomes is not None:
        st.markdown("Scores: what was learnt and what was forgotten, page Forgetting.")
    if curve is None and outcomes is None:
        st.caption("No scores yet (rank-lab evaluate, import-scores) and no curve of a schedule (rank-lab schedule).")
