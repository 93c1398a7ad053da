"""Results that other programs left, as rows of scores."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rank_lab.bigcode_results import bigcode_scores, is_bigcode
from rank_lab.errors import CheckpointError, DataError
from rank_lab.lm_eval_results import is_lm_eval, lm_eval_scores, read_samples
from rank_lab.peft_benchmark import is_peft_benchmark, peft_benchmark_scores
from rank_lab.plain_file import MAX_JSON_BYTES, parse_json, size_of
from rank_lab.plain_text import plain
from rank_lab.score_csv import csv_scores
from rank_lab.score_origin import Imported, Origin
from rank_lab.score_row import USUAL_ROLES, ScoreRow

__all__ = ["import_scores", "with_usual_roles"]


def import_scores(file: Path | str, origin: Origin) -> Imported:
    """Read a file of results: of lm-eval, of the BigCode harness, of PEFT's method comparison, or a CSV file.

    Parameters
    ----------
    file
        ``results_*.json`` of lm-eval (the ``samples_*.jsonl`` beside it give the
        scores of examples), the BigCode harness's ``evaluation_results.json``,
        a result of PEFT's method comparison on MetaMathQA, or a file whose name
        ends in ``.csv``. It is recognised by its content.
    origin
        Which model it was, and what its tasks are for.

    Returns
    -------
    Imported
        Rows for :meth:`rank_lab.score_table.ScoreTable.of`, and what is no row, with the reason.

    Raises
    ------
    DataError
        If it is none of these; what is wrong is named.
    """
    path = Path(file)
    if path.suffix.lower() == ".csv":
        return csv_scores(path, origin)
    content = _content(path)
    if is_lm_eval(content):
        samples, missing = read_samples(path, [str(task) for task in content["results"]])
        found = lm_eval_scores(content, origin, source=str(path), samples=samples)
        return Imported(found.rows, (*found.left_out, *missing))
    if is_bigcode(content):
        return bigcode_scores(content, origin, source=str(path))
    if is_peft_benchmark(content):
        return peft_benchmark_scores(content, origin, source=str(path))
    keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else f"a JSON {type(content).__name__}"
    raise DataError(
        f"{path}: holds {plain(keys, limit=200) or 'nothing'}; expected results of lm-eval ('results' and 'versions'),"
        " of the BigCode harness (tasks and 'config'), of PEFT's method comparison ('run_info', 'train_info',"
        " 'meta_info'), or a .csv file."
    )


def with_usual_roles(rows: Iterable[ScoreRow], told: Mapping[str, str]) -> tuple[tuple[ScoreRow, ...], dict[str, str]]:
    """The rows, those that have no role with the one that their task usually has.

    Parameters
    ----------
    rows
        As they were read.
    told
        Task to role, as the caller said it; such tasks are left as they are, those with ``""`` among them.

    Returns
    -------
    tuple
        The rows, and task to role of those that were given one.

    Examples
    --------
    >>> scores = [ScoreRow("r", "lora", 1, task, "acc", 0.5) for task in ("gsm8k", "winogrande", "piqa")]
    >>> rows, given = with_usual_roles(scores, {"winogrande": ""})
    >>> [row.role for row in rows], given
    (['target', '', ''], {'gsm8k': 'target'})
    """
    found: list[ScoreRow] = []
    given: dict[str, str] = {}
    for row in rows:
        usual = "" if row.role or row.task in told else USUAL_ROLES.get(row.task, "")
        given |= {row.task: usual} if usual else {}
        found.append(replace(row, role=usual) if usual else row)
    return tuple(found), given


def _content(path: Path) -> Any:
    try:
        if size_of(path) > MAX_JSON_BYTES:
            raise ValueError(f"larger than {MAX_JSON_BYTES} bytes")
        return parse_json(path.read_bytes())
    except (OSError, CheckpointError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read ({plain(str(error), limit=200)}); expected a JSON file of lm-eval or the BigCode"
            " harness, or a .csv file."
        ) from error
