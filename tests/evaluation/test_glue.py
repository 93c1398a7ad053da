"""Classifiers on GLUE's tasks: scores that follow from known predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig

from rank_lab.base_model import load_base
from rank_lab.demo import BASE
from rank_lab.errors import CheckpointError, RankLabError
from rank_lab.evaluation import glue_scores
from rank_lab.evaluation.glue_scores import GlueOptions, glue_rows
from rank_lab.evaluation.sources import tuned_of
from rank_lab.evaluation.tuned_models import LoadOptions, Shelf
from rank_lab.scores import SCORES
from tests.evaluation.models import adapter, demo_tokenizer, evaluated


def classifier(classes: int) -> Any:
    torch.manual_seed(1)
    kind = "regression" if classes == 1 else "classification"
    model = load_base(BASE, kind, classes=classes)
    model.config.pad_token_id = 0
    return model.eval()


def answers(model: Any, texts: list[tuple[str, ...]]) -> np.ndarray:
    """One at a time, so that there is no padding."""
    tokenizer, found = demo_tokenizer(), []
    for text in texts:
        with torch.no_grad():
            ids = torch.tensor([tokenizer(*text, truncation=True, max_length=128)["input_ids"]])
            logits = model(ids).logits[0]
        found.append(float(logits.argmax()) if len(logits) > 1 else float(logits[0]))
    return np.array(found)


def shortened(shared_data: Path, task: str, to: Path) -> Path:
    """A folder with the first 80 rows of both sets."""
    (to / task).mkdir()
    for name in ("train.jsonl", "validation.jsonl"):
        lines = (shared_data / task / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (to / task / name).write_text("".join(lines[:80]), encoding="utf-8")
    return to


def asked(data: Path, task: str, columns: tuple[str, ...]) -> tuple[list[tuple[str, ...]], np.ndarray]:
    lines = (data / task / "validation.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [tuple(row[name] for name in columns) for row in rows], np.array([float(row["label"]) for row in rows])


@pytest.mark.parametrize(
    ("task", "classes", "columns", "names"),
    [
        ("mrpc", 2, ("sentence1", "sentence2"), ("f1", "accuracy")),
        ("rte", 2, ("sentence1", "sentence2"), ("accuracy",)),
    ],
)
def test_all_scores_of_a_task(
    task: str, classes: int, columns: tuple[str, ...], names: tuple[str, ...], shared_data: Path, tmp_path: Path
) -> None:
    model, data = classifier(classes), shortened(shared_data, task, tmp_path)
    rows = glue_rows(evaluated(model, padded(), kind="classification"), task, GlueOptions(data=data))
    texts, labels = asked(data, task, columns)
    predicted = answers(model, texts)
    assert [row.metric for row in rows] == list(names)
    for row in rows:
        assert row.value == pytest.approx(SCORES[row.metric].of(labels, predicted), abs=2e-9)
        assert (row.n, row.role, row.task) == (len(labels), "target", task)
        assert row.stderr is not None
        assert 0 < row.stderr < 0.2
    accuracy = rows[-1]
    assert np.mean(np.array(accuracy.examples) == (labels == predicted)) == 1.0
    assert accuracy.chance == pytest.approx(max(labels.mean(), 1 - labels.mean()))


def test_training_texts_are_not_tokenised(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    found = glue_scores.encoded

    def counted(*given: Any, **named: Any) -> Any:
        data = found(*given, **named)
        seen.append(len(data.train))
        return data

    monkeypatch.setattr(glue_scores, "encoded", counted)
    rows = glue_rows(
        evaluated(classifier(2), padded(), kind="classification"), "rte", GlueOptions(data=shared_data, limit=8)
    )
    assert (seen, rows[0].n) == ([1], 8)


def padded() -> Any:
    tokenizer = demo_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def test_a_number_is_scored_by_correlation(shared_data: Path) -> None:
    model = classifier(1)
    options = GlueOptions(data=shared_data, limit=60)
    rows = glue_rows(evaluated(model, padded(), kind="regression"), "stsb", options)
    assert [row.metric for row in rows] == ["pearson", "spearman"]
    assert all(row.examples is None and row.n == 60 and row.stderr is not None for row in rows)
    assert "60 of 1500 examples" in rows[0].source


def test_an_adapter_with_its_head_gives_what_it_gave_in_memory(shared_data: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="SEQ_CLS")
    model = adapter(tmp_path / "run", config, base=classifier(2))
    options = GlueOptions(data=shared_data, limit=40)
    (memory,) = glue_rows(evaluated(model, padded(), kind="classification"), "rte", options)
    (tuned,) = tuned_of(tmp_path / "run")
    with Shelf(LoadOptions(base=str(BASE))).loaded(tuned) as found:
        assert found.kind == "classification"
        (loaded,) = glue_rows(found, "rte", options)
    assert loaded.examples == memory.examples
    assert 0 < memory.value < 1


def test_an_adapter_without_its_head_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="SEQ_CLS")
    adapter(tmp_path / "run", config, base=classifier(2))
    file = tmp_path / "run" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "score" not in name}, file)
    (tuned,) = tuned_of(tmp_path / "run")
    with (
        pytest.raises(CheckpointError, match="holds no heads of a classifier"),
        Shelf(LoadOptions(base=str(BASE))).loaded(tuned),
    ):
        pass


def test_a_model_for_other_classes_or_of_another_kind_is_refused(shared_data: Path) -> None:
    options = GlueOptions(data=shared_data, limit=8)
    with pytest.raises(RankLabError, match="tells 3 classes apart, and the task 'rte' has 2"):
        glue_rows(evaluated(classifier(3), padded(), kind="classification"), "rte", options)
    with pytest.raises(RankLabError, match="the task 'stsb' is of regression"):
        glue_rows(evaluated(classifier(2), padded(), kind="classification"), "stsb", options)
