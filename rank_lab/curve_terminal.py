"""Curves of memorization and generalization in the terminal: a row a stage, controls beneath, knees last."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from rank_lab.bands import bands
from rank_lab.curve import Curve, CurveRow
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain

__all__ = ["curve_summary", "interval_text", "knee_sentence", "render_curve", "sentence"]

_HEADINGS = (
    "stage",
    "threshold",
    "steps",
    "ended",
    "gates",
    "parameters",
    "memorization",
    "generalization",
    "validation loss",
)
_ENDED = {"max_steps": "not converged", "target_not_reached": "target not reached", "not_trained": "-"}


def curve_summary(curve: Curve) -> dict[str, Any]:
    """What ``--json`` prints of a curve: its rows and knees.

    Parameters
    ----------
    curve
        Of a study.
    """
    return {"run": curve.file.name, "rows": [asdict(row) for row in curve.records], "knees": list(curve.knees)}


def render_curve(curve: Curve) -> Group:
    """Tables for a terminal, one for each seed and control, the knees and what the words mean.

    Parameters
    ----------
    curve
        Of a study, with a row at least.
    """
    rows = curve.rows
    parts: list[Any] = []
    for (seed, control), part in rows.groupby(["seed", "control"], sort=False):
        first = part.iloc[0]
        about = (
            f"  {first['model']} on {first['task']}, seed {seed}: {first['score']},"
            f" {first['train_examples']} training and {first['validation_examples']} validation examples"
        )
        parts.append(Text.assemble("\n", (plain(str(control)), "bold"), plain(about)))
        parts.append(_table(part))
    if rows["seed"].nunique() > 1:
        parts.append(_means(rows))
    parts += _warnings(rows)
    parts += [Text(plain(f"  knee of {knee_sentence(knee)}")) for knee in curve.knees]
    parts.append(Text(plain(_legend(rows)), style="dim"))
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
    trained = f", {row.steps} steps, {_ENDED.get(row.stop, row.stop)}" if row.steps else ""
    return (
        f"seed {row.seed}, {row.control}, stage {row.stage}: {threshold}{row.nonzero_gates} of {row.gates} gates,"
        f" memorization {interval_text(values, 'memorization')},"
        f" generalization {interval_text(values, 'generalization')}{trained}"
    )


def _table(rows: pd.DataFrame) -> PlainTable:
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
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
            interval_text(row, "memorization"),
            interval_text(row, "generalization"),
            _number(row["validation_loss"], "{:.4f}"),
        )
    return table


def _means(rows: pd.DataFrame) -> PlainTable:
    """All seeds together: their means, with Student's interval."""
    table = PlainTable(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="\nall seeds: means, with Student's 95 % interval over seeds",
        title_justify="left",
    )
    for heading in ("control", "stage", "seeds", "parameters", "memorization", "generalization"):
        table.add_column(heading, justify="left" if heading == "control" else "right", no_wrap=True)
    found = bands(rows, ["nonzero_parameters", "memorization", "generalization"])
    for (control, stage), part in found.groupby(["control", "stage"], sort=False):
        of = {row["quantity"]: row for row in part.to_dict(orient="records")}
        cells = [
            interval_text(
                {name: of[name]["mean"], f"{name}_low": of[name]["low"], f"{name}_high": of[name]["high"]}, name
            )
            for name in ("memorization", "generalization")
        ]
        seeds = str(min(row["seeds"] for row in of.values()))
        table.add_row(str(control), str(stage), seeds, f"{of['nonzero_parameters']['mean']:,.0f}", *cells)
    return table


def interval_text(row: Mapping[Any, Any], name: str) -> str:
    """A value of a row with its interval, to a tenth of a per cent.

    Parameters
    ----------
    row
        Of a curve.
    name
        ``memorization`` or ``generalization``.
    """
    value, low, high = (row[name + end] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return "-"
    return f"{value:.1f}" if pd.isna(low) else f"{value:.1f} ({low:.1f} to {high:.1f})"


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else form.format(value)


def _warnings(rows: pd.DataFrame) -> list[Text]:
    told = rows[rows["warning"] != ""]
    return [
        Text(plain(f"  warning: seed {row.seed}, {row.control}, stage {row.stage}: {row.warning}"), style="red")
        for row in told.itertuples()
    ]


def knee_sentence(knee: Mapping[str, Any]) -> str:
    """Where the knee of a curve is, or why it has none.

    Parameters
    ----------
    knee
        Of ``knees.json``.
    """
    of = f"{knee['curve']} over {knee['axis']}, {'all seeds' if knee['seed'] is None else 'seed ' + str(knee['seed'])}"
    if knee["value"] is None:
        return f"{of}: none ({knee['reason']})"
    return f"{of}: {knee['value']:.3g} ({knee['low']:.3g} to {knee['high']:.3g})"


def _legend(rows: pd.DataFrame) -> str:
    against = "stage 0" if rows.iloc[0]["reference"] == "stage_0" else "the best stage so far"
    return (
        f"memorization, generalization: 100 x {rows.iloc[0]['score']} on training and validation examples / that of"
        f" {against}, with the 95 % interval of a paired bootstrap; parameters: exact, of non-zero gates; a head that"
        " is trained beside them is not counted."
    )
