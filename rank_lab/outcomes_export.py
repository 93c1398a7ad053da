"""Scores and outcomes of a study as files for other programs."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rank_lab.export import write_tables
from rank_lab.outcomes import Outcomes
from rank_lab.score_row import SCORE_KEY
from rank_lab.score_table import ScoreTable

__all__ = ["export_outcomes", "outcome_data"]


def export_outcomes(found: Outcomes, folder: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the tables of a study's outcomes in each of the formats.

    Parameters
    ----------
    found
        From :func:`rank_lab.study_outcomes.study_outcomes`.
    folder
        Made if it is not there.
    formats
        Of :data:`rank_lab.export.FORMATS`.

    Returns
    -------
    list of Path
        The files written: ``scores`` and ``score_examples`` (a row an example), ``outcomes`` (a row a run and
        checkpoint), ``outcome_kinds``, ``learning``, ``trade_offs``, ``pareto``, ``seed_groups``,
        ``equal_learning``, ``rank_forgetting`` and ``scores_left_out``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write_tables(outcome_data(found), folder, formats)


def outcome_data(found: Outcomes) -> dict[str, pd.DataFrame]:
    """The same tables, by name.

    Parameters
    ----------
    found
        From :func:`rank_lab.study_outcomes.study_outcomes`.
    """
    return {
        "scores": found.scores.frame.drop(columns="examples"),
        "score_examples": _examples(found.scores),
        "outcomes": found.checkpoints,
        "outcome_kinds": found.kinds,
        "learning": found.learning,
        "trade_offs": found.trade_offs.points,
        "pareto": found.trade_offs.areas,
        "seed_groups": found.trade_offs.groups,
        "equal_learning": found.trade_offs.equal_learning,
        "rank_forgetting": found.associations,
        "scores_left_out": found.left_out,
    }


def _examples(scores: ScoreTable) -> pd.DataFrame:
    frame = scores.frame[[*SCORE_KEY, "examples"]]
    long = frame[frame["examples"].notna()].explode("examples", ignore_index=True).rename(columns={"examples": "score"})
    long.insert(len(SCORE_KEY), "index", long.groupby(list(SCORE_KEY), dropna=False).cumcount() + 1)
    return long.astype({"score": "float64"})
