"""Plans of ranks and extracted adapters in the terminal."""

import math
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from rank_lab.budget import BudgetPoint
from rank_lab.extraction_report import ExtractedModule, Extraction, LeftOut
from rank_lab.names import KINDS, identify, natural_order
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain
from rank_lab.plan_words import plan_caps, plan_totals
from rank_lab.rank_plan import ModuleRank, RankPlan

__all__ = ["render_extraction", "render_plan"]

_MOST_REASONS = 8
_LEGEND = (
    "kept: share of the squared norm of the updates; error: what is left out over the norm; full: entries of the"
    " matrices. Ranks: median (least-most)."
)


def render_plan(plan: RankPlan, others: Sequence[BudgetPoint] = (), *, modules: bool = False) -> Group:
    """A line per kind of module, or per module, and the totals.

    Parameters
    ----------
    plan
        Any.
    others
        What other ways of choosing ranks keep with as many parameters.
    modules
        One line per module.
    """
    parts: list[RenderableType] = [Text(plan_totals(plan), style="bold"), *_caps(plan)]
    parts.append(_plan_modules(plan) if modules else _plan_kinds(plan))
    parts += _reasons([(row.module, row.reason) for row in plan.rows if row.reason])
    if others:
        words = [f"{point.method} {point.kept_energy:.2%} with {point.parameters:,}" for point in others]
        parts.append(Text(f"as many parameters otherwise: {'; '.join(words)}"))
    return Group(*parts, Text(_LEGEND, style="dim"))


def render_extraction(made: Extraction, *, modules: bool = False) -> Group:
    """Errors as measured on what was written, and what is not in the adapter.

    Parameters
    ----------
    made
        Any.
    modules
        One line per module.
    """
    table = _table("module" if modules else "kind", "n", "rank", "parameters", "error", "promised", "rounding")
    for name, rows in _grouped(made.modules, modules=modules).items():
        table.add_row(
            name,
            str(len(rows)),
            _spread([row.rank for row in rows]),
            f"{sum(row.parameters for row in rows):,}",
            _error(rows, "relative_error"),
            _error(rows, "promised_error"),
            _error(rows, "rounding_error"),
        )
    heading = (
        f"{len(made.modules)} modules, {made.parameters:,} parameters in {made.dtype}; read again, they miss"
        f" {made.relative_error:.4g} of the norm of their updates"
    )
    parts: list[RenderableType] = [Text(heading, style="bold"), table, *_missing(made)]
    legend = (
        "error: ‖ΔW - BA‖ / ‖ΔW‖ of the stored factors, measured; promised: the least for that rank, from the"
        " spectrum; rounding: what storing the factors changed, over ‖ΔW‖. Of several modules: together."
    )
    return Group(*parts, Text(legend, style="dim"))


def _caps(plan: RankPlan) -> list[Text]:
    sentences = plan_caps(plan)
    short = [Text(f"warning: {sentences.pop(0)}", style="red")] if not plan.reached else []
    return short + [Text(f"  {sentence}", style="yellow") for sentence in sentences]


def _plan_kinds(plan: RankPlan) -> PlainTable:
    table = _table("kind", "n", "shape", "rank", "capped", "parameters", "full", "kept", "error")
    groups: dict[tuple[str, str], list[ModuleRank]] = {}
    for row in plan.rows:
        if not row.spectrum.reason:
            shape = f"{row.spectrum.out_features}x{row.spectrum.in_features}"
            groups.setdefault((row.spectrum.kind or identify(row.module).kind, shape), []).append(row)
    for (kind, shape), rows in sorted(groups.items(), key=lambda group: (_place(group[0][0]), group[0][1])):
        _add(table, [kind, str(len(rows)), shape], rows)
    return table


def _plan_modules(plan: RankPlan) -> PlainTable:
    table = _table("module", "shape", "rank", "capped", "parameters", "full", "kept", "error")
    for row in sorted(plan.rows, key=lambda row: natural_order(row.module)):
        if not row.spectrum.reason:
            _add(table, [row.module, f"{row.spectrum.out_features}x{row.spectrum.in_features}"], [row])
    return table


def _add(table: PlainTable, start: Sequence[str], rows: Sequence[ModuleRank]) -> None:
    energy = math.fsum(row.spectrum.frobenius_norm**2 for row in rows)
    left = math.fsum((row.relative_error * row.spectrum.frobenius_norm) ** 2 for row in rows)
    share = left / energy if energy else 0.0
    caps = sum(bool(row.capped_by) for row in rows)
    table.add_row(
        *start,
        _spread([row.rank for row in rows]),
        (rows[0].capped_by if len(rows) == 1 else str(caps)) if caps else "",
        f"{sum(row.parameters for row in rows):,}",
        f"{sum(row.spectrum.out_features * row.spectrum.in_features for row in rows):,}",
        f"{1.0 - share:.2%}" if energy else "not changed",
        f"{math.sqrt(share):.4g}",
    )


def _grouped(made: Sequence[ExtractedModule], *, modules: bool) -> Mapping[str, list[ExtractedModule]]:
    found: dict[str, list[ExtractedModule]] = {}
    for one in sorted(made, key=lambda one: natural_order(one.module)):
        found.setdefault(one.module if modules else identify(one.module).kind, []).append(one)
    return found if modules else dict(sorted(found.items(), key=lambda group: _place(group[0])))


def _error(rows: Sequence[ExtractedModule], name: str) -> str:
    energy = math.fsum(row.frobenius_norm**2 for row in rows)
    return f"{math.sqrt(math.fsum((getattr(row, name) * row.frobenius_norm) ** 2 for row in rows) / energy):.3g}"


def _missing(made: Extraction) -> list[Text]:
    if not made.left_out:
        return [Text("nothing of the change is left out", style="green")]
    by_reason: dict[str, list[LeftOut]] = {}
    for one in made.left_out:
        by_reason.setdefault(one.reason, []).append(one)
    lines = [Text(f"not in the adapter; of the whole change it misses {made.whole_error:.4g} of the norm:")]
    for reason, ones in list(by_reason.items())[:_MOST_REASONS]:
        known = [made.share(one.frobenius_norm) for one in ones if not math.isnan(one.frobenius_norm)]
        share = f"{math.fsum(known):.2%} of the squared change" if known else "share not known"
        more = f" and {len(ones) - 1} more" if len(ones) > 1 else ""
        lines.append(Text(f"  {share}: {plain(reason)} - {plain(ones[0].name)}{more}", style="yellow"))
    return lines + _rest(len(by_reason))


def _reasons(rows: Sequence[tuple[str, str]]) -> list[Text]:
    by_reason: dict[str, list[str]] = {}
    for module, reason in rows:
        by_reason.setdefault(reason, []).append(module)
    lines = [
        Text(
            f"  {plain(reason)} - {plain(names[0])}{f' and {len(names) - 1} more' if len(names) > 1 else ''}",
            style="yellow",
        )
        for reason, names in list(by_reason.items())[:_MOST_REASONS]
    ]
    return lines + _rest(len(by_reason))


def _rest(count: int) -> list[Text]:
    more = count - _MOST_REASONS
    return [Text(f"  ... and {more} more reasons, in the JSON", style="yellow")] if more > 0 else []


def _table(*columns: str) -> PlainTable:
    table = PlainTable(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left", overflow="fold", no_wrap=index > 0)
    return table


def _place(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)


def _spread(ranks: Sequence[int]) -> str:
    ordered = sorted(ranks)
    middle = f"{(ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2:g}"
    return middle if ordered[0] == ordered[-1] else f"{middle} ({ordered[0]}-{ordered[-1]})"
