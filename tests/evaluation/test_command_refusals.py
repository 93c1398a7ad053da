"""What the verb evaluate refuses, and what it says then."""

import shutil
from pathlib import Path

import pytest

from rank_lab.demo import BASE
from rank_lab.errors import DataError, RankLabError
from rank_lab.evaluation.evaluate_choices import Choices, jobs_of
from tests.evaluation.evaluated import evaluate


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (Choices(), "nothing to measure"),
        (Choices(source_texts=("talk",)), "expected NAME=FILE"),
        (Choices(tasks=("humaneval",)), "is read from local files only; give --data"),
        (Choices(tasks=("winogrande",), roles=("winogrande=both",)), "--role winogrande=both"),
        (Choices(tasks=("winogrande",), roles=("hellaswag=source",)), "no --task hellaswag is asked for"),
        (Choices(tasks=("winogrande", "winogrande")), "is asked for twice"),
        (Choices(tasks=("winogrande",), kl=True), "--kl is measured on texts"),
        (Choices(tasks=("helaswag",)), "Nearest: hellaswag"),
        (Choices(tasks=("winogrande",), batch_size=0), "--batch-size 0"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_model_is_loaded(choices: Choices, message: str) -> None:
    with pytest.raises(RankLabError, match=message):
        jobs_of(choices, "causal")


def test_a_task_of_classes_names_the_head_that_is_missing(shared_data: Path) -> None:
    with pytest.raises(RankLabError, match=r"'rte': its classes need a model with a classification head, .* causal"):
        jobs_of(Choices(tasks=("rte",), data=shared_data), "causal")


def test_code_is_not_run_without_being_allowed_to(shared_data: Path) -> None:
    with pytest.raises(RankLabError, match="allow it with --allow-code"):
        jobs_of(Choices(tasks=("humaneval",), data=shared_data), "causal")


def test_an_unknown_task_of_a_classifier_offers_the_nearest() -> None:
    with pytest.raises(DataError, match=r"task 'mrcp' is not one of GLUE's\. Nearest: mrpc"):
        jobs_of(Choices(tasks=("mrcp",)), "classification")


def test_a_run_that_would_pass_for_the_base_is_refused(texts: str, tmp_path: Path) -> None:
    shutil.copytree(BASE, tmp_path / "base")
    with pytest.raises(RankLabError, match="would pass for the untuned model"):
        evaluate([tmp_path / "base"], tmp_path / "study", Choices(source_texts=(texts,)))


def test_names_and_folders_that_do_not_fit_are_refused(run: Path, texts: str, tmp_path: Path) -> None:
    choices = Choices(source_texts=(texts,))
    with pytest.raises(RankLabError, match="--name x with 2 runs"):
        evaluate([run, run], tmp_path / "study", choices, name="x")
    with pytest.raises(RankLabError, match="is a file; -o names"):
        evaluate([run], tmp_path / "talk.jsonl", choices)
    same = shutil.copytree(run, tmp_path / "other" / "lora")
    with pytest.raises(RankLabError, match="with another --name"):
        evaluate([run, same], tmp_path / "study", choices)


def test_a_damaged_record_asks_to_be_removed(run: Path, texts: str, tmp_path: Path) -> None:
    study = tmp_path / "study"
    evaluate([], study, Choices(source_texts=(texts,)))
    (study / "evaluated.json").write_text("{")
    with pytest.raises(RankLabError, match="remove it, to measure everything again"):
        evaluate([], study, Choices(source_texts=(texts,)))
