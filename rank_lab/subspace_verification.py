"""Modules of a comparison compared again, from the checkpoints and with the options that its provenance names.

Angles, similarities and projected norms are of spans of singular vectors, which are known the better the wider the gap
after the last singular value is: they hold where they agree to :data:`~rank_lab.verification.TOLERANCE`, or, where the
gap is below :data:`NARROW`, to as much more as it is narrower.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.errors import RankLabError
from rank_lab.module_comparison import ComparisonOptions
from rank_lab.recorded_inputs import NotAgain, has_device, same_input
from rank_lab.subspace_analysis import compare_runs
from rank_lab.subspace_report import SubspaceReport
from rank_lab.verification import TOLERANCE, Check, Difference, numbers_differ, stratified_sample

__all__ = ["NARROW", "verify_subspaces"]

NARROW = 1e-3
"""Relative gap between singular values below which the tolerance of what rests on their vectors grows."""

_KEYS = {
    "angles": ("side", "index"), "phi": ("side", "i", "j"), "intruders": ("side", "k", "epsilon"),
    "amplification": ("r",), "coverage": (),
}  # fmt: skip
_SPANS = {"cosine", "angle", "geodesic", "chordal", "phi"}
_RELATIVE_SPANS = {"amplification", "projected_norm"}
_NAMES = {"run", "step", "other_run", "other_step", "module", "reason"}
_GAPS = {"gap", "gap_a", "gap_b", "smallest_gap"}
_IN_BOTH = frozenset({"compared", "zero", "refused"})
_NO_DIGESTS = "a comparison keeps no digests of its inputs: they may have changed"

Row = Mapping[str, Any]


def verify_subspaces(name: str, report: SubspaceReport, study: Path, *, sample: int = 8, seed: int = 0) -> list[Check]:
    """Compare a sample of a comparison's modules again.

    Parameters
    ----------
    name
        Of the comparison.
    report
        As it was saved.
    study
        The folder that it lies in: an input that is not where it was is looked for below it.
    sample, seed
        Modules, spread over kinds and over what became of them, few of those that are in one run alone; 0 for all. The
        same seed gives the same modules.

    Returns
    -------
    list of Check
        One for each module of the sample: all of its rows in all tables.

    Notes
    -----
    A module costs what it cost to compare. What of a file's size differs from what is recorded is another input; there
    are no digests to tell another of the same size.
    """
    rows = report.coverage.sort_values("module", kind="stable")
    strata = [(str(row.status), str(row.kind)) if row.status in _IN_BOTH else () for row in rows.itertuples()]
    modules = [str(rows["module"].iloc[at]) for at in stratified_sample(strata, sample, seed)]
    checks = [Check("subspaces", name, module, "holds") for module in modules]
    try:
        again = _compared_again(report.provenance, study, frozenset(modules))
    except NotAgain as stop:
        return [replace(check, result=stop.result, reason=stop.reason) for check in checks]
    stored, found = _by_module(report), _by_module(again)
    return [_checked(check, stored.get(check.row, {}), found.get(check.row, {})) for check in checks]


def _compared_again(provenance: Mapping[str, Any], study: Path, modules: frozenset[str]) -> SubspaceReport:
    options = replace(_options(provenance["settings"]), modules=modules)
    base = provenance["base"]
    original = None if base is None else same_input(base, study, "the base")
    runs = [same_input(provenance[role], study, f"the {role} run") for role in ("first", "second")]
    try:
        return compare_runs(runs[0], runs[1], original, options=options)
    except (RankLabError, OSError) as error:
        raise NotAgain("input changed", f"they cannot be compared any more: {error}") from error


def _options(told: Mapping[str, Any]) -> ComparisonOptions:
    device = str(told.get("device", "cpu"))
    if not has_device(device):
        raise NotAgain("not recomputable", f"compared on {device}, which this machine does not have")
    try:
        ks = tuple(int(k) for k in told["intruder_ks"])
        epsilons, draws = tuple(float(epsilon) for epsilon in told["epsilons"]), int(told["null_draws"])
    except (KeyError, TypeError, ValueError) as error:
        raise NotAgain("not recomputable", "the provenance does not say with which options it was made") from error
    options = ComparisonOptions(int(told["k"]), epsilons=epsilons, intruders=bool(ks), null_draws=draws, device=device)
    return replace(options, intruder_ks=ks) if ks else options


def _by_module(report: SubspaceReport) -> dict[str, dict[tuple[Any, ...], Row]]:
    """Module to its rows: of the two updates of a module the first comes first, whatever their runs are called."""
    found: dict[str, dict[tuple[Any, ...], Row]] = {}
    for table, key in _KEYS.items():
        frame = getattr(report, table)
        turn = frame.groupby(["module", *key], dropna=False, sort=False).cumcount()
        for row, at in zip(frame.to_dict(orient="records"), turn, strict=True):
            place = (table, int(at), *(row[name] for name in key))
            found.setdefault(str(row["module"]), {})[place] = {str(name): value for name, value in row.items()}
    return found


def _checked(check: Check, stored: Mapping[tuple[Any, ...], Row], found: Mapping[tuple[Any, ...], Row]) -> Check:
    for place in (*stored, *(place for place in found if place not in stored)):
        difference = _difference(place, stored.get(place), found.get(place))
        if difference is not None:
            return replace(check, result="differs", difference=difference, reason=_NO_DIGESTS)
    return check


def _difference(place: tuple[Any, ...], stored: Row | None, found: Row | None) -> Difference | None:
    if stored is None or found is None:
        there = ["no such row" if row is None else "there" for row in (stored, found)]
        return Difference(_words(place), *there)
    slack = TOLERANCE * _widening(stored)
    for name in stored:
        if name not in _NAMES and _differs(name, stored, found, slack):
            return Difference(f"{name} of {_words(place)}", str(stored[name]), str(found[name]))
    return None


def _differs(name: str, stored: Row, found: Row, slack: float) -> bool:
    one: Any = stored[name]
    other: Any = found[name]
    if name in _GAPS:
        return numbers_differ(one, other, floor=TOLERANCE)
    if name in _SPANS:
        return numbers_differ(one, other, floor=slack)
    if name in _RELATIVE_SPANS and not pd.isna(one):
        return numbers_differ(one, other, floor=slack * max(abs(float(one)), sys.float_info.min))
    if name in ("intruders", "projected", "null", "null_projected") and stored.get("smallest_gap", 1.0) < TOLERANCE:
        return False  # single vectors are not unique there: another processor counts others
    return numbers_differ(one, other)


def _widening(row: Row) -> float:
    """How many times the tolerance holds for what rests on the row's vectors; infinite where they are not unique."""
    gaps = [float(row[name]) for name in ("gap", "gap_a", "gap_b") if name in row and not pd.isna(row[name])]
    narrowest = min(gaps, default=1.0)
    return max(1.0, NARROW / narrowest) if narrowest > 0 else math.inf


def _words(place: tuple[Any, ...]) -> str:
    table, turn, *key = place
    which = ", second of the two" if turn else ""
    told = ", ".join(f"{name} {value}" for name, value in zip(_KEYS[table], key, strict=True))
    return f"{table}{f' ({told})' if told else ''}{which}"
