"""Learning or forgetting along training: a line a run."""

import pandas as pd
import plotly.graph_objects as go

from rank_lab.figures.captions import caption
from rank_lab.figures.error_bars import bars, floats, interval_words, plain_rows
from rank_lab.figures.figure import Figure
from rank_lab.figures.legends import legend
from rank_lab.figures.outcome_words import (
    MEASURE_NAMES,
    forgetting_axis,
    learning_axis,
    learning_words,
    measure_words,
    target_words,
)
from rank_lab.figures.style import Mark, Style, label, marks, new_plot, palette
from rank_lab.outcome_steps import LEARNING, OutcomeSteps

__all__ = ["outcome_trajectory"]

_MOST_RUNS = 8  # that are told apart by themselves; of more, their methods are


def outcome_trajectory(found: OutcomeSteps, style: Style = "light") -> Figure:
    """One quantity against the optimizer step.

    Parameters
    ----------
    found
        From :func:`rank_lab.outcome_steps.outcome_steps`.
    style
        Of the plot.

    Returns
    -------
    Figure
        A trace a run, or a trace a method where there are more than eight runs; zero, where the base is, as a line.
    """
    learned = found.quantity == LEARNING
    y = learning_axis(found.target) if learned else forgetting_axis(found.quantity)
    shown = target_words(found.target) if learned else MEASURE_NAMES.get(found.quantity, found.quantity)
    title = f"Along training: {label(shown)}"
    plot = new_plot(
        style, title=title, x="optimizer step", y=y, legend=legend(style), height=300 if style == "paper" else 420
    )
    by = "run" if found.points["run"].nunique() <= _MOST_RUNS else "method"
    looks = marks(list(dict.fromkeys(str(each) for each in found.points[by])), style)
    plot.add_hline(y=0.0, line={"color": palette(style).null, "width": 1, "dash": "dash"}, name="base")
    for name, look in looks.items():
        plot.add_trace(_lines(found.points[found.points[by] == name], name, look))
    data = found.points.assign(quantity=found.quantity, target=found.target)
    return Figure(
        f"{found.quantity}_along_training", "Along training", plot, data, _caption(found, by), (found.quantity,)
    )


def _lines(rows: pd.DataFrame, name: str, look: Mark) -> go.Scatter:
    """Runs of one name one after the other, a gap between them."""
    parts = [own.reset_index(drop=True).reindex(range(len(own) + 1)) for _, own in rows.groupby("run", sort=False)]
    lined = pd.concat(parts, ignore_index=True).iloc[:-1]
    return go.Scatter(
        x=floats(lined["step"]), y=floats(lined["value"]), mode="lines+markers", name=label(name),
        line={"color": look.color, "width": 1.2, "dash": look.dash},
        marker={"symbol": look.symbol, "size": 6, "color": look.color},
        error_y=bars(lined, "value", low="low", high="high", color=look.color, thickness=0.8),
        hovertext=[_hover(row) for row in lined.to_dict("records")], hoverinfo="text",
        customdata=plain_rows(lined, "run", "step"),
    )  # fmt: skip


def _hover(row: dict[object, object]) -> str:
    if pd.isna(row["run"]):  # type: ignore[call-overload]
        return ""
    words = interval_words(row, "value", low="low", high="high")
    return f"{label(str(row['run']))}, step {row['step']}<br>{words}"


def _caption(found: OutcomeSteps, by: str) -> str:
    learned = found.quantity == LEARNING
    what = learning_words(found.target) if learned else measure_words(found.quantity)
    ends = int(found.points["low"].isna().sum())
    notes = ["Bars: 95 % interval over examples; they say nothing of other seeds", "Dashed: the base"]
    notes += [f"{ends} points have no interval"] if ends else []
    notes += ["Runs of a method have one colour"] if by == "method" else []
    notes += [f"{found.without_value} checkpoints have no value and are left out"] if found.without_value else []
    notes += [f"{found.without_step} scores have no step and are left out"] if found.without_step else []
    runs = found.points["run"].nunique()
    tasks = f", measured on {found.tasks}" if found.tasks else ""
    return caption(
        f"{'Learning' if learned else 'Forgetting'} along training", [what],
        f"Data{tasks}: n = {len(found.points)} checkpoints of {runs} runs", notes,
    )  # fmt: skip
