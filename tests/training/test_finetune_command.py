"""What the verb ``finetune`` prints and refuses."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rank_lab import RankReport
from rank_lab.demo import BASE
from rank_lab.errors import DataError, RankLabError
from rank_lab.training.finetune_choices import Adaptation, DataChoices, TrainingChoices
from rank_lab.training.finetune_command import finetune_and_print
from tests.checkpoints import rank_lab
from tests.training.runs import sentences
from tests.training_records import record

SHORT = {"steps": 4, "batch_size": 4, "checkpoints": 3, "evaluation_batch_size": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    for name, rows in (("train", sentences(10)), ("validation", sentences(4, 50))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def tuned(texts: Path, out: Path, method: str = "lora", **options: Any) -> None:
    own = {name: options.pop(name) for name in ("track_at", "against", "as_json") if name in options}
    data = {name: options.pop(name) for name in ("packing", "max_length", "text_columns", "kind") if name in options}
    rank = options.pop("rank", 2 if method == "lora" else None)
    finetune_and_print(
        DataChoices(str(BASE), data=texts, **{"text_columns": ("said",)} | data), Adaptation(method, rank=rank),
        TrainingChoices(**SHORT | options), out, **own,
    )  # fmt: skip


def test_a_run_prints_its_losses_and_ranks_and_is_left_when_complete(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned(texts, tmp_path / "run", track_at="2,4")
    done = capsys.readouterr()
    trained = 2 * 4 * (4 * (128 + 128) + 3 * (128 + 352))  # rank 2, four layers, each of seven matrices
    assert f"lora  {trained:,} of " in done.out
    assert f"written: {tmp_path / 'run'}" in done.out
    lines = done.err.splitlines()
    assert "note: 2 of 10 training examples, others each time, are left out of an epoch" in done.err
    assert [line.partition(":")[0] for line in lines if line.startswith("step ")] == [
        "step 0 of 4", "step 2 of 4", "step 3 of 4", "step 4 of 4",  # the first changes nothing: its rate is 0
    ]  # fmt: skip
    assert "ranks: run: ranks at the 2 steps that were chosen" in lines
    report = RankReport.load(tmp_path / "run.rank")
    assert set(report.updates["step"]) == {2, 4}
    assert set(report.updates["method"]) == {"lora"}
    tuned(texts, tmp_path / "run", as_json=True)
    again = json.loads(capsys.readouterr().out)
    assert (again["was_complete"], again["resumed_from"], len(again["losses"])) == (True, 4, 4)
    assert again["record"]["method"] == "lora"
    tuned(texts, tmp_path / "run")
    assert f"already complete, nothing to do: {tmp_path / 'run'}" in capsys.readouterr().out
    with pytest.raises(RankLabError, match=r"learning_rate 0\.001 there, 0\.01 now"):
        tuned(texts, tmp_path / "run", learning_rate=1e-2)


def test_the_analysis_of_all_checkpoints_replaces_the_points_of_the_same_run(texts: Path, tmp_path: Path) -> None:
    study, run = tmp_path / "study", tmp_path / "study" / "lora"
    tuned(texts, run, track_at="4")
    report = study / "lora.rank" / "report.json"
    tracked = report.read_bytes()
    one = rank_lab("analyze", run / "checkpoint-4", "-o", study, "--name", "lora")
    assert (one.code, report.read_bytes()) == (2, tracked)
    shutil.copytree(run, tmp_path / "elsewhere" / "lora")
    other = rank_lab("analyze", tmp_path / "elsewhere" / "lora", "-o", study)
    assert (other.code, report.read_bytes()) == (2, tracked)
    assert f"is the report of {run}; give this run another name" in other.err
    for _ in range(2):
        done = rank_lab("analyze", run, "--base", BASE, "-o", study)
        assert (done.code, done.err) == (0, "")
        assert set(RankReport.load(report.parent).updates["step"]) == {2, 3, 4}


@pytest.mark.parametrize(
    ("save_at", "fitting", "points"),
    [("2,5,7", 24, [2, 5, 7, 9]), ("2,5,7", 2, [2, 9]), ("2,5,7", 1, [9]), ("", 24, [2, 4, 9])],
)
def test_ranks_are_looked_at_where_checkpoints_are(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save_at: str, fitting: int, points: list[int]
) -> None:
    monkeypatch.setattr("rank_lab.training.rank_tracker.points_within", lambda steps, *_: min(fitting, steps))
    tuned(texts, tmp_path / "run", steps=9, save_at=save_at)
    report = RankReport.load(tmp_path / "run.rank")
    assert report.provenance["tracking"]["points"] == points
    assert {int(folder.name.rpartition("-")[2]) for folder in (tmp_path / "run").glob("checkpoint-*")} >= set(points)


def test_packed_text_the_methods_own_rate_and_an_unfair_comparison(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned(texts, tmp_path / "lora", track_at=None, steps=2)
    assert not (tmp_path / "lora.rank").exists()
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("before a comparison")] == [
        "before a comparison: this is one rate and one seed; try several of both for each method"
    ]
    tuned(
        texts, tmp_path / "full", "full", packing=True, max_length=8, learning_rate=None, steps=None, epochs=1.5,
        against=(tmp_path / "lora",), track_at=None,
    )  # fmt: skip
    told = capsys.readouterr()
    assert "note: learning rate 1e-05, where a search for the best of full would begin" in told.err
    assert "tokens at the end of the training texts fill no block of 8" in told.err
    assert "before a comparison: one seed: " in told.err
    assert "before a comparison: rate not swept: full at 1e-05; lora at 0.001 only" in told.err
    assert "before a comparison: unequal steps: full " in told.err
    record = json.loads((tmp_path / "full" / "training.json").read_text())
    assert record["data"]["packed"] is True
    blocks = record["data"]["train"]["blocks"]
    assert record["steps"] == round(1.5 * (blocks // 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "loraa"}, "method 'loraa': not known"),
        ({"method": "full", "rank": 3}, "method 'full': has no rank to set to 3"),
        ({"batch_size": 0}, "--batch-size 0: expected 1 or more"),
        ({"epochs": 1.0}, "--steps 4 and --epochs 1: give one of them"),
        ({"scheduler": "step"}, "--scheduler step: expected one of cosine"),
        ({"warmup": 1.5}, "--warmup 1.5: expected a share"),
        ({"learning_rate": 0.0}, "--lr 0.0: expected a finite number above 0"),
        ({"clip": -1.0}, "--clip -1.0: expected a finite number, 0 or more"),
        ({"save_at": "1,x"}, "--save-at 1,x: expected steps"),
        ({"save_at": "9"}, "a checkpoint after step 9"),
        ({"optimizer": "adam_of_mine"}, "training options: .*adam_of_mine"),
        ({"device": "tpu"}, "--device tpu: expected cpu, or cuda"),
        ({"kind": "ranking"}, "--kind ranking: expected one of causal"),
        ({"text_columns": ("saaid",)}, "has no column 'saaid'.* Nearest: said"),
        ({"packing": True, "max_length": 1000}, "max_length 1000: more than the 128 tokens"),
        ({"against": (Path("nowhere"),)}, "nowhere: has no training.json, which"),
    ],
)
def test_refusals(options: dict[str, Any], message: str, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match=message) as found:
        tuned(texts, tmp_path / "run", **options)
    assert "\n" not in str(found.value)
    assert not list(tmp_path.glob("run/checkpoint-*"))


@pytest.mark.parametrize(
    ("method", "choices", "message"),
    [
        ("lora", {"rank": 5000}, r"rank 5000: is above the smaller side of every target \(128 at most\)"),
        ("lora", {"targets": "nothing"}, "no linear layer of the model has this name"),
        ("series", {"place": "middle"}, "place 'middle': expected one of"),
        ("bitfit", {}, "bias"),
        ("prompt", {"prompt_tokens": 500}, r"--prompt-tokens 500: .* model's 128 positions \(at most \d+ fit\)"),
        ("prelayer", {"prompt_tokens": 125}, r"--prompt-tokens 125: with an input of \d+ tokens"),
    ],
)
def test_what_a_method_refuses_leaves_no_folder(
    method: str, choices: dict[str, Any], message: str, texts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "study" / "run"
    with pytest.raises(RankLabError, match=message) as found:
        finetune_and_print(
            DataChoices(str(BASE), data=texts, text_columns=("said",)), Adaptation(method, **choices),
            TrainingChoices(**SHORT), out,
        )  # fmt: skip
    assert "\n" not in str(found.value)
    assert not (tmp_path / "study").exists()


def test_a_folder_that_was_there_stays_when_a_run_is_refused(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match="rank 5000"):
        tuned(texts, tmp_path, rank=5000)
    assert tmp_path.is_dir()


def test_a_comparison_with_another_base_is_refused_before_the_training(texts: Path, tmp_path: Path) -> None:
    record(base="another").save(tmp_path)
    with pytest.raises(RankLabError, match=r"is of the base another .* so that nothing else can be compared"):
        tuned(texts, tmp_path / "run", against=(tmp_path,))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no task and no data: give --task"),
        ({"task": "rtee"}, "task 'rtee' is not one of GLUE's. Nearest: rte"),
        ({"task": "rte", "kind": "causal"}, "--task rte is GLUE's, whose columns are known"),
        ({"data": Path("a"), "dataset": "b/c"}, "--data a and --dataset b/c: give one of them"),
        ({"data": Path("a"), "train_split": "b"}, "--train-split without --dataset"),
        ({"data": Path("a"), "label_column": "b", "kind": "masked"}, "of kind masked the text is the label"),
    ],
)
def test_data_that_are_not_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataChoices(str(BASE), **options).encoded()


def test_a_base_that_is_none(texts: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        DataChoices("./nowhere", data=texts).encoded()
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(RankLabError, match=r"is an adapter \(LORA\), and training begins with a model that has none"):
        DataChoices(str(tmp_path), data=texts).encoded()
