"""What a study's runs learned and forgot, in the terminal: checkpoints, fronts, seeds, equal learning, ranks."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from rank_lab.checkpoint_scores import MEASURES
from rank_lab.outcomes import Outcomes
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain

__all__ = ["outcome_summary", "render_outcomes"]

_LEFT = frozenset({"run", "method", "setting", "measure", "item", "level", "why"})
_STRONGEST = 10
_NOTHING = frozenset({"", "-"})
_SMALL = 1e-3  # below it, four decimals show one digit or none
_MOST_REASONS = 12
_SHORT = {"forgetting_normalised": "normalised", "cross_entropy_increase": "loss_rise"}  # headings of measures


def outcome_summary(found: Outcomes) -> dict[str, Any]:
    """What ``--json`` prints of outcomes: the rows of every table, missing values as null.

    Parameters
    ----------
    found
        Of a study.
    """
    tables = {
        "checkpoints": found.checkpoints, "learning": found.learning, "trade_offs": found.trade_offs.points,
        "pareto": found.trade_offs.areas, "seed_groups": found.trade_offs.groups,
        "equal_learning": found.trade_offs.equal_learning, "rank_forgetting": found.associations,
        "scores_left_out": found.left_out,
    }  # fmt: skip
    return {name: json.loads(table.to_json(orient="records", double_precision=15)) for name, table in tables.items()}


def render_outcomes(found: Outcomes) -> Group:
    """Tables for a terminal, one set for each target, then what the words mean and what is missing.

    Parameters
    ----------
    found
        Of a study.
    """
    parts: list[Any] = []
    targets = list(found.trade_offs.points["target"].unique())
    if not len(found.checkpoints):
        return Group(
            Text("\nonly the base was scored: evaluate a run, to see what it learned and forgot", style="yellow")
        )
    for target in targets or [None]:
        parts.append(_heading(target))
        parts.append(_checkpoints(found, target))
        if target is not None:
            parts += _of_target(found, target)
    parts += _warnings(found)
    parts.append(Text(_legend(found), style="dim"))
    return Group(*parts)


def _heading(target: str | None) -> Text:
    if target is None:
        return Text(
            "\nno target with a measure of forgetting: give tasks the roles 'target' and 'source'", style="yellow"
        )
    return Text.assemble("\n", (plain(target), "bold"))


def _checkpoints(found: Outcomes, target: str | None) -> PlainTable:
    measures = [name for name in MEASURES if name in found.checkpoints.columns]
    headings = [_SHORT.get(name, name) for name in measures]
    columns = ("run", "step", "method", "rate", "seed", "k90", "erank", "learning", *headings, "")
    lines = []
    learned = {_place(row): row for row in _records(found.learning[found.learning["target"] == target])}
    points = found.trade_offs.points
    own = {(*_place(row), row["measure"]): row for row in _records(points[points["target"] == target])}
    for row in _records(found.checkpoints):
        place = _place(row)
        ranks = [_beside_null(row, name) for name in ("energy_rank_90", "effective_rank")]
        cells = [_front(_interval(row, name), own.get((*place, name))) for name in measures]
        gained = _interval(learned[place], "learning") if place in learned else "-"
        told = (row["run"], _whole(row["step"]), row["method"], _number(row["learning_rate"], "{:.3g}"))
        lines.append((*told, _whole(row["seed"]), *ranks, gained, *cells, "" if row["reason"] == "" else "!"))
    return _table(columns, lines)


def _front(text: str, point: Mapping[str, Any] | None) -> str:
    """A value with a star on the front, and the share of resamples in which it is there."""
    if point is None:
        return text
    star = " *" if point["on_front"] else ""
    share = "" if pd.isna(point["front_share"]) else f" {point['front_share']:.0%}"
    return text + (star + share if star or share not in ("", " 0%") else "")


def _of_target(found: Outcomes, target: str) -> list[Any]:
    tables = found.trade_offs
    parts: list[Any] = []
    areas = tables.areas[tables.areas["target"] == target]
    if len(areas):
        parts.append(_areas(areas))
    groups = tables.groups[(tables.groups["target"] == target)]
    if len(groups):
        parts.append(_groups(_last_steps(groups)))
    equal = tables.equal_learning[tables.equal_learning["target"] == target]
    if len(equal):
        parts.append(_equal(equal))
    strongest = found.associations[found.associations["target"] == target]
    if strongest["correlation"].notna().any():
        parts += _associations(strongest)
    return parts


def _areas(areas: pd.DataFrame) -> PlainTable | Text:
    columns = ("measure", "method", "hypervolume", "down to learning, forgetting")
    lines = [
        (
            row["measure"],
            row["method"],
            _ends(row["hypervolume"], row["low"], row["high"]),
            f"{row['reference_learning']:.4g}, {row['reference_forgetting']:.4g}",
        )
        for row in _records(areas)
    ]
    return _table_or_why(columns, lines, "area that each front dominates", ("hypervolume",))


def _groups(groups: pd.DataFrame) -> PlainTable | Text:
    title = "at the last step: means over seeds, with Student's interval; > marks the best rate by the target"
    columns = ("measure", "method", "setting", "rate", "seeds", "learning", "forgetting", "why")
    lines = [
        (
            row["measure"],
            row["method"],
            row["setting"],
            ("> " if row["best_learning_rate"] else "") + _number(row["learning_rate"], "{:.3g}"),
            str(row["seeds"]),
            _interval(row, "learning"),
            _interval(row, "forgetting"),
            "; ".join(text for text in (row["reason"], row["note"]) if text),
        )
        for row in _records(groups)
    ]
    return _table_or_why(columns, lines, title, ("learning", "forgetting"))


def _equal(rows: pd.DataFrame) -> PlainTable | Text:
    title = "forgetting at equal learning, on straight lines along each run; mean over seeds"
    columns = ("measure", "learning", "method", "setting", "rate", "seeds", "forgetting", "why")
    lines = [
        (
            row["measure"],
            f"{row['at_learning']:.4g}",
            row["method"],
            row["setting"],
            _number(row["learning_rate"], "{:.3g}"),
            str(row["seeds"]),
            _ends(row["forgetting"], row["low"], row["high"]),
            row["reason"],
        )
        for row in _records(rows)
    ]
    return _table_or_why(columns, lines, title, ("forgetting",))


def _associations(rows: pd.DataFrame) -> list[Any]:
    parts: list[Any] = []
    for (measure, methods, rank), own in rows[rows["correlation"].notna()].groupby(
        ["measure", "methods", "rank"], sort=False
    ):
        modules = own[own["level"] == "module"].sort_values("p_bh", kind="stable")
        called = int((modules["p_bh"] <= 0.05).sum())
        title = (
            f"{rank} and {measure}, {methods}: of {len(modules)} matrices {called} go together"
            " (false discovery rate 5 %)"
        )
        columns = ("level", "item", "runs", "correlation", "p (BH)", "p (Holm)", "given learning", "p (BH) given")
        lines = [
            (
                row["level"],
                row["item"],
                str(row["runs"]),
                _ends(row["correlation"], row["low"], row["high"]),
                _number(row["p_bh"], "{:.3g}"),
                _number(row["p_holm"], "{:.3g}"),
                _ends(row["partial"], row["partial_low"], row["partial_high"]),
                _number(row["partial_p_bh"], "{:.3g}"),
            )
            for row in _records(pd.concat([own[own["level"] != "module"], modules.head(_STRONGEST)]))
        ]
        parts.append(_table(columns, lines, title))
    return parts


def _last_steps(groups: pd.DataFrame) -> pd.DataFrame:
    keys = ["measure", "method", "setting", "learning_rate"]
    last = groups.groupby(keys, dropna=False)["step"].transform("max")
    return groups[(groups["step"] == last) | groups["step"].isna()]


def _warnings(found: Outcomes) -> list[Text]:
    told: dict[str, list[str]] = {}
    for row in _records(found.checkpoints):
        place = f"{row['run']} step {_whole(row['step'])}"
        names = ["reason", *(f"{name}_reason" for name in MEASURES if f"{name}_reason" in row)]
        for reason in (row[name] for name in names):
            if reason and reason != "not measured":
                told.setdefault(reason, []).append(place)
    for row in _records(found.learning):
        if row["learning_reason"]:
            told.setdefault(row["learning_reason"], []).append(f"{row['run']} step {_whole(row['step'])}")
    for row in _records(found.associations):
        if row["reason"]:
            told.setdefault(f"no correlation: {row['reason']}", []).append(f"{row['level']} {row['item']}")
    lines = [_line(reason, dict.fromkeys(places)) for reason, places in told.items()]
    lines += [
        Text(plain(f"  left out: {row['score']}: {row['reason']}"), style="yellow") for row in _records(found.left_out)
    ]
    more = len(lines) - _MOST_REASONS
    return lines[:_MOST_REASONS] + (
        [Text(f"  ... and {more} more reasons in the exported tables", style="yellow")] if more > 0 else []
    )


def _line(reason: str, places: Iterable[str]) -> Text:
    first, *others = places
    return Text(plain(f"  ! {reason} - {first}{f' and {len(others)} more' if others else ''}"), style="yellow")


def _legend(found: Outcomes) -> str:
    measures = [
        f"{_named(name)}, {text} ({'; '.join(filter(None, found.checkpoints[f'{name}_tasks'].unique()))})"
        for name, text in MEASURES.items()
        if name in found.checkpoints.columns
    ]
    known = "; ".join(measures) or "no measure of forgetting"
    return (
        f"learning: gained over the base, larger is more; {known}. Intervals are of the examples alone, paired where"
        " both models were scored on the same; they say nothing of other seeds. *: no other checkpoint learned as much"
        " and forgot as little; the share is that of resamples of the examples. Noise makes an area larger: of points"
        " that are close it counts the luckiest. k90, erank: means over matrices by their share of the change / the"
        " same of white noise. The best rate is chosen and shown on the same examples: give the target's validation set"
        " for it. Correlations: one point a run; runs of several methods differ in rank by construction."
    )


def _named(measure: str) -> str:
    """A measure, and its heading where that is shorter."""
    return f"{measure} ({_SHORT[measure]})" if measure in _SHORT else measure


def _table(columns: Sequence[str], lines: Sequence[Sequence[str]], title: str = "") -> PlainTable:
    """Lines of text; columns that say nothing are left out."""
    table = PlainTable(
        box=None,
        pad_edge=False,
        header_style="bold",
        title=Text(f"\n{plain(title)}") if title else None,
        title_justify="left",
    )
    told = [place for place in range(len(columns)) if any(line[place] not in _NOTHING for line in lines)]
    for place in told:
        name = columns[place]
        table.add_column(name, justify="left" if name in _LEFT else "right", overflow="fold")
    for line in lines:
        table.add_row(*(line[place] for place in told))
    return table


def _table_or_why(
    columns: Sequence[str], lines: Sequence[Sequence[str]], title: str, values: Sequence[str]
) -> PlainTable | Text:
    """The table, or in one line why it would hold no value."""
    places = [columns.index(name) for name in values]
    if any(line[place] not in _NOTHING for line in lines for place in places):
        return _table(columns, lines, title)
    reasons = dict.fromkeys(line[columns.index("why")] for line in lines) if "why" in columns else {}
    why = "; ".join(filter(None, reasons))
    return Text("\n" + plain(f"{title}: none{f' ({why})' if why else ''}"), style="yellow")


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict(orient="records")]


def _place(row: Mapping[str, Any]) -> tuple[str, int | None]:
    return row["run"], None if pd.isna(row["step"]) else int(row["step"])


def _interval(row: Mapping[str, Any], name: str) -> str:
    return _ends(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _ends(value: Any, low: Any, high: Any) -> str:
    if pd.isna(value):
        return "-"
    ends = [] if pd.isna(low) or pd.isna(high) else [float(low), float(high)]
    largest = max(map(abs, [float(value), *ends]))
    form = "{:z.2g}" if 0 < largest < _SMALL else "{:z.4f}"
    shown = [form.format(float(each)) for each in (value, *ends)]
    return f"{shown[0]} ({shown[1]} to {shown[2]})" if ends else shown[0]


def _beside_null(row: Mapping[str, Any], name: str) -> str:
    value, null = row[name], row[f"null_{name}"]
    return "-" if pd.isna(value) or math.isnan(value) else f"{value:.1f} / {_number(null, '{:.1f}')}"


def _whole(value: Any) -> str:
    return "-" if pd.isna(value) else str(int(value))


def _number(value: Any, form: str) -> str:
    return "-" if pd.isna(value) else form.format(value)
