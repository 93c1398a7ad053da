"""Scores in the terminal."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from rank_lab.score_table import ScoreRow

__all__ = ["render_scores", "scores_summary"]

_LEFT = ("run", "method", "task", "metric", "role", "harness")


def render_scores(rows: Sequence[ScoreRow]) -> Table:
    """Scores as a table, each with its standard error, number of examples and what guessing gives.

    Parameters
    ----------
    rows
        In the order in which they are shown.

    Examples
    --------
    >>> render_scores([ScoreRow("lora", "lora", 100, "winogrande", "acc", 0.5)]).row_count
    1
    """
    table = Table(title="scores", title_justify="left")
    for name in ("run", "method", "step", "task", "metric", "value", "n", "shots", "chance", "role", "harness"):
        table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
    for row in rows:
        cells = (
            row.run, row.method, _shown(row.step), row.task, row.metric, _value(row), _shown(row.n),
            _shown(row.few_shot), "" if row.chance is None else f"{row.chance:.3g}", row.role,
            f"{row.harness} {row.harness_version}".strip(),
        )  # fmt: skip
        table.add_row(*map(Text, cells))  # what stands in brackets in a name is no markup
    return table


def scores_summary(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """Scores as plain values, without those of the examples.

    Examples
    --------
    >>> scores_summary([ScoreRow("lora", "lora", 100, "winogrande", "acc", 0.5)])[0]["value"]
    0.5
    """
    return [{name: value for name, value in asdict(row).items() if name != "examples"} for row in rows]


def _value(row: ScoreRow) -> str:
    return f"{row.value:.4g}" if row.stderr is None else f"{row.value:.4g} ± {row.stderr:.2g}"


def _shown(value: object) -> str:
    return "" if value is None else str(value)
