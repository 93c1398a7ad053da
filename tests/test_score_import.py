"""Results of other harnesses become the rows that they are, and nothing else does."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rank_lab.errors import DataError, RankLabError
from rank_lab.evaluation.code_tasks import CODE_TASKS
from rank_lab.evaluation.harness_tasks import LOCAL_TASKS
from rank_lab.import_command import import_and_print, origin_of
from rank_lab.lm_eval_results import Sample, lm_eval_scores
from rank_lab.outcomes import OutcomeChoices
from rank_lab.score_import import import_scores
from rank_lab.score_origin import Origin
from rank_lab.score_row import USUAL_ROLES
from rank_lab.score_table import ScoreTable
from rank_lab.study_outcomes import study_outcomes
from tests.lm_eval_runs import QUESTIONS, evaluated

BASE = Origin("base", "base", 0)
BIGCODE = {
    "humaneval": {"pass@1": 0.1926, "pass@10": 0.3357},
    "config": {"model": "m", "temperature": 0.2, "n_samples": 50},
}


def written(file: Path, content: Any) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    return evaluated(tmp_path_factory.mktemp("lm_eval"))


def test_what_lm_eval_wrote(evaluation: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file, told = evaluation
    found = import_scores(file, Origin("base", "base", 0, {"sums": "source", "text": "target"}))
    rows = {(row.task, row.metric): row for row in found.rows}
    assert set(rows) == {("sums", "acc"), ("sums", "acc_norm"), ("text", "word_perplexity")}
    results = told["results"]
    for (task, metric), row in rows.items():
        assert row.value == results[task][f"{metric},none"]
        assert (row.n, row.few_shot, row.harness, row.harness_version) == (12, 0, "lm-eval", told["lm_eval_version"])
        assert (row.run, row.method, row.step, row.source) == ("base", "base", 0, str(file))
    accuracy, perplexity = rows["sums", "acc"], rows["text", "word_perplexity"]
    assert (accuracy.stderr, accuracy.role) == (results["sums"]["acc_stderr,none"], "source")
    assert accuracy.examples == tuple(sample["acc"] for sample in told["samples"]["sums"])
    assert accuracy.chance == pytest.approx(sum(1 / len(row["choices"]) for row in QUESTIONS) / 12)
    assert len(accuracy.set_sha256) == 64
    assert accuracy.higher_is_better
    assert (perplexity.stderr, perplexity.examples, perplexity.role) == (None, None, "target")
    assert not perplexity.higher_is_better
    assert [each.reason for each in found.left_out] == [
        "scores of examples: 0 of 12 examples have a number of this metric and filter"
    ]
    table = ScoreTable.of(found.rows)
    assert ScoreTable.load(table.save(tmp_path / "scores.parquet")) == table


def test_what_lm_eval_returned_gives_the_same_rows(evaluation: tuple[Path, dict[str, Any]]) -> None:
    file, told = evaluation
    samples = {task: [Sample.of(record) for record in records] for task, records in told["samples"].items()}
    assert lm_eval_scores(told, BASE, source=str(file), samples=samples).rows == import_scores(file, BASE).rows


def test_samples_that_do_not_fit_are_left_out(evaluation: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    file, told = evaluation
    lines = file.with_name(file.name.replace("results", "samples_sums")).with_suffix(".jsonl").read_text().splitlines()
    copy = written(tmp_path / file.name, {key: value for key, value in told.items() if key != "samples"})
    beside = tmp_path / file.name.replace("results", "samples_sums").replace(".json", ".jsonl")
    told_of = []
    turned = [line.replace('"acc": 1.0', '"acc": 0.0') for line in lines]
    for content in (None, lines[:-1], [*lines[:-1], lines[0]], turned):
        if content is not None:
            written(beside, "\n".join(content) + "\n")
        found = import_scores(copy, BASE)
        assert found.rows[0].examples is None
        assert found.rows[0].set_sha256 == ""
        told_of.append(next(each.reason for each in found.left_out if each.name.startswith("sums")))
    assert told_of[0] == "scores of examples: no samples file of the same date beside the results"
    assert told_of[1] == "scores of examples: there are 11, and the results count 12"
    assert told_of[2] == "scores of examples: an example is there twice"
    assert told_of[3] == "scores of examples: the score, 0.583333, is not their mean, 0"
    written(beside, "\n".join(reversed(lines)) + "\n")
    assert import_scores(copy, BASE).rows[0].examples == import_scores(file, BASE).rows[0].examples
    written(beside, "{]\n")
    with pytest.raises(DataError, match="is no file of lm-eval's samples"):
        import_scores(copy, BASE)


def test_two_evaluations_become_a_paired_difference(evaluation: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The model guesses anew: what it lost of the base's right answers, with the interval of a paired bootstrap."""
    file, told = evaluation
    again, retold = evaluated(tmp_path, seed=5)
    roles = {"sums": "source", "text": "target"}
    base, tuned = (
        import_scores(file, Origin("base", "base", 0, roles)),
        import_scores(again, Origin("r", "full", 9, roles)),
    )
    ScoreTable.of([*base.rows, *tuned.rows]).save(tmp_path / "study" / "scores.parquet")
    found = study_outcomes(tmp_path / "study", OutcomeChoices(source_metrics={"sums": "acc"}))
    row = found.checkpoints.iloc[0]
    before, after = (results["results"]["sums"]["acc,none"] for results in (told, retold))
    assert before != after
    assert row["forgetting"] == pytest.approx(before - after)
    assert row["forgetting_how"] == "paired"
    assert row["forgetting_low"] < before - after < row["forgetting_high"]
    gained = found.learning.iloc[0]
    perplexities = [results["results"]["text"]["word_perplexity,none"] for results in (told, retold)]
    assert gained["learning"] == pytest.approx(perplexities[0] - perplexities[1])
    assert gained["learning_reason"] == "text: neither a standard error nor scores of the same examples"


WORDS = st.sampled_from(
    ["results", "versions", "config", "configs", "model", "n-shot", "n-samples", "effective", "acc,none", "acc", "a",
     "acc_stderr,none", "metric_list", "higher_is_better", "num_fewshot", "lm_eval_version", "sample_len", "\x1b[2J"]
)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=5),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(WORDS, JSON, max_size=6)
    | st.fixed_dictionaries({"results": st.dictionaries(WORDS, st.dictionaries(WORDS, JSON)), "versions": st.just({}),
                             "n-shot": JSON, "n-samples": JSON, "configs": JSON, "higher_is_better": JSON})
)  # fmt: skip
def test_any_content_is_read_or_refused_in_words(tmp_path: Path, content: Any) -> None:
    file = written(tmp_path / "any.json", content)
    try:
        found = import_scores(file, BASE)
        said = [text for each in found.left_out for text in (each.name, each.reason)]
        assert len(found.rows) > 0
    except RankLabError as error:
        said = [str(error)]
    assert all(text.isprintable() for text in said)


def test_filters_groups_and_what_is_no_number(tmp_path: Path) -> None:
    content = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k", "exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": 0.01,
                "exact_match,flexible-extract": 0.3, "exact_match_stderr,flexible-extract": "N/A", "note,none": "good",
            },
            "all": {"alias": "all", "taste,none": 1.0, " ": " "},
        },
        "configs": {"gsm8k": {"num_fewshot": 5, "metric_list": [{"metric": "exact_match", "higher_is_better": True}]}},
        "versions": {"gsm8k": 3}, "n-samples": {"gsm8k": {"original": 1319, "effective": 100}},
    }  # fmt: skip
    found = import_scores(written(tmp_path / "results_2024-01-01T00-00-00.json", content), BASE)
    assert [(row.metric, row.stderr, row.n, row.few_shot, row.harness_version) for row in found.rows] == [
        ("exact_match,strict-match", 0.01, 100, 5, ""),
        ("exact_match,flexible-extract", None, 100, 5, ""),
    ]
    assert {each.name: each.reason for each in found.left_out} == {
        "gsm8k note,none": "'good' is no number",
        "all taste,none": "the file does not say whether a larger value is better",
        "all  ": "' ' is no number",
        "gsm8k": "scores of examples: no samples file of the same date beside the results",
        "all": "scores of examples: no samples file of the same date beside the results",
    }


def test_a_file_of_before_0_4(tmp_path: Path) -> None:
    content = {
        "results": {"hellaswag": {"acc": 0.5, "acc_stderr": 0.02, "acc_norm": 0.6, "acc_norm_stderr": 0.01}},
        "versions": {"hellaswag": 0},
        "config": {"model": "hf-causal", "num_fewshot": 10},
    }
    rows = import_scores(written(tmp_path / "old.json", content), BASE).rows
    assert [(row.metric, row.value, row.stderr, row.few_shot, row.n, row.harness_version) for row in rows] == [
        ("acc", 0.5, 0.02, 10, None, "before 0.4"),
        ("acc_norm", 0.6, 0.01, 10, None, "before 0.4"),
    ]


def test_bigcode(tmp_path: Path) -> None:
    content = BIGCODE | {"mercury": {"Easy_beyond@1": 0.6}}
    found = import_scores(
        written(tmp_path / "r.json", content), Origin("r", "full", 5, {"humaneval": "target"}, {"humaneval": 0.0})
    )
    assert [(row.metric, row.value, row.n, row.stderr, row.role, row.chance) for row in found.rows] == [
        ("pass@1", 0.1926, None, None, "target", 0.0),
        ("pass@10", 0.3357, None, None, "target", 0.0),
    ]
    assert [(each.name, each.reason) for each in found.left_out] == [
        ("mercury Easy_beyond@1", "the file does not say whether a larger value is better")
    ]


CSV = "run,method,step,task,metric,value,stderr,n,few_shot,role,higher_is_better\n"


def test_tasks_have_their_usual_roles_where_nobody_says_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = ("hellaswag", "arc_challenge", "winogrande", "gsm8k", "humaneval", "mbpp", "piqa")
    text = CSV + "".join(f"r,lora,5,{task},acc,0.5,,,,,\n" for task in tasks)
    file = written(tmp_path / "a.csv", text + "r,lora,6,winogrande,acc,0.5,,,,target,\n")
    roles = ["humaneval=source", "gsm8k=", "piqa=source"]
    import_and_print([file], tmp_path / "study", origin_of(None, None, None, roles, []))
    rows = ScoreTable.load(tmp_path / "study" / "scores.parquet").rows
    assert {(row.task, row.step): row.role for row in rows} == {
        ("hellaswag", 5): "source", ("arc_challenge", 5): "source", ("winogrande", 5): "source", ("gsm8k", 5): "",
        ("humaneval", 5): "source", ("mbpp", 5): "target", ("piqa", 5): "source", ("winogrande", 6): "target",
    }  # fmt: skip
    said = capsys.readouterr().err.splitlines()
    assert "note: hellaswag: has the role source by default; --role hellaswag= for none" in said
    assert [line.split(":")[1] for line in said] == [" hellaswag", " arc_challenge", " winogrande", " mbpp"]


def test_roles_of_the_import_are_those_of_evaluate() -> None:
    assert {*LOCAL_TASKS, *CODE_TASKS} == {*USUAL_ROLES}
    assert all(task.role == USUAL_ROLES[name] for name, task in LOCAL_TASKS.items())


def test_csv(tmp_path: Path) -> None:
    text = "\ufeff" + CSV + "lora,lora,100,wiki,bits,1.5,,,,source,false\n\nlora,lora,,gsm8k,acc,0.25,0.01,100,5,,\n"
    first, second = import_scores(written(tmp_path / "a.csv", text), Origin(roles={"gsm8k": "target"})).rows
    assert (first.step, first.value, first.stderr, first.n, first.role, first.higher_is_better) == (
        100, 1.5, None, None, "source", False,
    )  # fmt: skip
    assert (second.step, second.n, second.few_shot, second.role, second.higher_is_better) == (
        None, 100, 5, "target", True,
    )  # fmt: skip
    short = written(tmp_path / "b.csv", "task,metric,value\narc,acc,0.5\n")
    assert import_scores(short, Origin("base", "base", 0)).rows[0].run == "base"


@pytest.mark.parametrize(
    ("name", "content", "origin", "message"),
    [
        ("r.json", "{", BASE, "r.json: cannot be read"),
        ("r.json", {"loss": 3}, BASE, "holds loss; expected results of lm-eval"),
        ("r.json", [1], BASE, "holds a JSON list; expected"),
        ("r.json", {"results": {}, "versions": {}}, BASE, "holds no results of lm-eval"),
        ("r.json", {"results": {"a": {}}, "versions": {}}, BASE, "no number in it is a score"),
        ("r.json", {"results": {"a": {"acc": "?"}}, "versions": {}}, BASE, ".a acc: '\\?' is no number"),
        ("r.json", {"results": {"a": {"acc": 10**400}}, "versions": {}}, BASE, "no number in it is a score"),
        ("r.json", {"mbpp": {"pass@1": 10**400}, "config": {"model": "m"}}, BASE, "no number in it is a score"),
        ("r.json", BIGCODE, Origin("r"), "does not say which method it is of"),
        ("r.json", BIGCODE, Origin("r", "m", roles={"humanevil": "target"}), "no task 'humanevil'. Nearest: humaneval"),
        ("r.json", {"mbpp": {"pass": 1}, "config": {"model": "m"}}, BASE, "no number in it is a score .mbpp pass"),
        ("a.csv", CSV, BASE, "a.csv: holds no rows"),
        ("a.csv", "", BASE, "has no column task, metric, value"),
        ("a.csv", "task,metrik,value\n", BASE, "column 'metrik' is not known. Nearest: metric"),
        ("a.csv", "task,metric,value\na,acc,1\n", Origin(), "has no column run, method; expected"),
        ("a.csv", "task,task,metric,value\n", BASE, "a column is there twice"),
        ("a.csv", "task,metric,value\na,acc\n", BASE, "line 2: 2 cells, expected 3"),
        ("a.csv", "task,metric,value\na,acc,high\n", BASE, "line 2: value 'high', expected a number"),
        ("a.csv", "task,metric,value,n\na,acc,1,1.5\n", BASE, "line 2: n '1.5', expected a whole number"),
        ("a.csv", "task,metric,value\na,,1\n", BASE, "line 2: its metric is empty"),
        ("a.csv", "task,metric,value\na,taste,1\n", BASE, "nothing says whether a larger 'taste' is better"),
        ("a.csv", "task,metric,value,higher_is_better\na,taste,1,maybe\n", BASE, "'maybe', expected true or false"),
        ("a.csv", "task,metric,value,role\na,acc,1,sauce\n", BASE, "line 2: score a acc .*role 'sauce'"),
        ("a.csv", "task,metric,value\na,acc,1\n", Origin("r", "m", roles={"b": "source"}), "no task 'b'. Nearest: a"),
        ("a.csv", 'task,metric,value\n"a,acc,1\n', BASE, "is no CSV file"),
    ],
)  # fmt: skip
def test_files_that_are_refused(tmp_path: Path, name: str, content: Any, origin: Origin, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        import_scores(written(tmp_path / name, content), origin)
    assert str(caught.value).isprintable()


def test_roles_that_are_none_and_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="task 'a': role 'origin', expected 'source', 'target' or none"):
        Origin("r", "m", roles={"a": "origin"})
    for name in ("absent.json", "absent.csv"):
        with pytest.raises(DataError, match=name):
            import_scores(tmp_path / name, BASE)
