"""A table of scores is what was saved, nothing else passes as one."""

import io
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from rank_lab import parquet_check
from rank_lab.errors import SchemaError
from rank_lab.score_table import SCORES_SCHEMA, ScoreRow, ScoreTable
from rank_lab.score_terminal import render_scores

BASE = ScoreRow("base", "base", 0, "winogrande", "acc", 0.75, role="source", n=4, chance=0.5, examples=(1, 1, 0, 1))
TUNED = ScoreRow(
    "lora", "lora", 100, "gsm8k", "exact_match,strict-match", 0.2, 0.01, 1319, "target", 5, 0.0, True,
    "lm-eval", "0.4.13", "results.json", "a" * 64,
)  # fmt: skip
PERPLEXITY = ScoreRow("lora", "lora", None, "wiki", "cross_entropy", math.nan, higher_is_better=False)
TABLE = ScoreTable.of([BASE, TUNED, PERPLEXITY])


def test_load_gives_what_was_saved(tmp_path: Path) -> None:
    assert ScoreTable.load(TABLE.save(tmp_path / "study" / "scores.parquet")) == TABLE
    assert ScoreTable.load(ScoreTable().save(tmp_path / "none.parquet")) == ScoreTable()
    assert ScoreTable.of([BASE, replace(TUNED, value=0.21), PERPLEXITY]) != TABLE
    assert [file.name for file in (tmp_path / "study").iterdir()] == ["scores.parquet"]


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = TABLE.save(tmp_path / "a"), TABLE.save(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()


def test_columns_are_the_fields() -> None:
    assert [field.name for field in fields(ScoreRow)] == SCORES_SCHEMA.names == list(TABLE.frame.columns)


def test_the_frame() -> None:
    frame = TABLE.frame
    assert frame["step"].isna().tolist() == [False, False, True]
    assert frame["few_shot"].dtype == "Int64"
    assert frame["value"].dtype == frame["chance"].dtype == "float64"
    assert frame["examples"].tolist() == [(1.0, 1.0, 0.0, 1.0), None, None]
    assert list(ScoreTable().frame.columns) == SCORES_SCHEMA.names


def test_numbers_of_numpy_become_plain() -> None:
    row = ScoreRow(
        "r",
        "m",
        np.int64(3),
        "t",
        "acc",
        np.float32(0.5),
        n=np.int64(2),
        examples=np.array([0.0, 1.0]),  # type: ignore[arg-type]
    )
    assert (type(row.step), type(row.value), type(row.n), row.examples) == (int, float, int, (0.0, 1.0))


def test_the_newer_replaces_the_older() -> None:
    newer = ScoreTable.of([replace(TUNED, value=0.3), replace(TUNED, few_shot=8)])
    merged = TABLE.merged(newer)
    assert [row.value for row in merged.rows if row.task == "gsm8k"] == [0.3, 0.2]
    assert len(merged.rows) == 4


def test_a_key_twice_is_refused() -> None:
    with pytest.raises(
        SchemaError, match="gsm8k exact_match,strict-match, 5-shot of run 'lora' at step 100 is there twice"
    ):
        ScoreTable.of([TUNED, replace(TUNED, value=0.4)])


def test_brackets_in_names_are_shown() -> None:
    console = Console(width=200, file=io.StringIO())
    console.print(render_scores([replace(TUNED, run="[red]a[/x]")]))
    assert "[red]a[/x]" in console.file.getvalue()  # type: ignore[attr-defined]


def test_prompts_that_were_cut_are_told_below_the_table() -> None:
    console = Console(width=200, file=io.StringIO())
    cut = "gsm8k version 3, hub, 7 cut on the left to 128 tokens"
    console.print(render_scores([replace(TUNED, source=cut), replace(TUNED, step=200, source=cut), PERPLEXITY]))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    told = "note: gsm8k 5-shot: prompts longer than the model's room: 7 cut on the left to 128 tokens"
    assert text.splitlines().count(told) == 1
    assert text.count("note: ") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": "a\x1b[2J"}, "its run cannot be printed"),
        ({"task": ""}, "its task cannot be printed, or is empty"),
        ({"method": None}, "its method cannot be printed, or is empty"),
        ({"harness": "lm\neval"}, "its harness cannot be printed"),
        ({"role": "sauce"}, "role 'sauce', expected one of 'source', 'target', ''"),
        ({"step": -1}, "step -1"),
        ({"step": 1.5}, "1.5 is no whole number"),
        ({"step": 10**30}, "does not fit into 64 bits"),
        ({"value": "good"}, "a number is none"),
        ({"few_shot": -2}, "few-shot count -2"),
        ({"n": 0}, "the set is empty"),
        ({"stderr": math.nan}, "standard error nan"),
        ({"chance": math.inf}, "chance inf"),
        ({"set_sha256": "abc"}, "set_sha256 'abc', expected 64 hexadecimal digits"),
        ({"examples": (1.0,)}, "1 scores of examples, and n is 1319"),
    ],
)
def test_rows_that_are_none(change: dict[str, object], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        replace(TUNED, **change)  # type: ignore[arg-type]


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(SchemaError, match="garbage: is no table of scores"):
        ScoreTable.load(garbage)
    with pytest.raises(SchemaError, match="there are no scores; make them with"):
        ScoreTable.load(tmp_path / "absent")
    with pytest.raises(SchemaError, match="is no regular file"):
        ScoreTable.load(tmp_path)
    file = TABLE.save(tmp_path / "scores.parquet")
    stored = pq.read_table(file)
    pq.write_table(stored.replace_schema_metadata(None), file)
    with pytest.raises(SchemaError, match="does not say which version"):
        ScoreTable.load(file)
    pq.write_table(stored.replace_schema_metadata({b"rank_lab.scores_version": b"7"}), file)
    with pytest.raises(SchemaError, match="version b'7', this rank_lab reads 1"):
        ScoreTable.load(file)
    pq.write_table(stored.drop_columns("chance"), file)
    with pytest.raises(SchemaError, match=r"columns that differ .*'chance'"):
        ScoreTable.load(file)
    control = stored.set_column(0, "run", pa.array(["a\x1b[2J"] * 3))
    pq.write_table(control.replace_schema_metadata(stored.schema.metadata), file)
    with pytest.raises(SchemaError, match=r"its run cannot be printed") as caught:
        ScoreTable.load(file)
    assert str(caught.value).isprintable()
    TABLE.save(file)
    monkeypatch.setattr(parquet_check, "_MAX_VALUES", 10)
    with pytest.raises(SchemaError, match="bytes once unpacked, in a file of"):
        ScoreTable.load(file)
