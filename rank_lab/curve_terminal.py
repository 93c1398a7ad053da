"""Curves of memorization and generalization in the terminal: a row a stage, controls beneath, knees last."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.table import Table
from rich.text import Text

from rank_lab.curve import SORA, CurveRow

__all__ = ["render_curve", "sentence"]

_HEADINGS = ("stage", "threshold", "steps", "ended", "gates", "parameters", "memorization", "generalization", "loss")
_ENDED = {"max_steps": "not converged", "target_not_reached": "target not reached", "not_trained": "-"}


def render_curve(rows: pd.DataFrame, knees: Sequence[Mapping[str, Any]] = ()) -> Group:
    """Tables for a terminal, one for each seed and control.

    Parameters
    ----------
    rows
        Of a curve, as ``curve.jsonl`` has them.
    knees
        What ``knees.json`` holds.
    """
    parts: list[Any] = []
    for (seed, control), part in rows.groupby(["seed", "control"], sort=False):
        first = part.iloc[0]
        parts.append(
            Text.assemble(
                "\n", (str(control), "bold"), f"  {first['model']} on {first['task']}, seed {seed}: {first['score']}, "
                f"{first['train_examples']} training and {first['validation_examples']} validation examples"
            )
        )  # fmt: skip
        parts.append(_table(part))
    parts += _warnings(rows)
    parts += [Text(f"  knee of {_knee(knee)}") for knee in knees]
    parts.append(Text(_legend(rows), style="dim"))
    return Group(*parts)


def sentence(row: CurveRow) -> str:
    """One line on a stage or control that is done.

    Parameters
    ----------
    row
        Its row.
    """
    values = vars(row)
    threshold = "" if row.threshold is None else f"threshold {row.threshold:.4g}, "
    trained = "" if row.control != SORA else f", {row.steps} steps, {_ENDED.get(row.stop, row.stop)}"
    return (
        f"seed {row.seed}, {row.control}, stage {row.stage}: {threshold}{row.nonzero_gates} of {row.gates} gates,"
        f" memorization {_with_interval(values, 'memorization')},"
        f" generalization {_with_interval(values, 'generalization')}{trained}"
    )


def _table(rows: pd.DataFrame) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading == "ended" else "right", no_wrap=True)
    for row in rows.to_dict(orient="records"):
        table.add_row(
            str(row["stage"]),
            _number(row["threshold"], "{:.4g}"),
            _number(row["steps"], "{:.0f}"),
            _ENDED.get(str(row["stop"]), str(row["stop"])),
            f"{row['nonzero_gates']}/{row['gates']}",
            f"{row['nonzero_parameters']:,}",
            _with_interval(row, "memorization"),
            _with_interval(row, "generalization"),
            _number(row["validation_loss"], "{:.4f}"),
        )
    return table


def _with_interval(row: Mapping[Any, Any], name: str) -> str:
    value, low, high = (row[name + end] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return "-"
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} ({low:.1f} to {high:.1f})"


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else form.format(value)


def _warnings(rows: pd.DataFrame) -> list[Text]:
    told = rows[rows["warning"] != ""]
    return [
        Text(f"  warning: seed {row.seed}, {row.control}, stage {row.stage}: {row.warning}", style="red")
        for row in told.itertuples()
    ]


def _knee(knee: Mapping[str, Any]) -> str:
    if knee["value"] is None:
        return f"{knee['curve']}: none ({knee['reason']})"
    return f"{knee['curve']}: {knee['axis']} {knee['value']:.3g} ({knee['low']:.3g} to {knee['high']:.3g})"


def _legend(rows: pd.DataFrame) -> str:
    against = "stage 0" if rows.iloc[0]["reference"] == "stage_0" else "the best stage so far"
    return (
        f"memorization, generalization: 100 x {rows.iloc[0]['score']} on training and validation examples / that of"
        f" {against}, with the 95 % interval of a paired bootstrap; parameters: exact, of non-zero gates."
    )
