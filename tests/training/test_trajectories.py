"""A trainer's checkpoints of any method: steps are differences of what merging gives, with their optimizer."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from rank_lab import RankReport, analyze
from rank_lab.training_record import RECORD_FILE, TrainingRecord
from tests.peft_models import small
from tests.training.tracked_runs import POINTS, SaveAt, base_of, trainer_of
from tests.training_records import record

MERGED = ["lora", "rslora", "adalora", "sora", "dora", "ia3", "vera"]


def trained(root: Path, kind: str) -> tuple[Path, Path]:
    base = base_of(root)
    trainer, _ = trainer_of(root, kind, base=base, others=[SaveAt(POINTS)])
    trainer.train()
    return root / "out", base


def merged(base: Path, checkpoint: Path) -> dict[str, torch.Tensor]:
    del base  # small() gives its weights
    model: Any = PeftModel.from_pretrained(small(), checkpoint).double()
    return dict(copy.deepcopy(model).merge_and_unload().state_dict())


@pytest.mark.filterwarnings("ignore:.*:UserWarning:peft", "ignore:The following rank_pattern keys:RuntimeWarning")
@pytest.mark.parametrize("kind", MERGED)
def test_steps_are_differences_of_merged_weights(tmp_path: Path, kind: str) -> None:
    run, base = trained(tmp_path, kind)
    report = analyze(run, base)
    before = {name: value.double() for name, value in small().state_dict().items()}
    for step in POINTS:
        after = merged(base, run / f"checkpoint-{step}")
        rows = report.updates[(report.updates["step"] == step) & (report.updates["delta"] == "step")]
        changed = {name for name, value in after.items() if value.ndim > 1 and not torch.equal(value, before[name])}
        assert changed <= {f"{module}.weight" for module in rows["module"]}
        for module in rows["module"]:
            exact = torch.linalg.svdvals(after[f"{module}.weight"] - before[f"{module}.weight"])
            values = report.values(module, step=step, delta="step")
            assert values == pytest.approx(exact[: len(values)].tolist(), abs=1e-6 * max(float(exact[0]), 1e-3))
            assert float(exact[len(values) :].sum()) <= 1e-6
        before = after


def test_a_step_of_lora_has_up_to_twice_its_rank(tmp_path: Path) -> None:
    run, _ = trained(tmp_path, "lora")
    rows = analyze(run).updates.set_index(["step", "delta"])
    assert (rows.loc[(8, "cumulative"), "rank_bound"] == 4).all()
    assert (rows.loc[(8, "step"), "rank_bound"] == 8).all()
    assert (rows.loc[(8, "step"), "numerical_rank"] == 8).any()


def told(run: Path, base: Path, **changes: Any) -> RankReport:
    record(**changes).save(run)
    return analyze(run, base)


def test_the_record_beside_names_method_and_optimizer(tmp_path: Path) -> None:
    run, base = trained(tmp_path, "rslora")
    without = analyze(run, base)
    assert without.updates["optimizer"].isna().all()
    assert without.provenance["training"] is None
    report = told(run, base, method="rslora", rate=3e-4)
    assert (report.updates["method"] == "rslora").all()
    assert (report.updates["optimizer"] == "adamw_torch").all()
    assert (report.updates["learning_rate"] == 3e-4).all()
    assert (report.updates["warning"] == without.updates["warning"]).all()
    assert report.provenance["training"]["seed"] == 0
    one = analyze(run / "checkpoint-8", base)
    assert (one.updates["method"] == "rslora").all()
    assert RankReport.load(report.save(tmp_path / "a.rank")) == report


def test_a_record_that_disagrees_with_the_files_is_a_warning(tmp_path: Path) -> None:
    run, base = trained(tmp_path, "lora")
    rows = told(run, base, method="full").updates
    assert (rows["method"] == "lora").all()
    assert rows["warning"].str.contains("training.json says full, but the files are lora", regex=False).all()


@pytest.mark.parametrize("optimizer", ["lion_32bit", "SignSGD"])
def test_a_sign_like_optimizer_is_warned_of_beside_every_rank(tmp_path: Path, optimizer: str) -> None:
    run, base = trained(tmp_path, "lora")
    rows = told(run, base, method="lora", optimizer=optimizer).updates
    assert rows["warning"].str.contains(f"trained with {optimizer}: steps of one size", regex=False).all()


def test_a_file_of_that_name_of_another_tool_stops_nothing(tmp_path: Path) -> None:
    run, base = trained(tmp_path, "lora")
    (run / RECORD_FILE).write_text(json.dumps({"epochs": 3}))
    report = analyze(run, base)
    assert report.updates["optimizer"].isna().all()
    assert "is no record of a training" in report.provenance["training_unread"]


def test_a_record_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    one = record("lora", 1e-3)
    one.save(tmp_path)
    assert TrainingRecord.load(tmp_path) == one
