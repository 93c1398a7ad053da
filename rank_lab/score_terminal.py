"""Scores in the terminal."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Group
from rich.text import Text

from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain
from rank_lab.score_table import ScoreRow

__all__ = ["render_scores", "scores_summary"]

_CUT = re.compile(r"\d+ (?:prompts )?cut on the left(?: to \d+ tokens)?")
_LEFT = ("run", "method", "task", "metric", "role", "harness")


def render_scores(rows: Sequence[ScoreRow]) -> Group:
    """Scores as a table, each with its standard error, number of examples and what guessing gives; notes below it.

    Parameters
    ----------
    rows
        In the order in which they are shown.

    Examples
    --------
    >>> render_scores([ScoreRow("lora", "lora", 100, "winogrande", "acc", 0.5)]).renderables[0].row_count
    1
    """
    table = PlainTable(title="scores", title_justify="left")
    for name in ("run", "method", "step", "task", "metric", "value", "n", "shots", "chance", "role", "harness"):
        table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
    for row in rows:
        cells = (
            row.run, row.method, _shown(row.step), row.task, row.metric, _value(row), _shown(row.n),
            _shown(row.few_shot), "" if row.chance is None else f"{row.chance:.3g}", row.role,
            f"{row.harness} {row.harness_version}".strip(),
        )  # fmt: skip
        table.add_row(*cells)
    return Group(table, *(Text(plain(note), style="yellow") for note in _cut_prompts(rows)))


def _cut_prompts(rows: Sequence[ScoreRow]) -> list[str]:
    """Of each task whose prompts did not fit, on how many: what was cut off is the task, or its solved examples."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        cut = _CUT.search(row.source)
        if cut is not None:
            shots = f" {row.few_shot}-shot" if row.few_shot else ""
            found.setdefault(f"{row.task}{shots}", {})[cut[0]] = None
    return [f"note: {task}: prompts longer than the model's room: {'; '.join(cuts)}" for task, cuts in found.items()]


def scores_summary(rows: Sequence[ScoreRow]) -> list[dict[str, Any]]:
    """Scores as plain values, without those of the examples.

    Examples
    --------
    >>> scores_summary([ScoreRow("lora", "lora", 100, "winogrande", "acc", 0.5)])[0]["value"]
    0.5
    """
    return [{name: value for name, value in asdict(row).items() if name != "examples"} for row in rows]


def _value(row: ScoreRow) -> str:
    if row.stderr is not None:
        return f"{row.value:.4g} ± {row.stderr:.2g}"
    counted = row.value.is_integer() and 1e3 <= abs(row.value) < 2**53  # parameters, bytes
    return f"{row.value:,.0f}" if counted else f"{row.value:.4g}"


def _shown(value: object) -> str:
    return "" if value is None else str(value)
