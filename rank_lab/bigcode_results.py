"""Results of the BigCode evaluation harness as rows of scores.

Its file is ``{TASK: {METRIC: number}, ..., "config": {...}}``. It says neither its
version, nor how many problems there were, nor a standard error: of these the
rows have none.
"""

from collections.abc import Mapping
from typing import Any

from rank_lab.errors import DataError
from rank_lab.plain_text import plain
from rank_lab.score_origin import Imported, LeftOut, Origin, direction, number
from rank_lab.score_table import ScoreRow

__all__ = ["HARNESS", "bigcode_scores", "is_bigcode"]

HARNESS = "bigcode"


def is_bigcode(content: Any) -> bool:
    """Whether a JSON content looks like results of the BigCode harness.

    Examples
    --------
    >>> is_bigcode({"humaneval": {"pass@1": 0.2}, "config": {"model": "m"}}), is_bigcode({"config": {}})
    (True, False)
    """
    if not (isinstance(content, dict) and isinstance(content.get("config"), dict) and "model" in content["config"]):
        return False
    tasks = [value for name, value in content.items() if name != "config"]
    return bool(tasks) and all(isinstance(value, dict | float | int) for value in tasks)


def bigcode_scores(content: Mapping[str, Any], origin: Origin, *, source: str) -> Imported:
    """Rows of the results of one evaluation.

    Parameters
    ----------
    content
        What the harness wrote.
    origin
        Which model it was, and what its tasks are for.
    source
        Where the content comes from.

    Raises
    ------
    DataError
        If it is no such result, no number in it is a score, or it lacks a task that has a role.

    Examples
    --------
    >>> content = {"humaneval": {"pass@1": 0.25, "pass@10": 0.5}, "config": {"model": "m", "n_samples": 50}}
    >>> rows = bigcode_scores(content, Origin("lora", "lora", 100), source="results.json").rows
    >>> [(row.metric, row.value, row.n, row.stderr) for row in rows]
    [('pass@1', 0.25, None, None), ('pass@10', 0.5, None, None)]
    """
    if not is_bigcode(content):
        raise DataError(
            f"{source}: holds no results of the BigCode harness; expected tasks, and 'config' with 'model'."
        )
    run, method = origin.named(source)
    tasks = {str(task): scores for task, scores in content.items() if task != "config"}
    origin.check_tasks(source, tasks)
    rows, left_out = [], []
    for task, scores in tasks.items():
        for metric, value in (scores if isinstance(scores, dict) else {"score": scores}).items():
            better, read = direction(str(metric)), number(value)
            if better is None or read is None:
                left_out.append(LeftOut(f"{task} {metric}", _reason(value, read)))
                continue
            rows.append(
                ScoreRow(
                    run, method, origin.step, task, str(metric), read, role=origin.roles.get(task, ""),
                    chance=origin.chance.get(task), higher_is_better=better, harness=HARNESS, source=source,
                )
            )  # fmt: skip
    return Imported(tuple(rows), tuple(left_out)).or_refused(source)


def _reason(value: Any, read: float | None) -> str:
    if read is None:
        return f"{plain(repr(value), limit=40)} is no number"
    return "the file does not say whether a larger value is better"
