"""The verb ``schedule``, from the command line to its tables and files."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file, save_file

from rank_lab import RankReport
from rank_lab.curve import Curve
from rank_lab.demo import BASE
from tests.checkpoints import rank_lab

RULE = ("--min-steps", "4", "--max-steps", "4", "--check-steps", "2", "--patience", "1")
SMALL = ("--rank", "4", "--targets", "q_proj,v_proj", "--lr", "2e-3", "--gate-lr", "0.1", "--batch-size", "4", *RULE)
TASK = ("--task", "tone", "--text-column", "said", "--label-column", "tone", "--subset", "8")
THRESHOLDS = ("--thresholds", "0,1,2,3,6")


def sentences(count: int, start: int) -> str:
    """Warm and cold remarks, one in three cold."""
    rows = [
        {
            "said": f"number {number} is {'bad' if number % 3 == 0 else 'good'}",
            "tone": "cold" if number % 3 == 0 else "warm",
        }
        for number in range(start, start + count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tone")
    (folder / "train.jsonl").write_text(sentences(16, 0), encoding="utf-8")
    (folder / "validation.jsonl").write_text(sentences(12, 100), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def study(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curves") / "study"
    done = rank_lab("schedule", BASE, *TASK, "--data", data, *SMALL, *THRESHOLDS, "-o", folder)
    assert done.code == 0, done.err
    assert len(re.findall(r"^seed 0, \w+, stage \d: ", done.err, flags=re.MULTILINE)) == 5 + 4 * 4
    assert done.out.count("base on tone, seed 0: accuracy, 8 training and 12 validation examples") == 5
    assert "none (" in done.out
    assert f"written: {folder}" in done.out
    return folder


def test_every_stage_and_control_has_a_row_and_a_folder(study: Path) -> None:
    rows = Curve.load(study).rows
    assert list(rows.loc[rows["control"] == "sora", "threshold"]) == [0, 1, 2, 3, 6]
    assert set(rows["control"]) == {"sora", "as_shipped", "one_shot", "one_shot_importance", "svd"}
    sora = rows[rows["control"] == "sora"].set_index("stage")
    assert sora["nonzero_gates"].is_monotonic_decreasing
    assert 0 == sora["nonzero_gates"][4] < sora["nonzero_gates"][0] == 32
    for control in ("one_shot", "one_shot_importance", "svd"):
        part = rows[rows["control"] == control].set_index("stage")
        assert (part["nonzero_parameters"] <= sora["nonzero_parameters"][part.index]).all()
    source = json.loads((study / "task.json").read_text())
    assert source["label_names"] == ["cold", "warm"]
    assert len(json.loads((study / "memorization_subset.json").read_text())["indices"]) == 8


def test_stages_are_analysed_as_they_are(study: Path, tmp_path: Path) -> None:
    row = Curve.load(study).find(0, "sora", 2)
    assert row is not None
    done = rank_lab("analyze", study / "seed-0" / "stage-02", "-o", tmp_path / "ranks")
    assert done.code == 0, done.err
    updates = RankReport.load(tmp_path / "ranks" / "stage-02.rank").updates
    assert dict(zip(updates["module"], updates["numerical_rank"], strict=True)) == dict(row.nonzero_by_module)


def test_show_prints_the_curve(study: Path) -> None:
    done = rank_lab("show", study)
    assert (done.code, done.err) == (0, "")
    assert "as_shipped  base on tone" in done.out
    (found,) = json.loads(rank_lab("show", study, "--json").out)
    assert len(found["rows"]) == 21
    assert {knee["axis"] for knee in found["knees"]} == {"threshold", "sparsity"}


def test_export_writes_the_curve(study: Path, tmp_path: Path) -> None:
    assert rank_lab("export", study, "-o", tmp_path, "-f", "csv").code == 0
    rows = pd.read_csv(tmp_path / "curve.csv")
    assert len(rows) == 21
    modules = pd.read_csv(tmp_path / "curve_modules.csv")
    sums = modules.groupby(["seed", "control", "stage"])["nonzero_gates"].sum()
    assert (rows.set_index(["seed", "control", "stage"])["nonzero_gates"].sort_index() == sums.sort_index()).all()
    assert set(pd.read_csv(tmp_path / "curve_knees.csv")["curve"]) == {"memorization", "generalization"}


def test_it_is_extended_and_another_configuration_is_refused(study: Path, data: Path) -> None:
    command: tuple[Any, ...] = ("schedule", BASE, *TASK, "--data", data, *SMALL, "-o", study)
    before = (study / "curve.jsonl").read_text()
    done = rank_lab(*command, *THRESHOLDS, "--json")
    assert done.code == 0
    assert (study / "curve.jsonl").read_text() == before
    assert len(json.loads(done.out)["rows"]) == 21
    refused = rank_lab(*command, *THRESHOLDS, "--lr", "1e-3")
    assert refused.code == 2
    assert re.search(r"^error: .*learning_rate.* 0\.002 .*0\.001", refused.err.splitlines()[-1])
    assert (study / "curve.jsonl").read_text() == before
    longer = rank_lab(*command, "--thresholds", THRESHOLDS[1] + ",9")
    assert longer.code == 0, longer.err
    assert len(Curve.load(study).rows) == 21 + 5
    assert (study / "curve.jsonl").read_text().startswith(before)


def test_a_stage_is_folded_with_its_model(study: Path, tmp_path: Path) -> None:
    done = rank_lab("fold", study / "seed-0" / "stage-01", "-o", tmp_path / "lora", "--model", BASE)
    assert done.code == 0, done.err


def test_what_is_gone_is_named(study: Path, data: Path, tmp_path: Path) -> None:
    command = ("schedule", BASE, *TASK, "--data", data, *SMALL, "--thresholds", THRESHOLDS[1] + ",9")
    for name, gone in (("a", "predictions.parquet"), ("b", "adapter_model.safetensors")):
        copy = shutil.copytree(study, tmp_path / name)
        last = max((copy / "seed-0").glob("stage-*"))
        (last / gone).write_bytes(b"")
        done = rank_lab(*command[:-1], command[-1] + ",10", "-o", copy)
        assert done.code == 2
        assert f"{gone}: cannot be" in done.err.splitlines()[-1]
    shutil.rmtree(tmp_path / "a")
    copy = shutil.copytree(study, tmp_path / "a")
    shutil.rmtree(copy / "seed-0" / "stage-01")
    done = rank_lab(*command, "-o", copy)
    assert (done.code, done.out) == (2, "")
    assert "stage-01" in done.err.splitlines()[-1]
    (copy / "schedule.json").write_text("{}")
    done = rank_lab(*command, "-o", copy)
    assert (done.code, done.out) == (2, "")
    assert "schedule.json: is not of schema" in done.err.splitlines()[-1]


def test_several_seeds_have_bands(data: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    command = ("schedule", BASE, *TASK, "--data", data, *SMALL, "--thresholds", "0,2", "--controls", "svd", "-o", study)
    done = rank_lab(*command, "--seeds", "0,7")
    assert done.code == 0, done.err
    assert "all seeds" in done.out
    assert rank_lab("export", study, "-o", tmp_path, "-f", "csv").code == 0
    found = pd.read_csv(tmp_path / "curve_bands.csv").set_index(["control", "stage", "quantity"])
    rows = Curve.load(study).rows
    part = rows.loc[(rows["control"] == "sora") & (rows["stage"] == 1), "validation_score"]
    assert len(part) == 2
    assert found.loc[("sora", 1, "validation_score"), "mean"] == pytest.approx(part.mean())


REFUSED = {
    "no thresholds": ((), "no thresholds given; expected one of --thresholds"),
    "two lists": (("--thresholds", "0,1", "--target-ranks", "2"), "--thresholds and --target-ranks given"),
    "not increasing": (("--thresholds", "0,2,1"), "thresholds[2] 1 is not above thresholds[1] 2"),
    "negative": (("--thresholds", "-1,2"), "thresholds[0] -1.0: expected a finite number, 0 or more"),
    "nan": (("--thresholds", "0,nan"), "thresholds[1] nan: expected a finite number"),
    "words": (("--thresholds", "0;1"), "--thresholds 0;1: expected numbers with commas"),
    "exp_linear from 0": (("--stop", "1", "--list", "exp_linear"), "exp_linear from 0"),
    "targets rise": (("--target-ranks", "1,2"), "target_ranks[1] 2 is not below"),
    "half a parameter": (("--target-parameters", "10.5"), "expected whole numbers"),
    "few examples": ((*THRESHOLDS, "--subset", "17"), "the training set has 16 examples"),
    "unknown control": ((*THRESHOLDS, "--controls", "svd,magic"), "control 'magic': expected one of as_shipped"),
    "unknown mode": ((*THRESHOLDS, "--mode", "sgd"), "threshold_mode 'sgd': expected one of lr, adam, constant"),
    "unknown score": ((*THRESHOLDS, "--score", "acuracy"), "accuracy"),
    "unknown column": ((*THRESHOLDS, "--label-column", "tones"), "no column 'tones'"),
    "no list": ((*THRESHOLDS, "--list", "linear"), "--list without --stop"),
    "odd dense steps": (
        (*THRESHOLDS, "--dense-steps", "5"),
        "--dense-steps 5: expected a multiple of --check-steps, 2",
    ),
    "no number of seeds": ((*THRESHOLDS, "--seeds", "nan"), "--seeds nan: expected whole numbers"),
    "unknown scheduler": ((*THRESHOLDS, "--scheduler", "bogus"), "--scheduler bogus: expected one of constant_with"),
    "steps for a fraction": ((*THRESHOLDS, "--warmup", "6"), "--warmup 6: expected a fraction of a stage"),
    "no learning": ((*THRESHOLDS, "--lr", "nan"), "--lr nan: expected a finite number above 0"),
    "growing weights": ((*THRESHOLDS, "--weight-decay", "-1"), "--weight-decay -1.0: expected"),
    "nothing adapted": ((*THRESHOLDS, "--alpha", "0"), "--alpha 0.0: expected a finite number other than 0"),
    "all dropped": ((*THRESHOLDS, "--dropout", "nan"), "--dropout nan: expected a share"),
    "endless target": (("--target-parameters", "inf"), "--target-parameters inf: expected whole numbers"),
    "empty batches": ((*THRESHOLDS, "--batch-size", "0"), "--batch-size 0: expected 1 or more"),
    "half a seed": ((*THRESHOLDS, "--seeds", "0.5"), "--seeds 0.5: expected whole numbers"),
    "no such layer": ((*THRESHOLDS, "--targets", "query"), "--targets query: No modules"),
    "cuda": ((*THRESHOLDS, "--device", "tpu"), "--device tpu: expected cpu, or cuda where"),
    "no gates": ((*THRESHOLDS, "--rank", "0"), "--rank 0, "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_in_one_line(case: str, data: Path, tmp_path: Path) -> None:
    given, said = REFUSED[case]
    done = rank_lab("schedule", BASE, *TASK, "--data", data, *SMALL, "-o", tmp_path / "study", *given)
    assert done.code == 2
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert said in last
    assert not (tmp_path / "study" / "curve.jsonl").exists()


def test_a_model_that_is_not_there(data: Path, tmp_path: Path) -> None:
    done = rank_lab("schedule", tmp_path / "none", *TASK, "--data", data, *THRESHOLDS, "-o", tmp_path / "study")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert "none: no such folder; give the base's" in done.err


def base_with(folder: Path, *, dropped: int = 0, cut: bool = False, **config: int) -> Path:
    """A copy of the base whose files lack tensors or do not fit their config."""
    shutil.copytree(BASE, folder)
    if dropped:
        tensors = load_file(folder / "model.safetensors")
        kept = {name: tensors[name] for name in sorted(tensors)[dropped:]}
        save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    if cut:
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    settings = json.loads((folder / "config.json").read_text()) | config
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"dropped": 5}, "its files lack 5 weights of LlamaForSequenceClassification"),
        ({"intermediate_size": 704}, "its files lack 12 weights of LlamaForSequenceClassification"),
        ({"cut": True}, "no model for a classification task could be loaded"),
        ({"max_position_embeddings": 4}, "and 4 positions; give --max-length"),
    ],
)
def test_a_base_that_would_start_at_random(broken: dict[str, Any], said: str, data: Path, tmp_path: Path) -> None:
    base = base_with(tmp_path / "base", **broken)
    done = rank_lab("schedule", base, *TASK, "--data", data, *SMALL, *THRESHOLDS, "-o", tmp_path / "study")
    assert (done.code, done.out) == (2, "")
    assert said in done.err.splitlines()[-1]


@pytest.mark.parametrize("content", ['{"peft_type": "LORA"}', "[]", "not json"])
def test_an_adapter_is_no_base(content: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(content)
    done = rank_lab("schedule", tmp_path, *TASK, "--data", data, *THRESHOLDS, "-o", tmp_path / "study")
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"is an adapter ({'LORA' if 'LORA' in content else 'unreadable'}), and a schedule trains a new" in done.err


def test_own_columns_for_a_task_of_glue(data: Path, tmp_path: Path) -> None:
    done = rank_lab(
        "schedule", BASE, "--task", "rte", "--label-column", "x", "--data", data, *THRESHOLDS, "-o", tmp_path
    )
    assert done.code == 2
    assert "--task rte is GLUE's" in done.err
