"""HumanEval, MBPP, pass@k and diversity: known answers."""

import json
from itertools import combinations
from pathlib import Path

import pytest

from rank_lab.errors import DataError, RankLabError
from rank_lab.evaluation.code_scores import CodeOptions, pass_at_k, rows_of_completions
from rank_lab.evaluation.code_tasks import CODE_TASKS, CodeProblem, read_problems
from rank_lab.evaluation.generation import Completion
from rank_lab.evaluation.limited_process import run_all
from rank_lab.score_table import ScoreRow
from tests.evaluation.own_tasks import HUMANEVAL, MBPP, own_data

PROBLEM = CodeProblem("one", "def one():\n", "    return 1\n", "def one():\n", "assert one() == 1")


def scored(problems: list[CodeProblem], texts: list[list[str]], task: str = "own") -> dict[str, ScoreRow]:
    options = CodeOptions(Path("own"), allow_code=True, workers=2)
    written = [[Completion(text, True) for text in group] for group in texts]
    return {row.metric: row for row in rows_of_completions(task, problems, written, options)}


@pytest.mark.parametrize(("samples", "right", "k"), [(5, 2, 1), (5, 2, 3), (6, 1, 2), (4, 0, 2), (4, 4, 3), (5, 3, 5)])
def test_pass_at_k_is_the_share_of_subsets_with_one_that_passes(samples: int, right: int, k: int) -> None:
    subsets = list(combinations([True] * right + [False] * (samples - right), k))
    assert pass_at_k(samples, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets), abs=1e-15)


def test_pass_at_k_of_more_than_there_are_is_refused() -> None:
    with pytest.raises(RankLabError, match="pass@3 of 2 samples"):
        pass_at_k(2, 1, 3)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Problems of our own, which are always there."""
    return own_data(tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize(("task", "count"), [("humaneval", len(HUMANEVAL)), ("mbpp", len(MBPP))])
def test_reference_solutions_of_our_own_problems_score_1_and_wrong_ones_0(task: str, count: int, own: Path) -> None:
    problems = list(read_problems(CODE_TASKS[task], own))
    row = scored(problems, [[problem.reference] for problem in problems])["pass@1"]
    assert (row.value, row.n, row.stderr) == (1.0, count, None)  # no spread says nothing of the error
    right = problems[0].reference
    for text in (
        right.replace("2 * ", "3 * ").replace("count(letter)", "index(letter)"),  # runs, and gives something else
        right.replace("return", "retrun"),  # no Python
        "    return None\n" if task == "humaneval" else "def count_of(word, letter):\n    return None",
        "",
    ):
        row = scored(problems[:1], [[text]])["pass@1"]
        assert (row.value, row.n) == (0.0, 1), text
    mixed = [[problem.reference] for problem in problems[1:]]
    row = scored(problems, [["    return 'no answer to anything'\n"], *mixed])["pass@1"]
    assert row.examples == (0.0, *[1.0] * (count - 1))


def test_all_reference_solutions_of_humaneval_pass(shared_data: Path) -> None:
    problems = list(read_problems(CODE_TASKS["humaneval"], shared_data))
    assert len(problems) == 164
    row = scored(problems, [[problem.reference] for problem in problems])["pass@1"]
    assert (row.value, row.n, row.stderr) == (1.0, 164, None)


def test_wrong_solutions_of_humaneval_score_nothing(shared_data: Path) -> None:
    problems = list(read_problems(CODE_TASKS["humaneval"], shared_data))[::4]
    row = scored(problems, [["    return 'no answer to anything'\n"] for _ in problems])["pass@1"]
    assert (row.value, row.n, row.chance) == (0.0, 41, 0.0)


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_reference_solutions_of_mbpp_pass(shared_data: Path, step: int) -> None:
    files = [shared_data / "mbpp" / f"{name}.jsonl" for name in ("prompt", "test", "validation", "train")]
    problems = [problem for file in files for problem in read_problems(CODE_TASKS["mbpp"], file)]
    assert len(problems) == 974
    needing_order = [problem for problem in problems if problem.name in ("367", "927")]
    chosen = problems[::step] + (needing_order if step > 1 else [])
    outcomes = list(run_all([problem.program(problem.reference) for problem in chosen], workers=2))
    assert [p.name for p, outcome in zip(chosen, outcomes, strict=True) if not outcome.passed] == []


def test_samples_are_scored_together() -> None:
    right, other, wrong = "    return 1\n", "    return 2 - 1\n", "    return 0\n"
    rows = scored([PROBLEM, PROBLEM], [[right, right, other, wrong], [wrong, wrong, wrong, wrong]])
    assert rows["pass@1"].value == pytest.approx(0.375)
    assert rows["pass@1"].examples == (0.75, 0.0)
    assert rows["pass@1"].stderr == pytest.approx(0.375)  # of 0.75 and 0: their half difference
    assert rows["unique_of_4"].examples == (3.0, 1.0)
    assert rows["unique_of_4_passing"].examples == (2.0, 0.0)
    assert rows["unique_of_4_failing"].examples == (1.0, 1.0)


def test_one_that_was_not_finished_in_time_has_failed() -> None:
    options = CodeOptions(Path("own"), allow_code=True)
    row = rows_of_completions("own", [PROBLEM], [[Completion(PROBLEM.reference, in_time=False)]], options)[0]
    assert row.value == 0.0
    assert "1 completions out of time" in row.source


def test_nothing_runs_without_being_allowed_to(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match="allow it with --allow-code"):
        rows_of_completions("own", [PROBLEM], [[Completion("    return 1\n", True)]], CodeOptions(tmp_path))


def test_a_column_that_is_missing_is_named_with_the_nearest(tmp_path: Path) -> None:
    row = {"task_id": 1, "text": "t", "code": "c", "test_setup": "", "test_list": ["assert True"]}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"no column 'test_setup_code', of mbpp\. Nearest: test_setup"):
        read_problems(CODE_TASKS["mbpp"], tmp_path / "mine.jsonl")


def test_no_problem_and_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match="holds no problem of humaneval"):
        read_problems(CODE_TASKS["humaneval"], tmp_path / "empty.jsonl")
    with pytest.raises(DataError, match=r"humaneval/test\.jsonl: is not there"):
        read_problems(CODE_TASKS["humaneval"], tmp_path)
