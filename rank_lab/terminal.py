"""A report in the terminal: coverage first, then a table of ranks beside their nulls."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from rich.console import Group
from rich.text import Text

from rank_lab.names import KINDS, natural_order
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain
from rank_lab.report import RankReport
from rank_lab.told_ranks import told
from rank_lab.warning_groups import warning_groups

__all__ = ["render", "summary"]

_RANK_COLUMNS = (
    ("energy_rank_90", "k90"), ("energy_rank_99", "k99"), ("stable_rank", "stable"),
    ("effective_rank", "erank"), ("numerical_rank", "rank"),
)  # fmt: skip
_COUNTS = frozenset({"energy_rank_90", "energy_rank_99", "numerical_rank"})
_STATUS_STYLE = {"skipped": "yellow", "new": "cyan", "identical": "dim", "vector": "dim", "analysed": "green"}


def summary(report: RankReport) -> dict[str, Any]:
    """What ``show --json`` prints: counts of coverage, failures, and the rows of the last step.

    Parameters
    ----------
    report
        Any.
    """
    last = _last(report.updates)
    return {
        "run": str(report.provenance["settings"]["run"]),
        "coverage": {str(k): int(v) for k, v in _last(report.coverage)["status"].value_counts().items()},
        "failures": [
            {"tensor": str(row.tensor), "reason": str(row.reason)}
            for row in report.coverage[report.coverage["failed"]].itertuples()
        ],
        "updates": [
            {key: None if pd.isna(value) else value for key, value in row.items()}
            for row in last.to_dict(orient="records")
        ],
    }


def render(report: RankReport, *, modules: bool = False) -> Group:
    """Tables for a terminal.

    Parameters
    ----------
    report
        Any.
    modules
        One line per matrix instead of one per kind of module.
    """
    parts: list[Any] = [_heading(report), *_start(report), _coverage(report), *_problems(report)]
    cumulative = report.updates[report.updates["delta"] == "cumulative"]
    if len(cumulative):
        last = _last(cumulative)
        parts += _warnings(last)
        parts.append(_by_module(last) if modules else _by_kind(last))
        if cumulative["step"].nunique() > 1:
            parts.append(_by_step(report.updates))
        parts.append(Text(_legend(last), style="dim"))
    return Group(*parts)


def _last(table: pd.DataFrame) -> pd.DataFrame:
    if not len(table) or table["step"].isna().all():
        return table
    last: pd.DataFrame = table.loc[table["step"] == table["step"].max()]
    return last


def _heading(report: RankReport) -> Text:
    tuned = report.provenance["tuned"][-1]
    base = report.provenance["base"]
    run = report.provenance["settings"]["run"]
    against = (
        f" against {base['source']}"
        if base
        else ", from its factors alone"
        if len(report.updates)
        else ", without a base"
    )
    return Text.assemble(
        "\n", (plain(str(run)), "bold"), plain(f"  {tuned['source']}{against}{_trained(report.updates)}")
    )


def _start(report: RankReport) -> list[Text]:
    """What was taken out of an adapter without having been asked for."""
    settings = report.provenance["settings"]
    if not settings.get("initial_kept_by_training"):
        return []
    method = (report.provenance.get("training") or {}).get("method")
    return [Text(plain(f"since the adapter as it started, {settings['initial']}: training.json says {method}"))]


def _trained(updates: pd.DataFrame) -> str:
    """Method, optimizer and learning rate, where a record or the tracker says them."""
    told = updates.dropna(subset=["optimizer"]).drop_duplicates(["method", "optimizer", "learning_rate"])
    rates = ["" if pd.isna(rate) else f" at {rate:g}" for rate in told["learning_rate"]]
    names = zip(told["method"], told["optimizer"], rates, strict=True)
    return "".join(f"; {method}, {optimizer}{rate}" for method, optimizer, rate in names)


def _coverage(report: RankReport) -> Text:
    last = _last(report.coverage)
    counts = last["status"].value_counts()
    text = Text("coverage: ")
    for status, style in _STATUS_STYLE.items():
        if status in counts:
            text.append(f"{counts[status]} {status}  ", style=style)
    share = last.loc[last["status"].isin(["vector"]), "change_share"].sum()
    if share > 0:
        text.append(f"({share:.2%} of the squared change lies in vectors)", style="dim")
    return text


def _problems(report: RankReport) -> list[Text]:
    rows = report.coverage[report.coverage["status"].isin(["skipped", "new"])]
    worst = rows.sort_values(["failed", "status"], ascending=[False, False])
    reasons: dict[str, list[str]] = {}
    for row in worst.itertuples():
        reasons.setdefault(f"{row.status}: {row.reason}", []).append(str(row.tensor))
    lines = [
        Text(plain(f"  {reason} - {names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"), style="yellow")
        for reason, names in list(reasons.items())[:8]
    ]
    if len(reasons) > 8:
        lines.append(Text(f"  ... and {len(reasons) - 8} more reasons in the coverage table", style="yellow"))
    return lines


def _warnings(last: pd.DataFrame) -> list[Text]:
    lines = []
    for _, warning, module, matrices in warning_groups(last).head(6).itertuples(index=False, name=None):
        more = f" and {matrices - 1} more" if matrices > 1 else ""
        lines.append(Text(plain(f"  warning: {warning} - {module}{more}"), style="red"))
    return lines


def _by_kind(last: pd.DataFrame) -> PlainTable:
    table = _table("kind", "n", "shape", "share", "‖ΔW‖/‖W‖", "rounding")
    for kind in sorted(last["kind"].dropna().unique(), key=KINDS.index):
        for shape, rows in _of_shape(last[last["kind"] == kind]):
            table.add_row(
                str(kind),
                str(len(rows)),
                shape,
                _percent(rows["change_share"].sum()),
                _median(rows["relative_frobenius"], "{:.3f}"),
                _regime(rows),
                *_rank_cells(rows),
            )
    return table


def _by_module(last: pd.DataFrame) -> PlainTable:
    table = _table("module", "kind", "shape", "share", "‖ΔW‖/‖W‖", "rounding")
    for index in sorted(last.index, key=lambda index: natural_order(str(last.loc[index, "module"]))):
        rows = last.loc[[index]]
        ((shape, _),) = _of_shape(rows)
        cells = [_percent(rows["change_share"].sum(min_count=1)), _median(rows["relative_frobenius"], "{:.3f}")]
        cells.append(_regime(rows))
        table.add_row(str(rows["module"].iloc[0]), str(rows["kind"].iloc[0]), shape, *cells, *_rank_cells(rows))
    return table


def _by_step(updates: pd.DataFrame) -> PlainTable:
    table = PlainTable(
        title="along training (medians over matrices)",
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for name in ("step", "delta", "‖ΔW‖", "k90", "stable", "erank"):
        table.add_column(name, justify="left" if name == "delta" else "right")
    for (step, delta), rows in updates.groupby(["step", "delta"], sort=True):
        medians = [
            told(rows, name).median() for name in ("frobenius_norm", "energy_rank_90", "stable_rank", "effective_rank")
        ]
        table.add_row(str(step), str(delta), f"{medians[0]:.4g}", *(f"{value:.4g}" for value in medians[1:]))
    return table


def _table(*columns: str) -> PlainTable:
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="left" if index == 0 else "right", overflow="fold", no_wrap=index > 0)
    for _, title in _RANK_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _of_shape(rows: pd.DataFrame) -> Sequence[tuple[str, pd.DataFrame]]:
    shapes = rows["out_features"].astype(str) + "x" + rows["in_features"].astype(str)
    return [(str(shape), rows[shapes == shape]) for shape in shapes.unique()]


def _rank_cells(rows: pd.DataFrame) -> list[Text]:
    cells = []
    for name, _ in _RANK_COLUMNS:
        factored = rows[f"factor_null_{name}"].notna().any()
        null = rows["rank_bound"] if name == "numerical_rank" else rows[f"{'factor_' if factored else ''}null_{name}"]
        form = "{:.0f}" if name in _COUNTS else "{:.1f}"
        values = told(rows, name)
        text = _spread(values, form) if name == "energy_rank_90" else _median(values, form)
        if len(rows) == 1:
            text += _interval(rows.iloc[0], name, form)
        elif 0 < values.notna().sum() < len(values):
            text += f" ({values.notna().sum()} of {len(values)})"
        cells.append(Text(text).append(f" / {_median(null, '{:.0f}')}", style="dim"))
    if rows["rank_above_iid"].notna().any():
        cells[-1].append(f", iid {_median(rows['rank_above_iid'], '{:.0f}')}")
    return cells


def _interval(row: pd.Series, name: str, form: str) -> str:
    """The 95 % interval of one matrix, where it has one that says more than the value."""
    column = "rank_above_rounding" if name == "numerical_rank" else f"{name}_denoised"
    low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
    if pd.isna(low) or pd.isna(high) or form.format(low) == form.format(high):
        return ""
    return f" [{form.format(low)}-{form.format(high)}]"


def _regime(rows: pd.DataFrame) -> str:
    found = rows["noise_regime"].dropna().unique()
    return "-" if not len(found) else str(found[0]) if len(found) == 1 else "mixed"


def _spread(values: pd.Series, form: str) -> str:
    found = values.astype("float64").dropna()
    if found.empty:
        return "-"
    low, high = form.format(found.min()), form.format(found.max())
    return _median(values, form) + (f" ({low}-{high})" if low != high else "")


def _median(values: pd.Series, form: str) -> str:
    middle = values.astype("float64").median()
    return "-" if pd.isna(middle) else form.format(middle)


def _percent(value: float) -> str:
    return "-" if pd.isna(value) else f"{value:.1%}"


def _legend(last: pd.DataFrame) -> str:
    text = (
        "median (least-most) of the n matrices, or of as many as have a value / what white noise of that shape would"
        " show; [95 % interval] of one matrix; rank / its bound; share of the squared change of all tensors."
    )
    if (last["update_kind"] == "dense").any():
        text += (
            " Rounding to the storage type: exact, none; resolved, little; partial, the ranks are those of what stands"
            " above it; unresolved, nothing can be told (-), or nothing is there (0); mixed, see --modules. Where it"
            " was not tested (--noise off), ranks are left out (-) if they would be those of rounding. rank counts what"
            " is above rounding where that was tested, else the numerical rank; iid, what is structure above"
            " independent entries."
        )
    if (~last["update_kind"].isin(["dense", "merged"])).any():
        text += " For factors the null is a product of random factors of the same rank."
    return text
