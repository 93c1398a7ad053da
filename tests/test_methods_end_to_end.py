"""Every method on a real small model: trained, stopped, gone on with, analysed, evaluated, in the table of outcomes."""

import gc
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.storage_formats import encoder_folder
from rank_lab import Settings, analyze
from rank_lab.demo import BASE
from rank_lab.evaluation.evaluate_choices import Choices
from rank_lab.evaluation.evaluate_command import evaluate_and_print
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.outcomes import Outcomes
from rank_lab.study_outcomes import study_outcomes
from rank_lab.tasks import TaskData, encoded, task_named
from rank_lab.training.finetune import INITIAL, Watching
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from tests.training.runs import run, sentences
from tests.training.test_finetune import StopAt, StopError
from tests.training.test_methods import CHOICES

CAUSAL = [name for name in METHODS if name != "bitfit"]  # the demo's base has no biases
WITHOUT_UPDATE = {"prefix", "prompt", "prelayer", "series", "parallel", "parallel_linear", "compacter"}
"""They change activations, no weight: there is nothing to take a rank of."""

PROSE = ["The cat sat on the mat and looked at the moon.", "To be, or not to be.", "A list of words, and no more."]
FILMS = [
    ("a warm and clever film", 1), ("dull from its first minute", 0), ("I would watch it again", 1),
    ("nobody needs this", 0), ("it made us all laugh", 1), ("a waste of two hours", 0), ("finely played", 1),
    ("loud, long and empty", 0),
]  # fmt: skip


def lines(file: Path, rows: Sequence[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(autouse=True)
def short_collections(scored_base: Path) -> Iterator[None]:
    """Training and evaluation collect garbage often: what the libraries hold need not be gone through each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Choices:
    """What the base can, and what is learned."""
    folder = tmp_path_factory.mktemp("texts")
    prose = lines(folder / "prose.jsonl", [{"text": text} for text in PROSE])
    numbers = lines(folder / "numbers.jsonl", [{"text": row["said"]} for row in sentences(6, 100)])
    return Choices(source_texts=(f"prose={prose}",), target_texts=(f"numbers={numbers}",), kl=True)


@pytest.fixture(scope="session")
def scored_base(texts: Choices, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in which the base was measured: for every method the same."""
    study = tmp_path_factory.mktemp("base") / "study"
    assert not evaluate_and_print([], study, LoadOptions(base=str(BASE)), texts)
    return study


def tuned(name: str, out: Path, **options: Any) -> None:
    """Three steps, two checkpoints, stopped once."""
    given: dict[str, Any] = {
        "max_steps": 3, "save_at": (2,), "warmup_steps": 0, "learning_rate": 1e-3 if name == "full" else 1e-2,
        "choices": MethodChoices(**CHOICES.get(name, {"rank": 4})),
    }  # fmt: skip
    with pytest.raises(StopError):
        run(out, METHODS[name], watching=Watching(callbacks=[StopAt(3)]), **given | options)
    assert run(out, METHODS[name], **given | options).resumed_from == 2


def analysed(out: Path, base: Path) -> None:
    initial = out / INITIAL if METHODS[out.name].starts_elsewhere else None
    report = analyze(out, base, settings=Settings(initial=initial))
    assert not report.coverage["failed"].any()
    report.save(out.parent / f"{out.name}.rank")


def checkpoints_of(found: Outcomes, name: str) -> pd.DataFrame:
    """The rows of a run: its two checkpoints, with its method and the ranks or the reason why there are none."""
    rows = found.checkpoints[found.checkpoints["run"] == name]
    assert list(rows["step"]) == [2, 3]
    assert set(rows["method"]) == {name}
    assert rows["trainable_parameters"].notna().all()
    return rows


@pytest.mark.parametrize("name", CAUSAL)
def test_a_method_comes_to_the_table_of_outcomes(name: str, texts: Choices, scored_base: Path, tmp_path: Path) -> None:
    study = shutil.copytree(scored_base, tmp_path / "study")
    tuned(name, study / name)
    analysed(study / name, BASE)
    assert not evaluate_and_print([str(study / name)], study, LoadOptions(), texts)
    found = study_outcomes(study)
    for row in checkpoints_of(found, name).to_dict("records"):
        if name in WITHOUT_UPDATE:
            assert pd.isna(row["energy_rank_90"])
            assert row["reason"] == "no ranks: its report holds no update of a weight, and why in its coverage"
        else:
            assert 0 < row["energy_rank_90"] < 352
            assert (row["matrices"] > 0, row["reason"]) == (True, "")
        assert row["kl_source"] > 0
        assert row["kl_source_low"] < row["kl_source"] < row["kl_source_high"]
        assert row["cross_entropy_increase_low"] < row["cross_entropy_increase_high"]
        assert math.isfinite(row["cross_entropy_increase"])
    learned = found.learning[found.learning["run"] == name]
    assert list(learned["step"]) == [2, 3]
    assert set(learned["target"]) == {"numbers cross_entropy"}
    earlier, last = learned["learning"]
    assert last > (earlier if name == "prefix" else 0)  # what a random prefix takes away is not back in three steps
    assert (learned["learning_low"] < learned["learning_high"]).all()


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, in the layout of one of GLUE's tasks."""
    folder = tmp_path_factory.mktemp("films")
    rows = [{"sentence": sentence, "label": label} for sentence, label in FILMS]
    lines(folder / "sst2" / "train.jsonl", rows)
    lines(folder / "sst2" / "validation.jsonl", rows[:4])
    return folder


@pytest.fixture(scope="session")
def films_read(films: Path) -> TaskData:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(), local_files_only=True)
    return encoded(task_named("sst2"), films / "sst2", tokenizer, max_length=16)


@pytest.mark.parametrize("name", ["bitfit", "lora"])
def test_a_classifier_comes_to_the_table_of_outcomes(
    name: str, films: Path, films_read: TaskData, tmp_path: Path
) -> None:
    study, encoder = tmp_path / "study", encoder_folder()
    tuned(name, study / name, base=encoder, data=films_read)
    analysed(study / name, encoder)
    choices = Choices(tasks=("sst2",), data=films)
    assert not evaluate_and_print([str(study / name)], study, LoadOptions(base=str(encoder)), choices)
    found = study_outcomes(study)
    for row in checkpoints_of(found, name).to_dict("records"):
        if name == "bitfit":
            assert pd.isna(row["energy_rank_90"])
            assert row["reason"] == "no ranks: its report holds no update of a weight, and why in its coverage"
        else:
            assert 0 < row["energy_rank_90"] <= 4
            assert row["reason"] == ""
    scores = found.scores.frame
    assert sorted(scores["step"]) == [2, 3]
    assert scores["value"].between(0, 1).all()
    assert set(found.learning["target"]) == {"sst2 accuracy"}
    assert found.learning["learning_reason"].str.contains("the base has no such score").all()  # it has no trained head
