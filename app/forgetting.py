"""Forgetting: what each checkpoint learned, what it lost for it, and how that goes with rank."""

import streamlit as st

from rank_lab.figures import association_plot, rank_and_forgetting, trade_off
from rank_lab.figures.outcome_words import MEASURE_NAMES, target_words
from rank_lab.next_commands import evaluate_command
from rank_lab.outcome_choices import forgetting_measures_of, methods_of, of_trade_off, ranks_of, targets_of
from rank_lab.outcomes import Outcomes
from rank_lab.rank_points import LEVELS, Level, association_points, rank_points
from rank_lab.shown_values import quantity_label
from rank_lab.study import Study
from rank_lab.trade_off_points import TRADE_OFFS_OF, TradeOffOf, trade_off_points

from .choices import choose_of, choose_switch
from .guarded import in_words
from .missing import say_missing, say_problems
from .shown import Draw, show_figure, show_table
from .text import escaped

__all__ = ["associations_of", "choose_measure", "choose_target", "page", "rank_and_forgetting_of", "trade_off_of"]

_OF = {"checkpoints": "a checkpoint", "seeds": "the mean over seeds"}
_LEVELS = {"kind": "kind of module", "module": "matrix"}
_TABLES = {
    "points": "Checkpoints",
    "equal_learning": "Forgetting at equal learning",
    "areas": "Area that each front dominates",
    "groups": "Means over seeds",
}


def page(study: Study) -> None:
    """Trade-off, its tables, ranks beside forgetting, and what was left out."""
    st.title("Forgetting")
    outcomes = study.outcomes()
    if outcomes is None:
        if not say_problems(study, "scores.parquet"):
            what = (
                "This study has no scores, so that nothing is known of learning and forgetting; evaluate its runs and"
                " their base on what they were to learn (target) and on what the base could do (source)."
            )
            say_missing(what, evaluate_command(study))
        return
    columns = st.columns(3)
    with columns[0]:
        target = choose_target(outcomes)
    with columns[1]:
        measure = choose_measure(outcomes)
    with in_words():
        with columns[2]:
            draw = trade_off_of(outcomes, target, measure)
        show_figure(draw, key="trade_off")
    if target is not None and measure is not None:
        _tables(outcomes, target, measure)
    st.subheader("Rank and forgetting")
    with in_words():
        show_figure(rank_and_forgetting_of(outcomes, measure), key="rank_forgetting")
    st.subheader("Which layers and kinds")
    with in_words():
        show_figure(associations_of(outcomes, target, measure), key="associations")
    with st.expander("All correlations, also those without a value and why"):
        show_table(outcomes.associations, name="rank_forgetting", key="table_associations")
    st.subheader("Every checkpoint")
    show_table(outcomes.checkpoints, name="outcomes", key="table_checkpoints")
    st.subheader("What was left out, and why")
    if outcomes.left_out.empty:
        st.markdown(escaped("Every score took part."))
        return
    show_table(outcomes.left_out, name="scores_left_out", key="table_left_out")


def choose_target(outcomes: Outcomes) -> str | None:
    """What was learned; None where nothing was scored as a target."""
    targets = targets_of(outcomes)
    return (
        choose_of("Target", targets, key="target", words={name: target_words(name) for name in targets})
        if targets
        else None
    )


def choose_measure(outcomes: Outcomes) -> str | None:
    """A measure of forgetting; None where nothing was scored as a source."""
    measures = forgetting_measures_of(outcomes)
    return choose_of("Forgetting, as", measures, key="forgetting", words=MEASURE_NAMES) if measures else None


def trade_off_of(outcomes: Outcomes, target: str | None, measure: str | None) -> Draw:
    """Learning against forgetting."""
    of: TradeOffOf = choose_of("A point is", TRADE_OFFS_OF, key="points", words=_OF)
    found = trade_off_points(outcomes.trade_offs, target, measure, of=of)
    return lambda style: trade_off(found, style)


def rank_and_forgetting_of(outcomes: Outcomes, measure: str | None) -> Draw:
    """The rank of whole models beside what they forgot."""
    left, right = st.columns(2)
    with left:
        ranks = ranks_of(outcomes)
        rank = choose_of("Rank", ranks, key="rank", words={name: quantity_label(name) for name in ranks})
    with right:
        over_null = choose_switch("Over its null", key="over_null")
    found = rank_points(outcomes, rank, measure, over_null=over_null)
    return lambda style: rank_and_forgetting(found, style)


def associations_of(outcomes: Outcomes, target: str | None, measure: str | None) -> Draw:
    """Correlations of rank with forgetting, kind by kind or matrix by matrix."""
    columns = st.columns(3)
    methods = methods_of(outcomes)
    with columns[0]:
        level: Level = choose_of("Of each", LEVELS, key="level", words=_LEVELS)
    with columns[1]:
        method = choose_of("Runs", methods, key="methods") if methods else "all methods"
    with columns[2]:
        given = choose_switch("Given what was learned", key="given_learning")
    found = association_points(outcomes, measure, target=target, methods=method, level=level, given_learning=given)
    return lambda style: association_plot(found, style)


def _tables(outcomes: Outcomes, target: str, measure: str) -> None:
    own = of_trade_off(outcomes.trade_offs, target, measure)
    for tab, name in zip(st.tabs(list(_TABLES.values())), _TABLES, strict=True):
        with tab:
            show_table(getattr(own, name), name=f"forgetting-{name}", key=f"table_{name}")
