"""A study's folder as tables of outcomes: its reports and its scores, joined."""

from collections.abc import Sequence
from pathlib import Path

from rank_lab.errors import SchemaError
from rank_lab.outcomes import OutcomeChoices, Outcomes, outcomes
from rank_lab.report import RankReport, reports_of
from rank_lab.score_table import SCORES_FILE, ScoreTable

__all__ = ["outcomes_of", "study_outcomes"]


def study_outcomes(study: Path | str, choices: OutcomeChoices | None = None) -> Outcomes:
    """Ranks, learning and forgetting of all runs of a study.

    Parameters
    ----------
    study
        Folder with ``scores.parquet`` and any number of reports (``NAME.rank``).
    choices
        Of the tables.

    Raises
    ------
    SchemaError
        If there are no scores, or a file is not what it should be.

    Notes
    -----
    A study without reports has scores alone; every row then says that ranks are not there.
    """
    folder = Path(study)
    found = reports_of(folder) if any(folder.glob("*.rank/report.json")) else []
    return outcomes_of([RankReport.load(path) for path in found], folder / SCORES_FILE, choices)


def outcomes_of(reports: Sequence[RankReport], scores: Path, choices: OutcomeChoices | None = None) -> Outcomes:
    """The same of reports that have been read already.

    Parameters
    ----------
    reports
        Their spectra are not looked at.
    scores
        The file.
    choices
        Of the tables.

    Raises
    ------
    SchemaError
        If there are no scores, or the file is not what it should be.
    """
    table = ScoreTable.load(scores)
    if not table.rows:
        raise SchemaError(f"{scores}: holds no scores; make them with 'rank-lab evaluate', or import results.")
    return outcomes(list(reports), table, choices)
