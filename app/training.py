"""Training: how ranks, learning and forgetting came to be, checkpoint by checkpoint."""

import pandas as pd
import streamlit as st

from rank_lab.figures import outcome_trajectory, rank_along_training
from rank_lab.figures.outcome_words import MEASURE_NAMES, target_words
from rank_lab.next_commands import evaluate_command, steps_command
from rank_lab.outcome_choices import measures_of, of_runs, targets_of
from rank_lab.outcome_steps import LEARNING, outcome_steps
from rank_lab.outcomes import Outcomes
from rank_lab.row_choices import largest_changes, rows_of_runs, runs_of
from rank_lab.study import Study
from rank_lab.training_table import LINES, LinesBy, TrainingTable, training_table

from .choices import choose_delta_of, choose_metric, choose_of, choose_over, choose_several, choose_switch
from .empty import ranks_of
from .guarded import in_words
from .missing import say_missing, say_problems
from .shown import Draw, show_figure, show_table

__all__ = ["along_training", "choose_runs", "forgetting_along_training", "learning_along_training", "page"]

_MOST_RUNS = 8
_MOST_MATRICES = 12
_FIRST_MATRICES = 6
_LINES = {"run": "a run", "kind": "a kind of module", "module": "a matrix"}


def page(study: Study) -> None:
    """Ranks along steps, and below them what was learned and forgotten there."""
    st.title("Training")
    updates, outcomes = ranks_of(study), study.outcomes()
    if updates is not None:
        runs = choose_runs(updates)
        with in_words():
            _ranks(study, rows_of_runs(updates, runs))
        outcomes = None if outcomes is None else of_runs(outcomes, runs)
    st.subheader("Learning and forgetting")
    if outcomes is None:
        if not say_problems(study, "scores.parquet"):
            what = "This study has no scores; evaluate the same checkpoints and their base."
            say_missing(what, evaluate_command(study))
        return
    with in_words():
        show_figure(learning_along_training(outcomes), key="learning_along_training")
    with in_words():
        show_figure(forgetting_along_training(outcomes), key="forgetting_along_training")


def _ranks(study: Study, rows: pd.DataFrame) -> None:
    draw, table = along_training(rows)
    show_figure(draw, key="along_training")
    if table.points["step"].nunique() == 1:
        say_missing("One step alone; analyze a folder of checkpoints to see how it came to be.", steps_command(study))
    show_table(table.points, name=f"training-{table.metric}", key="training_table")


def choose_runs(updates: pd.DataFrame) -> list[str]:
    """Some of the runs that have ranks."""
    runs = runs_of(updates)
    return choose_several("Runs", runs, key="runs", default=runs[:_MOST_RUNS], most=_MOST_RUNS)


def along_training(rows: pd.DataFrame) -> tuple[Draw, TrainingTable]:
    """A quantity along the steps of some runs, with the choices of it."""
    columns = st.columns(4)
    with columns[0]:
        by: LinesBy = choose_of("A line is", LINES, key="lines", words=_LINES)
    with columns[1]:
        delta = choose_delta_of(rows)
    with columns[2]:
        metric = choose_metric()
    with columns[3]:
        over = choose_over(metric)
    if by == "module":
        modules = [str(each) for each in dict.fromkeys(rows["module"])]
        first = largest_changes(rows, _FIRST_MATRICES)
        named = choose_several("Matrices", modules, key="modules", default=first, most=_MOST_MATRICES)
        rows = rows[rows["module"].isin(named)]
    log_steps = choose_switch("Logarithmic steps", key="log_steps")
    table = training_table(rows, metric, over=over, delta=delta, by=by)
    return lambda style: rank_along_training(table, style, log_steps=log_steps), table


def learning_along_training(outcomes: Outcomes) -> Draw:
    """What was learned of a target."""
    targets = targets_of(outcomes)
    words = {name: target_words(name) for name in targets}
    target = choose_of("Target", targets, key="target", words=words) if targets else None
    found = outcome_steps(outcomes, LEARNING, target=target)
    return lambda style: outcome_trajectory(found, style)


def forgetting_along_training(outcomes: Outcomes) -> Draw:
    """How far models went from their base, by one measure."""
    measures = measures_of(outcomes)
    measure = choose_of("Measure", measures, key="measure", words=MEASURE_NAMES) if measures else "forgetting"
    found = outcome_steps(outcomes, measure)
    return lambda style: outcome_trajectory(found, style)
