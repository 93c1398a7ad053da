"""What ``rank-lab fairness`` does: say what would make a comparison of runs unfair."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rank_lab.contamination import contamination
from rank_lab.errors import DataError, RankLabError
from rank_lab.fairness import fairness, render_findings
from rank_lab.plain_text import plain
from rank_lab.scores import nearest
from rank_lab.task_rows import json_lines
from rank_lab.training_record import TrainingRecord

__all__ = ["fairness_and_print"]


def fairness_and_print(
    runs: Sequence[Path],
    train_text: Path | None,
    test_text: Path | None,
    *,
    train_column: str,
    test_column: str,
    as_json: bool = False,
) -> None:
    """Print findings, a line each.

    Parameters
    ----------
    runs
        Folders with a ``training.json``.
    train_text, test_text
        JSON lines of what was learned, and of test questions to look for in it; both or neither.
    train_column, test_column
        Where the texts are.
    as_json
        As JSON, in place of lines.

    Raises
    ------
    RankLabError
        If a run has no record, runs are of different bases, or a file cannot be read.
    """
    if (train_text is None) != (test_text is None):
        raise RankLabError("--train-text and --test-text: give both, to look for one in the other, or neither.")
    findings = fairness([TrainingRecord.load(folder) for folder in runs])
    if train_text is not None and test_text is not None:
        found = contamination(
            _texts(train_text, train_column, "--train-column"), _texts(test_text, test_column, "--test-column")
        )
        findings = (*findings, *found.findings)
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    else:
        sys.stdout.write("".join(f"{plain(line)}\n" for line in render_findings(findings).split("\n")))


def _texts(file: Path, column: str, option: str) -> list[str]:
    found = []
    for line, row in json_lines(file):
        if column not in row:
            names = sorted(map(str, row))
            near = nearest(column, names)
            raise DataError(
                plain(f"{file}, line {line}: has no column {column!r}; name the texts' by {option}. Nearest: {near}.")
            )
        if not isinstance(row[column], str):
            raise DataError(plain(f"{file}, line {line}: column {column!r} holds {row[column]!r:.60}, not a text."))
        found.append(row[column])
    return found
