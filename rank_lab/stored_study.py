"""What is stored in a study, whole or not at all: verbs refuse what a dashboard shows around."""

from pathlib import Path

from rank_lab.curve import CURVE_FILE, Curve
from rank_lab.outcomes import Outcomes
from rank_lab.report import RankReport, reports_of
from rank_lab.score_table import SCORES_FILE
from rank_lab.study_outcomes import study_outcomes

__all__ = ["curve_of", "outcomes_of", "stored_reports"]


def curve_of(study: Path) -> Curve | None:
    """The curve of a study that has one with a row in it."""
    curve = Curve.load(study) if (study / CURVE_FILE).is_file() else None
    return curve if curve is not None and curve.records else None


def outcomes_of(study: Path) -> Outcomes | None:
    """What its runs learned and forgot, of a study that has scores."""
    return study_outcomes(study) if (study / SCORES_FILE).is_file() else None


def stored_reports(study: Path, *, alone: bool) -> list[RankReport]:
    """The reports of a study; where they stand alone there must be one."""
    if not alone and not any(study.glob("*.rank/report.json")):
        return []
    return [RankReport.load(folder) for folder in reports_of(study)]
