"""From the tables of a report to the spectra that a plan of ranks is made over, and from a plan to a table."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rank_lab.budget import BudgetPoint
from rank_lab.directions import ModuleSpectrum
from rank_lab.errors import BudgetError
from rank_lab.names import may_be_tied
from rank_lab.plain_text import plain
from rank_lab.rank_plan import RankPlan
from rank_lab.ties import tied_to

__all__ = ["curve_table", "module_spectra", "plan_table", "tied_modules"]

_COLUMNS = {
    "run": "string", "step": "Int64", "module": "string", "layer": "Int64", "kind": "string", "out_features": "Int64",
    "in_features": "Int64", "rank_bound": "Int64", "rank": "Int64", "full_parameters": "Int64", "parameters": "Int64",
    "frobenius_norm": "float64", "kept_energy": "float64", "relative_error": "float64", "noise_regime": "string",
    "capped_by": "string", "reason": "string",
}  # fmt: skip


def module_spectra(
    updates: pd.DataFrame,
    spectra: pd.DataFrame,
    *,
    run: str | None = None,
    step: int | None = None,
    delta: str = "cumulative",
    tied: Mapping[str, str] | None = None,
) -> tuple[ModuleSpectrum, ...]:
    """Spectra of one run at one step.

    Parameters
    ----------
    updates, spectra
        Of a :class:`rank_lab.report.RankReport`, or of several one below the other.
    run
        Which; may be left out where there is one.
    step
        Which; default the last one.
    delta
        ``cumulative`` or ``step``.
    tied
        From :func:`tied_modules`: embeddings that a head is tied to are left out, with the reason, since a LoRA on
        the embedding does not reach the head.

    Returns
    -------
    tuple of ModuleSpectrum
        In the order of the table. A module whose spectrum could not be measured is there, with the reason.

    Raises
    ------
    BudgetError
        If there is no such run, step or delta, or several runs and none was named.
    """
    rows = _chosen(updates, run, step, delta)
    found = _by_module(spectra, rows)
    return tuple(_spectrum(row, found.get(row["module"]), tied or {}) for _, row in rows.iterrows())


def tied_modules(coverage: pd.DataFrame, *, tie_word_embeddings: bool = False) -> dict[str, str]:
    """Modules that another tensor is tied to, each with that tensor.

    Parameters
    ----------
    coverage
        Of a report.
    tie_word_embeddings
        What the model's ``config.json`` says of a head that is not stored.

    Examples
    --------
    >>> coverage = pd.DataFrame({"tensor": ["lm_head.weight"], "reason": ["tied to wte.weight, counted there"]})
    >>> tied_modules(coverage.assign(module=""))
    {'wte': 'lm_head.weight'}
    """
    found = tied_to(_columns(coverage, "tensor", "reason"))
    if tie_word_embeddings:
        modules = coverage["module"].dropna().unique()
        found |= {str(each): "the output head" for each in modules if may_be_tied("lm_head", str(each))}
    return found


def plan_table(plan: RankPlan) -> pd.DataFrame:
    """A row per module.

    Parameters
    ----------
    plan
        From :func:`rank_lab.budget.plan_ranks`.

    Returns
    -------
    pandas.DataFrame
        ``parameters`` of the factors, ``full_parameters`` of the matrix; shares in [0, 1], missing where the module
        takes no part; ``capped_by`` and ``reason`` empty if nothing.
    """
    records = [
        {
            "run": row.spectrum.run,
            "step": row.spectrum.step,
            "module": row.module,
            "layer": row.spectrum.layer,
            "kind": row.spectrum.kind,
            "out_features": row.spectrum.out_features,
            "in_features": row.spectrum.in_features,
            "rank_bound": row.spectrum.rank_bound,
            "rank": row.rank,
            "full_parameters": row.spectrum.out_features * row.spectrum.in_features,
            "parameters": row.parameters,
            "frobenius_norm": row.spectrum.frobenius_norm,
            "kept_energy": row.kept_energy,
            "relative_error": row.relative_error,
            "noise_regime": row.spectrum.noise_regime,
            "capped_by": row.capped_by,
            "reason": row.reason,
        }
        for row in plan.rows
    ]
    return pd.DataFrame(records, columns=list(_COLUMNS)).astype(_COLUMNS)


def curve_table(points: Sequence[BudgetPoint]) -> pd.DataFrame:
    """Rows of :func:`rank_lab.budget.budget_curve` as a table."""
    names = ["method", "budget", "parameters", "kept_energy", "relative_error"]
    return pd.DataFrame([vars(point) for point in points], columns=names)


def _chosen(updates: pd.DataFrame, run: str | None, step: int | None, delta: str) -> pd.DataFrame:
    runs = sorted(updates["run"].dropna().unique())
    name = run if run is not None else runs[0] if len(runs) == 1 else None
    if name not in runs:
        named = "" if run is None else f" {run!r}"
        raise BudgetError(
            f"which run{named}? There are {plain(', '.join(runs), limit=400) or 'none'}; name one (--run)."
        )
    rows = updates[(updates["run"] == name) & (updates["delta"] == delta)]
    if rows.empty:
        deltas = ", ".join(sorted(updates.loc[updates["run"] == name, "delta"].unique()))
        raise BudgetError(f"run {name!r} has no row of delta {delta!r}; it has {deltas}.")
    steps = rows["step"]
    if step is not None and not (steps == step).any():
        there = ", ".join(str(each) for each in sorted(steps.dropna().unique())) or "none that is known"
        raise BudgetError(f"run {name!r} has no step {step}; its steps: {there}.")
    wanted = steps.max() if step is None else step
    chosen: pd.DataFrame = rows if pd.isna(wanted) else rows.loc[steps == wanted]
    return chosen


def _by_module(spectra: pd.DataFrame, rows: pd.DataFrame) -> Mapping[str, Any]:
    first = rows.iloc[0]
    same = (spectra["run"] == first["run"]) & (spectra["delta"] == first["delta"])
    same &= spectra["step"].isna() if pd.isna(first["step"]) else (spectra["step"] == first["step"])
    return dict(_columns(spectra[same.fillna(value=False)], "module", "values"))


def _columns(frame: pd.DataFrame, *names: str) -> Any:
    return zip(*(frame[name] for name in names), strict=True)


def _spectrum(row: pd.Series, values: Any, tied: Mapping[str, str]) -> ModuleSpectrum:
    module, above = str(row["module"]), row["rank_above_rounding"]
    norm = row["frobenius_norm"]
    known = values is not None and not pd.isna(norm) and (len(values) > 0 or norm == 0.0)
    reason = ""
    if not known:
        reason = _text(row["warning"]) or "its spectrum could not be measured"
    elif module in tied:
        reason = f"{tied[module]} is tied to it: a LoRA here would not reach that"
    return ModuleSpectrum(
        module=module,
        out_features=int(row["out_features"]),
        in_features=int(row["in_features"]),
        values=np.asarray(values if known else [], dtype=np.float64),
        frobenius_norm=float(norm) if known else math.nan,
        rank_bound=int(row["rank_bound"]),
        floor=0.0 if pd.isna(row["spectrum_floor"]) else float(row["spectrum_floor"]),
        above_noise=None if pd.isna(above) else round(above),
        noise_regime=_text(row["noise_regime"]),
        run=str(row["run"]),
        step=None if pd.isna(row["step"]) else int(row["step"]),
        layer=None if pd.isna(row["layer"]) else int(row["layer"]),
        kind=_text(row["kind"]),
        reason=reason,
    )


def _text(value: Any) -> str:
    return "" if pd.isna(value) else str(value)
