"""Tasks and data that cannot be read: refused by name, with file and line."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rank_lab.errors import DataError, RankLabError
from rank_lab.tasks import Subset, Task, encoded
from tests.test_tasks import SIZE, TONE, Row, minilm, said, tokenizer, written

PAIR = {"sentence1": "a", "sentence2": "b"}
BAD_ROWS: dict[str, tuple[Task | str, list[Row] | bytes, list[Row], str]] = {
    "broken line": (TONE, b'{"said": "a", "tone": 0}\n{"said": \n', said(0), r"train.jsonl, line 2: not JSON"),
    "no object": (TONE, b"[1]\n", said(0), "line 1: a JSON list, expected one JSON object a line"),
    "nothing": (TONE, b"\n", said(0), "train.jsonl: holds no row"),
    "all empty": (TONE, [{"said": " ", "tone": 0}], said(0), "column 'said' is empty in all 1 rows"),
    "missing column": (TONE, said(0, column="tones"), said(0), "line 1: has no column 'tone'.*Nearest: tones"),
    "missing later": (TONE, [*said(0, 1), {"said": "a"}], said(0), "line 3: has no column 'tone'"),
    "another task": ("cola", [{"question1": "a", "question2": "b", "label": 0}], [], "the columns of qqp: is this"),
    "no text": (TONE, [{"said": None, "tone": 0}], said(0), "line 1: column 'said' holds None, expected a text"),
    "values for classes": ("rte", [PAIR | {"label": 3.8}], [], "holds 3.8, expected the number of"),
    "unlabelled": ("cola", [{"sentence": "a", "label": -1}], [], "holds -1, .* a class from 0 to 1"),
    "out of range": ("cola", [{"sentence": "a", "label": 2}], [], "holds 2"),
    "boolean": (TONE, said(True, False), [], "holds True, expected the number of a class from 0, or its name"),
    "mixed": (TONE, said("warm", 0), [], "holds 'warm', expected the number"),
    "mixed later": (TONE, said("warm", "cold"), said(1), "validation.*, line 1: .* holds 1, expected .*: cold, warm"),
    "gap": (TONE, said(1, 2), said(1), r"holds the classes \[1, 2\]; expected two or more, numbered from 0"),
    "one class": (TONE, said("warm", "warm"), said("warm"), r"holds 1 different names \(warm\)"),
    "other count": (replace(TONE, classes=3), said("a", "b"), [], "expected 3 classes"),
    "unknown name": ("rte", [PAIR | {"label": "yes"}], [], "holds 'yes', expected a class"),
    "unseen class": (TONE, said(0, 1, 1), said(0, 2), "validation.jsonl, line 2: column 'tone' holds 2"),
    "unseen number": ("cola", [{"sentence": "a", "label": 0}], [{"sentence": "a", "label": 1}], "class 1 has no"),
    "not a value": (SIZE, said("big", column="size"), [], "holds 'big', expected a finite number"),
    "nan": (SIZE, b'{"said": "a", "size": NaN}', [], "holds nan, expected a finite number"),
    "half a character": (TONE, b'{"said": "\\ud83d", "tone": 0}\n', said(0), "line 1: holds half a character"),
    "score range": ("stsb", [PAIR | {"label": 7}], [], "a number from 0 to 5"),
    "control characters": (TONE, [{"said": "a", "\u001b[2J": 0}], [], r"has no column 'tone'.*\\x1b\[2J"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_rows(case: str, tmp_path: Path) -> None:
    task, train, validation, message = BAD_ROWS[case]
    written(tmp_path, train=train, validation=validation or train)
    with pytest.raises(DataError, match=message) as caught:
        encoded(task, tmp_path, tokenizer())
    assert "\n" not in str(caught.value)
    assert "\u001b" not in str(caught.value)


def nothing(folder: Path) -> Any:
    return folder


def both(folder: Path) -> Any:
    (folder / "train.jsonl").touch()
    (folder / "train.jsonl.gz").touch()
    return folder


def half_a_gzip(folder: Path) -> Any:
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(json.dumps(said(0)[0]).encode() * 50)[:40])
    return folder


def no_gzip(folder: Path) -> Any:
    (folder / "train.jsonl.gz").write_bytes(b"plain text")
    return folder


def a_folder(folder: Path) -> Any:
    (folder / "train.jsonl").mkdir()
    return folder


BAD_SOURCES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no folder": (lambda folder: folder / "absent", "absent: is not a folder"),
    "nothing": (nothing, "has no train.jsonl or train.jsonl.gz; it holds nothing"),
    "no validation": (lambda folder: written(folder, train=said(0)), "has no validation.jsonl .*; it holds train"),
    "both": (both, "train.jsonl: and train.jsonl.gz are both there"),
    "half a gzip": (half_a_gzip, "is no whole gzip file, after line 0"),
    "no gzip": (no_gzip, "is no whole gzip file"),
    "a folder": (a_folder, "is no regular file"),
    "no set": (lambda folder: {"training": said(0, 1)}, "no set 'train' among 'training'"),
    "no row": (lambda folder: {"train": ["text"]}, "train rows, line 1: a str, expected a mapping"),
    "not GLUE's": (lambda folder: None, "task 'tone' is not one of GLUE's"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SOURCES)
def test_bad_sources(case: str, tmp_path: Path) -> None:
    make, message = BAD_SOURCES[case]
    with pytest.raises(DataError, match=message):
        encoded(TONE, make(tmp_path), tokenizer())


def test_bad_settings() -> None:
    rows = {"train": said(0, 1), "validation": said(0, 1)}
    with pytest.raises(DataError, match=r"task 'mprc' is not one of GLUE's. Nearest: mrpc"):
        encoded("mprc", None, tokenizer())
    with pytest.raises(DataError, match="5 train examples asked for; it has 2"):
        encoded(TONE, rows, tokenizer(), subset=Subset(train=5))
    with pytest.raises(DataError, match="max_length 0: leaves no room"):
        encoded(TONE, rows, tokenizer(), max_length=0)
    with pytest.raises(DataError, match="max_length 2: leaves no room for text beside 2"):
        encoded(TONE, rows, minilm(), max_length=2)
    with pytest.raises(DataError, match=r"max_length 1000: more than the 512 tokens that tokenizer .*model allows"):
        encoded(TONE, rows, minilm(), max_length=1000)
    with pytest.raises(DataError, match="revision 'main': is of the hub"):
        encoded(TONE, rows, tokenizer(), revision="main")


BAD_TASKS: dict[str, tuple[tuple[Any, ...], str]] = {
    "kind": (("t", "ranking", ("a",), "l", "accuracy"), "kind 'ranking', expected one of"),
    "texts": (("t", "classification", ("a", "b", "c"), "l", "accuracy"), "3 text columns"),
    "twice": (("t", "classification", ("a", "a"), "l", "accuracy"), "expected each once"),
    "label of causal": (("t", "causal", ("a",), "l", "token_accuracy"), "the text is the label"),
    "no label": (("t", "regression", ("a",), "", "pearson"), "no label column"),
    "classes": (("t", "regression", ("a",), "l", "pearson", 2), "2 classes"),
    "names": (("t", "classification", ("a",), "l", "accuracy", 2, (), ("x", "x")), "1 different label names for 2"),
    "score": (("t", "classification", ("a",), "l", "pearson"), "score 'pearson' is of regression"),
    "unknown score": (("t", "classification", ("a",), "l", "f2"), "Nearest: f1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TASKS)
def test_bad_tasks(case: str) -> None:
    values, message = BAD_TASKS[case]
    with pytest.raises(RankLabError, match=message):
        Task(*values)
