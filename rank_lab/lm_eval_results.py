"""Results of the Language Model Evaluation Harness as rows of scores, with those of the examples where it kept them.

Read are files as lm_eval 0.4 writes them, ``results_DATE.json`` with
``samples_TASK_DATE.jsonl`` beside it, and those of 0.3 and before, whose metrics
have no filter.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rank_lab.errors import CheckpointError, DataError
from rank_lab.plain_file import MAX_JSON_BYTES, parse_json, size_of
from rank_lab.plain_text import plain
from rank_lab.score_origin import Imported, LeftOut, Origin, direction, number
from rank_lab.score_table import ScoreRow

__all__ = ["HARNESS", "Sample", "is_lm_eval", "lm_eval_scores", "read_samples", "set_sha256"]

HARNESS = "lm-eval"

_DATE = re.compile(r"_(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json$")
_ABOUT = frozenset({"alias", "name", "sample_len", "sample_count"})
_MAX_SAMPLES = 20_000_000_000  # bytes; ten thousand questions with their prompts are some hundred million
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Sample:
    """What is kept of one example.

    Parameters
    ----------
    doc_id
        Its place in the set.
    doc_hash
        Of its content, as lm-eval computes it; empty in files that do not have it.
    filter
        Which of the task's filters the answer went through.
    scores
        Metric to score.
    choices
        Answers to choose from; 0 where the model writes its own.
    """

    doc_id: int
    doc_hash: str
    filter: str
    scores: Mapping[str, float]
    choices: int = 0

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Sample":
        """Of one entry of lm-eval's ``samples``, in memory or in a file.

        Raises
        ------
        ValueError, KeyError, TypeError
            If it is none.
        """
        names = record.get("metrics") or [name for name in record if direction(str(name)) is not None]
        scores = {name: float(record[name]) for name in names if isinstance(record.get(name), bool | int | float)}
        responses = record.get("filtered_resps", ())
        scored = isinstance(responses, list) and all(isinstance(each, list | tuple) for each in responses)
        return cls(
            int(record["doc_id"]), str(record.get("doc_hash", "")), str(record.get("filter", "none")), scores,
            len(responses) if scored and len(responses) > 1 else 0,
        )  # fmt: skip


def is_lm_eval(content: Any) -> bool:
    """Whether a JSON content looks like results of lm-eval, of any version.

    Examples
    --------
    >>> is_lm_eval({"results": {"arc_easy": {"acc,none": 0.5}}, "versions": {}}), is_lm_eval({"results": 1})
    (True, False)
    """
    if not isinstance(content, dict):
        return False
    results, versions = content.get("results"), content.get("versions")
    return (
        isinstance(results, dict) and isinstance(versions, dict) and all(isinstance(v, dict) for v in results.values())
    )


def lm_eval_scores(
    content: Mapping[str, Any], origin: Origin, *, source: str, samples: Mapping[str, Sequence[Sample]] | None = None
) -> Imported:
    """Rows of the results of one evaluation.

    Parameters
    ----------
    content
        What lm-eval wrote, or what its ``simple_evaluate`` gives.
    origin
        Which model it was, and what its tasks are for.
    source
        Where the content comes from.
    samples
        Task to its examples, where they were kept. The scores of examples
        enter a row only if their mean is its value.

    Returns
    -------
    Imported
        A row for each number; a metric without a filter of its own keeps its plain name (``acc``, not ``acc,none``).

    Raises
    ------
    DataError
        If it is no result of lm-eval, is empty, or lacks a task that has a role.
    """
    if not is_lm_eval(content) or not content["results"]:
        raise DataError(f"{source}: holds no results of lm-eval; expected an object 'results' with a task at least.")
    origin.named(source)
    origin.check_tasks(source, content["results"])
    rows: list[ScoreRow] = []
    left_out: list[LeftOut] = []
    for task, metrics in content["results"].items():
        found = _task(content, str(task), metrics, origin, source)
        rows += [
            _with_examples(row, (samples or {}).get(task, ()), left_out) for row in found if isinstance(row, ScoreRow)
        ]
        left_out += [each for each in found if isinstance(each, LeftOut)]
    return Imported(tuple(rows), tuple(left_out)).or_refused(source)


def read_samples(results: Path, tasks: Iterable[str]) -> tuple[dict[str, list[Sample]], list[LeftOut]]:
    """The examples that lm-eval wrote beside a file of results, by task, and which tasks have none.

    Parameters
    ----------
    results
        The file ``results_DATE.json``; only files of the same date belong to it.
    tasks
        Of which tasks.

    Raises
    ------
    DataError
        If a file is there and cannot be read.
    """
    date = _DATE.search(results.name)
    samples, missing = {}, []
    for task in tasks:
        file = results.with_name(f"samples_{task}_{date[1]}.jsonl") if date and "/" not in task else None
        if file is not None and file.is_file():
            samples[task] = [*_samples_of(file)]
        else:
            missing.append(LeftOut(task, "scores of examples: no samples file of the same date beside the results"))
    return samples, missing


def set_sha256(doc_hashes: Sequence[str]) -> str:
    """Which examples, in which order: the hash of their hashes; empty if one has none.

    Parameters
    ----------
    doc_hashes
        lm-eval's, in the set's order.

    Examples
    --------
    >>> set_sha256(["a", "b"]) == set_sha256(["b", "a"]), set_sha256(["a", ""])
    (False, '')
    """
    return hashlib.sha256("\n".join(doc_hashes).encode()).hexdigest() if doc_hashes and all(doc_hashes) else ""


def _samples_of(file: Path) -> Iterator[Sample]:
    try:
        if size_of(file) > _MAX_SAMPLES:
            raise ValueError(f"larger than {_MAX_SAMPLES} bytes")
        with file.open("rb") as stream:
            while line := stream.readline(MAX_JSON_BYTES + 1):
                yield Sample.of(parse_json(line))
    except (OSError, CheckpointError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file}: is no file of lm-eval's samples ({plain(str(error), limit=200)}); restore it, or move it away to"
            " import the results without scores of examples."
        ) from error


def _task(
    content: Mapping[str, Any], task: str, metrics: Mapping[str, Any], origin: Origin, source: str
) -> list[ScoreRow | LeftOut]:
    found: list[ScoreRow | LeftOut] = []
    for key, value in metrics.items():
        metric, _, filter_name = str(key).partition(",")
        if key in _ABOUT or metric.endswith("_stderr"):
            continue
        name = f"{task} {key}"
        better = _better(content, task, metric)
        read = number(value)
        if read is None:
            found.append(LeftOut(name, f"{plain(repr(value), limit=40)} is no number"))
        elif better is None:
            found.append(LeftOut(name, "the file does not say whether a larger value is better"))
        else:
            stderr = metrics.get(f"{metric}_stderr,{filter_name}" if filter_name else f"{metric}_stderr")
            shown = metric if filter_name in ("", "none") else str(key)
            found.append(_row(content, task, shown, (read, stderr, better), origin, source))
    return found


def _row(
    content: Mapping[str, Any], task: str, metric: str, score: tuple[float, Any, bool], origin: Origin, source: str
) -> ScoreRow:
    value, stderr, better = score
    run, method = origin.named(source)
    error = number(stderr)
    known = error if error is not None and math.isfinite(error) and error >= 0 else None
    return ScoreRow(
        run, method, origin.step, task, metric, value, known, _count(content, task),
        origin.roles.get(task, ""), _shots(content, task), origin.chance.get(task), better,
        HARNESS, _version(content), source,
    )  # fmt: skip


def _count(content: Mapping[str, Any], task: str) -> int | None:
    count = _at(content, "n-samples", task, "effective")
    count = _at(content, "results", task, "sample_len") if count is None else count
    return count if _is_whole(count) and count > 0 else None


def _shots(content: Mapping[str, Any], task: str) -> int | None:
    """As the file says it: of the task, of its configuration, or, before 0.4, of all tasks at once."""
    places = (
        _at(content, "n-shot", task),
        _at(content, "configs", task, "num_fewshot"),
        _at(content, "config", "num_fewshot"),
    )
    return next((shots for shots in places if _is_whole(shots) and shots >= 0), None)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value < 2**63


def _at(content: Any, *path: str) -> Any:
    """What stands there; None where nothing does."""
    for name in path:
        if not isinstance(content, Mapping) or name not in content:
            return None
        content = content[name]
    return content


def _version(content: Mapping[str, Any]) -> str:
    if "lm_eval_version" in content:
        return plain(str(content["lm_eval_version"]), limit=100)
    return "" if "configs" in content else "before 0.4"


def _better(content: Mapping[str, Any], task: str, metric: str) -> bool | None:
    told = _at(content, "higher_is_better", task, metric)
    entries = _at(content, "configs", task, "metric_list")
    for entry in entries if told is None and isinstance(entries, list) else ():
        if _at(entry, "metric") == metric:
            told = _at(entry, "higher_is_better")
    return told if isinstance(told, bool) else direction(metric)


def _with_examples(row: ScoreRow, samples: Sequence[Sample], left_out: list[LeftOut]) -> ScoreRow:
    """The row with the scores of its examples, if they are that: as many as there are, with the row's value as mean."""
    if not samples:
        return row
    metric, _, filter_name = row.metric.partition(",")
    fitting = sorted((s for s in samples if s.filter == (filter_name or "none")), key=lambda sample: sample.doc_id)
    scores = [sample.scores[metric] for sample in fitting if metric in sample.scores]
    problem = _misfit(row, fitting, scores)
    if problem:
        left_out.append(LeftOut(f"{row.task} {row.metric}", f"scores of examples: {problem}"))
        return row
    return _replaced(row, scores, fitting)


def _misfit(row: ScoreRow, samples: Sequence[Sample], scores: Sequence[float]) -> str:
    if not scores or len(scores) != len(samples):
        return f"{len(scores)} of {len(samples)} examples have a number of this metric and filter"
    if row.n is not None and len(scores) != row.n:
        return f"there are {len(scores)}, and the results count {row.n}"
    if len({sample.doc_id for sample in samples}) != len(samples):
        return "an example is there twice"
    mean = sum(scores) / len(scores)
    if not math.isclose(mean, row.value, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        return f"the score, {row.value:.6g}, is not their mean, {mean:.6g}"
    return ""


def _replaced(row: ScoreRow, scores: Sequence[float], samples: Sequence[Sample]) -> ScoreRow:
    chance = row.chance
    if (
        chance is None
        and row.metric in ("acc", "acc_norm")
        and all(s.choices for s in samples)
        and set(scores) <= {0, 1}
    ):
        chance = sum(1 / sample.choices for sample in samples) / len(samples)
    return replace(
        row, n=len(scores), examples=tuple(scores), chance=chance, set_sha256=set_sha256([s.doc_hash for s in samples])
    )
