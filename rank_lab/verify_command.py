"""What ``rank-lab verify`` does: compute a sample of a study's numbers again and say which still hold."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Group
from rich.text import Text

from rank_lab.behavioural_report import BehaviouralReport, behavioural_name, behavioural_reports_of
from rank_lab.console import console, progress_bar
from rank_lab.curve import CURVE_FILE, Curve
from rank_lab.errors import SchemaError
from rank_lab.evaluation.behavioural_verification import LOSS_TOLERANCE, verify_behavioural
from rank_lab.evaluation.functional_verification import SAME_ACTIVATIONS, verify_functional
from rank_lab.functional_report import FunctionalReport, functional_name, functional_reports_of
from rank_lab.plain_table import PlainTable
from rank_lab.plain_text import plain
from rank_lab.report import RankReport, reports_of
from rank_lab.report_verification import verify_report
from rank_lab.score_table import SCORES_FILE, ScoreTable
from rank_lab.score_verification import verify_curve, verify_scores
from rank_lab.subspace_report import SubspaceReport, comparison_name, subspace_reports_of
from rank_lab.subspace_verification import NARROW, verify_subspaces
from rank_lab.verification import RESULTS, TOLERANCE, Check

__all__ = ["verify_and_print"]

_SUSPECT = ("differs", "input changed", "input missing")
_ORDER = (*RESULTS[1:], "holds")  # what is wrong is read first
_STYLE = {"holds": "green", "differs": "bold red", "not recomputable": "dim"}


def verify_and_print(study: Path, *, sample: int, seed: int, as_json: bool = False) -> bool:
    """Print what holds of a study.

    Parameters
    ----------
    study
        Folder of reports, comparisons, behavioural ranks, scores and a curve, or one of these reports.
    sample, seed
        Rows of each table that are computed again; 0 for all.
    as_json
        A list with an entry a row, in place of tables.

    Returns
    -------
    bool
        Whether a number differs, or an input has changed or is missing.

    Raises
    ------
    SchemaError
        If there is nothing to verify, or a file is not what it should be.
    """
    checks, counts = _checks(study, sample, seed)
    if as_json:
        sys.stdout.write(json.dumps([asdict(check) for check in checks], indent=1) + "\n")
    else:
        console().print(_shown(checks, counts, seed))
    return any(check.result in _SUSPECT for check in checks)


_Counts = list[tuple[str, int, int]]


def _checks(study: Path, sample: int, seed: int) -> tuple[list[Check], _Counts]:
    """What became of each row, and of each table its name, rows looked at and rows in all."""
    has_scores, has_curve = (study / SCORES_FILE).is_file(), (study / CURVE_FILE).is_file()
    try:
        folders = reports_of(study)
    except SchemaError:
        beside = (subspace_reports_of, behavioural_reports_of, functional_reports_of)
        if not (has_scores or has_curve or any(found(study) for found in beside)):
            raise
        folders = []
    reports = [(folder, RankReport.load(folder)) for folder in folders]
    checks, counts = [], []
    with progress_bar() as bar:
        for folder, report in reports:
            expected = min(sample or len(report.updates), len(report.updates))
            task = bar.add_task(plain(folder.name), total=expected)
            home = folder.absolute().parent
            found = verify_report(report, home, sample=sample, seed=seed, told=lambda _, task=task: bar.advance(task))  # type: ignore[misc]
            checks += found
            counts.append((folder.name, len(found), len(report.updates)))
    for folder in subspace_reports_of(study):
        comparison = SubspaceReport.load(folder)
        found = verify_subspaces(
            comparison_name(folder), comparison, folder.absolute().parent, sample=sample, seed=seed
        )
        checks, counts = checks + found, [*counts, (folder.name, len(found), len(comparison.coverage))]
    for folder in functional_reports_of(study):
        measured = FunctionalReport.load(folder)
        found = verify_functional(functional_name(folder), measured, folder.absolute().parent, sample=sample, seed=seed)
        checks, counts = checks + found, [*counts, (folder.name, len(found), len(measured.changes))]
    for folder in behavioural_reports_of(study):
        truncated = BehaviouralReport.load(folder)
        found = verify_behavioural(
            behavioural_name(folder), truncated, folder.absolute().parent, sample=sample, seed=seed
        )
        models = len(truncated.scores[["how", "k", "vectors"]].drop_duplicates())
        checks, counts = checks + found, [*counts, (folder.name, len(found), models + 1)]
    if has_scores:
        rows = ScoreTable.load(study / SCORES_FILE).rows
        found = verify_scores(rows, sample=sample, seed=seed)
        checks, counts = checks + found, [*counts, (SCORES_FILE, len(found), len(rows))]
    if has_curve:
        curve = Curve.load(study)
        found = verify_curve(curve, sample=sample, seed=seed)
        checks, counts = checks + found, [*counts, (CURVE_FILE, len(found), len(curve.records))]
    return checks, counts


def _shown(checks: Sequence[Check], counts: _Counts, seed: int) -> Group:
    table = PlainTable(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "row", "result", "what"):
        table.add_column(name, overflow="fold")
    for check in sorted(checks, key=lambda each: _ORDER.index(each.result)):
        style = _STYLE.get(check.result, "yellow")
        cells = (check.run, check.row, check.result, _what(check))
        table.add_row(*(Text(plain(cell), style=style if cell == check.result else "") for cell in cells))
    looked = "; ".join(f"{plain(name)}: {count} of {total} rows" for name, count, total in counts)
    results = [check.result for check in checks]
    said = (
        ", ".join(f"{results.count(each)} {each}" for each in RESULTS if each in results) or "nothing to compute again"
    )
    about = (
        f"computed again: {looked} (--sample 0 for all; seed {seed}). Numbers hold within a relative {TOLERANCE:g},"
        " norms and singular values also within the floor of their method; counts are equal, or tied. What rests on"
        f" singular vectors (comparisons, by module) holds within {TOLERANCE:g} of 1, and within as much more as the"
        f" gap after the last of them is narrower than {NARROW:g}. Losses of truncated models hold within"
        f" {LOSS_TOLERANCE:g}. Functional ranks hold within a relative {SAME_ACTIVATIONS:g}, counts within one:"
        " activations are of the models' own precision."
    )
    return Group(table, Text(said, style="bold"), Text(about, style="dim"))


def _what(check: Check) -> str:
    if check.difference is None:
        return check.reason
    why = f" ({check.reason})" if check.reason else ""
    return f"{check.difference.column}: stored {check.difference.stored}, now {check.difference.found}{why}"
