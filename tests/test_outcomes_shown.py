"""What a study's outcomes look like in the terminal and in files, from the study's folder on."""

import json
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from rank_lab.errors import SchemaError
from rank_lab.export import FORMATS
from rank_lab.outcomes import OutcomeChoices
from rank_lab.outcomes_export import export_outcomes
from rank_lab.outcomes_terminal import outcome_summary, render_outcomes
from rank_lab.rank_forgetting import Sampling
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.score_table import ScoreTable
from rank_lab.study_outcomes import study_outcomes
from tests.checkpoints import rank_lab
from tests.outcome_studies import BASE, MODULES, matrix, report, scores, training

QUICK = OutcomeChoices(resampling=Resampling(200), sampling=Sampling(199, 50))
TABLES = (
    "scores", "score_examples", "outcomes", "outcome_kinds", "learning", "trade_offs", "pareto", "seed_groups",
    "equal_learning", "rank_forgetting", "scores_left_out",
)  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Nine runs of two rates, with reports and scores of two steps; a tenth has scores alone."""
    rows: list[ScoreRow] = [*BASE]
    for index in range(9):
        run, forgot = f"run{index}", 0.01 * (index + 1)
        updates = [matrix(run, step, name, 10 * index + step) for step in (10, 20) for name in MODULES]
        record = training("lora", (1e-4, 1e-3)[index % 2], index, rank=8)
        report(run, updates, record).save(tmp_path / f"{run}.rank")
        rows += [row for step in (10, 20) for row in scores(run, step, 0.02 * index, forgot * step / 20, method="lora")]
    rows += scores("odd", 5, 0.1, 0.1)
    rows.append(ScoreRow("run0", "lora", 20, "arc_easy", "acc", 0.5, n=2, examples=(0.0, 1.0)))
    ScoreTable.of(rows).save(tmp_path / "scores.parquet")
    return tmp_path


def shown(folder: Path, width: int = 300) -> str:
    screen = Console(file=StringIO(), width=width)
    screen.print(render_outcomes(study_outcomes(folder, QUICK)))
    return screen.file.getvalue()  # type: ignore[attr-defined]


def test_the_terminal_shows_all_of_it(study: Path) -> None:
    text = shown(study)
    assert "gsm8k exact_match 5-shot" in text
    early, late = (line for line in text.splitlines() if line.startswith("run8"))
    assert "0.1600 (0.1323 to 0.1877)" in late
    assert "0.0900 (0.0623 to 0.1177)" in late
    assert "100.0 / 50.0" in late
    assert " * " in early  # as much learned at half the price
    assert " * " not in late
    assert "down to learning, forgetting" in text
    assert "> 0.001" in text
    assert "or > " not in text
    assert "energy_rank_90 and forgetting, all methods: of 2 matrices 2 go together" in text
    assert "! no ranks: no report of this run - odd step 5" in text
    assert "left out: arc_easy acc: has no role" in text
    assert "they say nothing of other seeds" in " ".join(text.split())


@pytest.fixture
def small_differences(tmp_path: Path) -> Path:
    """Scores without reports, of which no two differ by more than a few millionths; five measures of forgetting."""
    rows = [*BASE]
    for run, by in (("base", 0), ("a-run-of-a-long-name", 1), ("another-run-of-a-long-name", 2)):
        rows += scores(run, 5, 1e-6 * by, -3e-6 * by) if by else []
        about = {"higher_is_better": False, "stderr": 0.01, "n": 100}
        step, method = (5, "full") if by else (0, "base")
        rows.append(ScoreRow(run, method, step, "wiki", "cross_entropy", 2.0 + by, role="source", **about))
        for task, role in (("wiki", "source"), ("news", "target")) if by else ():
            rows.append(ScoreRow(run, method, step, task, "kl_from_base", 0.1 * by, role=role, **about))
    ScoreTable.of(rows).save(tmp_path / "scores.parquet")
    return tmp_path


def test_columns_that_say_nothing_are_left_out(small_differences: Path) -> None:
    text = shown(small_differences, width=150)
    (heading,) = (line for line in text.splitlines() if line.startswith("run "))
    assert heading.split() == [
        "run", "step", "method", "learning", "forgetting", "normalised", "loss_rise", "kl_source", "kl_target",
    ]  # fmt: skip
    assert "p (BH)" not in text


def test_small_differences_have_digits_and_zero_no_sign(small_differences: Path) -> None:
    text = shown(small_differences)
    assert "-0.0000" not in text
    assert "-3e-06" in text
    assert "0.0000 (-0.0277 to 0.0277)" in text


def test_a_table_without_a_value_is_a_line_with_the_reason(tmp_path: Path) -> None:
    rows = [*BASE, *scores("a", 5, 0.2, 0.1), *scores("b", 5, 0.1, 0.1)]
    ScoreTable.of(rows).save(tmp_path / "scores.parquet")
    found = study_outcomes(tmp_path, QUICK)
    equal = found.trade_offs.equal_learning
    equal[["forgetting", "low", "high"]] = float("nan")
    equal["reason"] = "1 of 1 runs do not reach it"
    screen = Console(file=StringIO(), width=300)
    screen.print(render_outcomes(found))
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "mean over seeds: none (1 of 1 runs do not reach it)\n" in text


def test_show_without_reports_says_nothing_of_their_records(small_differences: Path) -> None:
    done = rank_lab("show", small_differences)
    assert (done.code, done.err) == (0, "")
    assert "loss_rise" in done.out
    assert "fairness" not in done.out


def test_nothing_is_cut_off_in_a_narrow_terminal(study: Path) -> None:
    narrow = shown(study, width=80)
    assert "…" not in narrow
    digits = "".join(narrow.split())
    for number in ("0.0623", "0.1177", "100.0"):
        assert number in digits


def test_brackets_in_names_are_shown(tmp_path: Path) -> None:
    ScoreTable.of([*BASE, *scores("[red]a[/red]", 10, 0.1, 0.1)]).save(tmp_path / "scores.parquet")
    assert "[red]a[/red]" in shown(tmp_path)


def test_a_study_without_roles_says_so(tmp_path: Path) -> None:
    ScoreTable.of([ScoreRow("a", "full", 1, "gsm8k", "acc", 0.5)]).save(tmp_path / "scores.parquet")
    text = shown(tmp_path)
    assert "no target with a measure of forgetting" in text
    assert "has no role; a source measures forgetting, a target learning" in text


def test_a_study_of_the_base_alone_says_so(tmp_path: Path) -> None:
    ScoreTable.of(BASE).save(tmp_path / "scores.parquet")
    assert "only the base was scored" in shown(tmp_path)


def test_a_study_without_a_base_says_so(tmp_path: Path) -> None:
    ScoreTable.of(scores("a", 10, 0.1, 0.1)).save(tmp_path / "scores.parquet")
    text = shown(tmp_path)
    assert "the base has no such score; evaluate the untuned model" in text
    assert " * " not in text


def test_files_of_all_formats_hold_the_same(study: Path, tmp_path: Path) -> None:
    found = study_outcomes(study, QUICK)
    files = export_outcomes(found, tmp_path / "out", formats=list(FORMATS))
    assert sorted(file.name for file in files) == sorted(f"{name}.{kind}" for name in TABLES for kind in FORMATS)
    for name in TABLES:
        parquet = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        csv = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        rows = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert len(parquet) == len(csv) == len(rows) > 0
        assert list(csv.columns) == list(parquet.columns) == list(rows[0])
    outcomes = pd.read_csv(tmp_path / "out" / "outcomes.csv")
    assert outcomes["forgetting"].tolist() == pytest.approx(found.checkpoints["forgetting"].tolist())
    examples = pd.read_csv(tmp_path / "out" / "score_examples.csv")
    assert examples[["task", "index", "score"]].values.tolist() == [["arc_easy", 1, 0.0], ["arc_easy", 2, 1.0]]


def test_the_summary_is_json(study: Path) -> None:
    summary = outcome_summary(study_outcomes(study, QUICK))
    content = json.loads(json.dumps(summary, allow_nan=False))
    assert len(content["checkpoints"]) == 19
    assert content["checkpoints"][0]["run"] == "odd"
    assert content["checkpoints"][0]["energy_rank_90"] is None
    assert {row["method"] for row in content["seed_groups"]} == {"lora", "full"}


def test_studies_that_are_none(study: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="there are no scores; make them with"):
        study_outcomes(tmp_path / "absent")
    ScoreTable().save(tmp_path / "empty" / "scores.parquet")
    with pytest.raises(SchemaError, match="holds no scores"):
        study_outcomes(tmp_path / "empty")
    (study / "run3.rank" / "updates.parquet").write_bytes(b"nothing")
    with pytest.raises(SchemaError, match=r"updates\.parquet: cannot be read"):
        study_outcomes(study)


def test_the_same_study_gives_the_same_numbers(study: Path) -> None:
    first, second = (study_outcomes(study, QUICK) for _ in range(2))
    for name in ("checkpoints", "learning", "associations"):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
    pd.testing.assert_frame_equal(first.trade_offs.points, second.trade_offs.points)
