"""Results of PEFT's method comparison become rows of scores as its files have them; the sample here is made up."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rank_lab.errors import DataError
from rank_lab.import_command import import_and_print
from rank_lab.peft_benchmark import peft_benchmark_scores
from rank_lab.score_import import import_scores
from rank_lab.score_origin import Origin
from rank_lab.score_table import SCORES_FILE, ScoreTable

COSTS = {
    "trainable_parameters": 9175040, "memory_mean_bytes": 12e9, "memory_99th_percentile_bytes": 17e9,
    "memory_max_bytes": 22e9, "train_seconds": 1800.5, "file_bytes": 36715216,
}  # fmt: skip


def entry(step: int, accuracy: float, loss: float) -> dict[str, Any]:
    return {
        "step": step, "valid accuracy": accuracy, "train loss": loss, "train samples": 4 * step, "train time": 45.5,
        "eval time": 12.5, "tokens / sec": 4700.25, "mem allocated avg": 6.9e9, "mem reserved avg": 12e9,
        "elapsed time": 83.5,
    }  # fmt: skip


@pytest.fixture
def content() -> dict[str, Any]:
    last = {
        "step": 500, "test accuracy": 0.375, "train loss": 0.625, "train samples": 2000, "train total tokens": 419805,
        "forgetting": 0.25,
    }  # fmt: skip
    config = {"task_type": "CAUSAL_LM", "peft_type": "LORA", "r": 32, "use_rslora": False, "use_dora": False}
    return {
        "run_info": {
            "created_at": "2026-05-27T17:25:11+00:00", "total_time": 2100.5, "experiment_name": "lora/llama-rank32",
            "peft_branch": "main", "train_config": {"model_id": "meta-llama/Llama-3.2-3B", "seed": 0},
            "peft_config": config | {"init_lora_weights": True}, "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": 12_000_000_000, "accelerator_memory_max": 22_000_000_000,
            "accelerator_memory_reserved_99th": 17_000_000_000, "train_time": 1800.5, "file_size": 36_715_216,
            "num_trainable_params": 9_175_040, "num_total_params": 3_221_924_864, "status": "success",
            "metrics": [entry(250, 0.3, 0.75), entry(500, 0.34, 0.625), last],
        },
        "meta_info": {
            "model_info": {"sha": "13af", "created_at": "2024-09-18T15:23:48+00:00"},
            "dataset_info": {"metamath": {"sha": "aa4f"}, "gsm8k": {"sha": "7403"}},
            "package_info": {"transformers-version": "5.5.4", "peft-version": "0.19.2.dev0", "torch-version": "2.9.0"},
            "system_info": {"system": "Linux", "accelerator": "NVIDIA L40S"}, "pytorch_info": "PyTorch built with: ...",
        },
    }  # fmt: skip


def written(folder: Path, content: Any) -> Path:
    file = folder / "lora--llama-rank32.json"
    file.write_text(json.dumps(content, indent=2))
    return file


def test_every_value_with_its_step(content: dict[str, Any], tmp_path: Path) -> None:
    file = written(tmp_path, content)
    found = import_scores(file, Origin())
    rows = {(row.task, row.metric, row.step): row for row in found.rows}
    assert {key: row.value for key, row in rows.items()} == {
        ("gsm8k_validation", "accuracy", 250): 0.3, ("gsm8k_validation", "accuracy", 500): 0.34,
        ("metamathqa_training", "loss", 250): 0.75, ("metamathqa_training", "loss", 500): 0.625,
        ("gsm8k", "accuracy", 500): 0.375, ("wikipedia", "loss_increase", 500): 0.25,
        **{("cost", metric, 500): float(value) for metric, value in COSTS.items()},
    }  # fmt: skip
    for (_, metric, _), row in rows.items():
        assert (row.run, row.method, row.harness) == ("lora/llama-rank32", "lora", "peft-method-comparison")
        assert (row.harness_version, row.source, row.n, row.stderr) == ("0.19.2.dev0", str(file), None, None)
        assert row.higher_is_better == (metric == "accuracy")
    assert [left.name for left in found.left_out] == ["wikipedia loss_increase"]  # it is told what that is
    assert "not the next one" in found.left_out[0].reason
    assert ScoreTable.of(found.rows)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (None, "full"),
        ({"peft_type": "ADALORA"}, "adalora"),
        ({"peft_type": "LORA", "use_dora": True}, "dora"),
        ({"peft_type": "LORA", "use_rslora": True}, "rslora"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"peft_type": "PREFIX_TUNING"}, "prefix"),
        ({"peft_type": "VERA"}, "vera"),
    ],
)
def test_methods_are_called_as_everywhere_here(content: dict[str, Any], config: Any, method: str) -> None:
    content["run_info"]["peft_config"] = config
    assert {row.method for row in peft_benchmark_scores(content, Origin(), source="f").rows} == {method}
    named = peft_benchmark_scores(content, Origin("mine", "lora-fa"), source="f").rows
    assert {(row.run, row.method) for row in named} == {("mine", "lora-fa")}


def test_files_of_2025(content: dict[str, Any]) -> None:
    """Memory was CUDA's then, and nothing measured forgetting."""
    train = content["train_info"]
    for name in [name for name in train if name.startswith("accelerator")]:
        train[name.replace("accelerator", "cuda")] = train.pop(name)
    del train["metrics"][-1]["forgetting"]
    found = peft_benchmark_scores(content, Origin(), source="f")
    costs = {row.metric: row.value for row in found.rows if row.task == "cost"}
    assert costs == COSTS
    assert "wikipedia" not in {row.task for row in found.rows}
    assert found.left_out == ()


def test_what_is_no_number_is_told(content: dict[str, Any]) -> None:
    train = content["train_info"]
    train["file_size"] = 99_999_999
    train["metrics"][0]["valid accuracy"] = "high"
    train["metrics"][1]["step"] = None
    train["num_trainable_params"] = [1]
    found = peft_benchmark_scores(content, Origin(), source="f")
    assert [(left.name, left.reason) for left in found.left_out][:-1] == [
        ("gsm8k_validation accuracy, entry 1", "'high' is no number"),
        ("gsm8k_validation accuracy, entry 2", "its step is not told"),
        ("metamathqa_training loss, entry 2", "its step is not told"),
        ("cost trainable_parameters", "[1] is no number"),
        ("cost file_bytes", "the benchmark could not save the adapter, and wrote 99999999"),
    ]


def test_what_the_benchmark_itself_does_not_count_is_refused(content: dict[str, Any], tmp_path: Path) -> None:
    def changed(part: str, **changes: Any) -> dict[str, Any]:
        other = copy.deepcopy(content)
        other[part] |= changes
        return other

    failed = changed("train_info", status="canceled")
    failed["run_info"]["error_msg"] = "CUDA out of memory\x1b[2J"
    for other, message in (
        (failed, r"its status is 'canceled' \(CUDA out of memory\\x1b\[2J\)"),
        (changed("meta_info", dataset_info={"cat-image": {}}), "names the data sets cat-image"),
        (changed("meta_info", dataset_info=None), "names the data sets none"),
        (changed("run_info", experiment_name=None), "has no experiment_name; give the run a name"),
        (changed("run_info", peft_config={"r": 1}), "has no peft_type; give the method"),
        (changed("train_info", metrics=[], **dict.fromkeys(content["train_info"].keys() - {"status", "metrics"})),
         "no number in it is a score"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            import_scores(written(tmp_path, other), Origin())
    with pytest.raises(DataError, match=r"has no task 'gsm'. Nearest: gsm8k"):
        peft_benchmark_scores(content, Origin(roles={"gsm": "target"}), source="f")
    with pytest.raises(DataError, match="of PEFT's method comparison"):
        import_scores(written(tmp_path, {"run_info": {}}), Origin())


def test_many_files_at_once_by_the_command(
    content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = []
    for name in ("lora/a", "vera/b"):
        content["run_info"]["experiment_name"] = name
        files.append(tmp_path / f"{name.replace('/', '--')}.json")
        files[-1].write_text(json.dumps(content))
    import_and_print(files, tmp_path / "study", Origin())
    table = ScoreTable.load(tmp_path / "study" / SCORES_FILE)
    assert {row.run for row in table.rows} == {"lora/a", "vera/b"}
    assert {row.task: row.role for row in table.rows}["gsm8k"] == "target"  # its usual one
    told = capsys.readouterr()
    assert "9,175,040" in told.out
    assert "gsm8k: has the role target by default" in told.err
