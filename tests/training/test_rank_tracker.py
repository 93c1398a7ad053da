"""Ranks along a training are those of its checkpoints, whatever is trained, and survive a kill."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer

from rank_lab import Checkpoint, RankReport, analyze, plan_updates
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.measurement import MeasurementOptions
from rank_lab.training.live import live_checkpoint
from rank_lab.training.live_measuring import measured_live, norms_of_weights
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from rank_lab.training.point_journal import JOURNAL_FILE
from rank_lab.training.rank_tracker import RankTracker, TrackerSettings
from rank_lab.training.tracked import refuse_spread
from rank_lab.training.tracking_points import CPU
from tests.checkpoints import rank_lab
from tests.peft_models import perturbed, small
from tests.training.tracked_runs import (
    ONLY_FILES,
    POINTS,
    STEPS,
    KillAt,
    KilledError,
    SaveAt,
    arguments,
    assert_alike,
    base_of,
    data,
    model_of,
    trainer_of,
)
from tests.training_records import record

WITHOUT_UPDATE = {"bitfit", "prefix", "prompt", "prelayer", "series", "parallel", "parallel_linear", "compacter"}
REGISTERED = [name for name in METHODS if name != "loftq"]  # which needs bitsandbytes
CHOICES: dict[str, dict[str, Any]] = {
    **{name: {} for name in ("full", "bitfit", "ia3")},
    **{name: {"prompt_tokens": 3} for name in ("prefix", "prompt", "prelayer")},
    **{name: {"bottleneck": 8} for name in ("series", "parallel", "parallel_linear", "compacter")},
    "sora": {"rank": 4, "threshold": 3.0, "targets": "attention"},
}
LOW_RANK = {"rank": 4, "targets": "attention"}


def tracked(root: Path, kind: str = "lora") -> RankReport:
    return RankReport.load(root / "study" / f"{kind}.rank")


@pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")
@pytest.mark.parametrize("name", REGISTERED)
def test_rows_of_every_method_are_those_of_its_checkpoints(tmp_path: Path, name: str) -> None:
    base, told = base_of(tmp_path), record(name, 0.02, optimizer="adamw_torch_fused")
    torch.manual_seed(2)
    model = METHODS[name].adapt(small(), MethodChoices(**CHOICES.get(name, LOW_RANK), steps=STEPS), "causal")
    settings = TrackerSettings(points=POINTS, record=told)
    trainer, tracker = trainer_of(tmp_path, name, base=base, model=model, settings=settings, others=[SaveAt(POINTS)])
    trainer.train()
    told.save(tmp_path / "out")
    report, files = tracked(tmp_path, name), analyze(tmp_path / "out", base)
    assert report.updates.empty == (name in WITHOUT_UPDATE) == ("ranks are not tracked" in tracker.statement)
    assert (report.updates["method"] == name).all()
    assert (report.updates["optimizer"] == "adamw_torch_fused").all()
    assert not report.updates["warning"].str.contains("training.json says").any()
    assert_alike(report.updates, files.updates, ["run", "content"])
    assert_alike(report.spectra, files.spectra, ["run"])


@pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")
@pytest.mark.parametrize("kind", ["full", "rslora", "embeddings"])
def test_without_a_record_the_trainer_says_what_trains(tmp_path: Path, kind: str) -> None:
    base = base_of(tmp_path)
    trainer, _ = trainer_of(tmp_path, kind, base=base, others=[SaveAt(POINTS)])
    trainer.train()
    report, files = tracked(tmp_path, kind), analyze(tmp_path / "out", base)
    assert sorted(report.updates["step"].unique()) == list(POINTS)
    assert set(report.updates["delta"]) == {"cumulative", "step"}
    assert (report.updates["optimizer"] == "adamw_torch_fused").all()
    assert (report.updates["learning_rate"] == 0.02).all()
    assert (report.updates["frobenius_norm"] > 0).any()
    # PEFT saves the frozen weight of an embedding that LoRA targets, too.
    trained = [table[~table["module"].str.endswith(".base_layer")] for table in (files.updates, files.spectra)]
    assert_alike(report.updates, trained[0], ONLY_FILES)
    assert_alike(report.spectra, trained[1], ["run"])


def test_weights_in_bfloat16_say_so(tmp_path: Path) -> None:
    base = base_of(tmp_path)
    model = model_of("full").to(torch.bfloat16)
    trainer, _ = trainer_of(tmp_path, "full", base=base, model=model, others=[SaveAt(POINTS)], learning_rate=1e-4)
    trainer.train()
    report, files = tracked(tmp_path, "full"), analyze(tmp_path / "out", base)
    assert set(report.updates["tuned_grid"]) == {"bfloat16"}
    assert "exact" not in set(report.updates["noise_regime"])
    assert_alike(report.updates, files.updates, ONLY_FILES)


class Regression(torch.nn.Module):
    """One matrix whose inputs span two dimensions, so that every gradient has rank two."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layer = torch.nn.Linear(50, 60, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(60, 50, generator=generator))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layer(x) - y).square().mean()}


def rows_of_rank_two() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    directions = torch.linalg.qr(torch.randn(50, 2, generator=generator)).Q.T
    inputs = (torch.randn(32, 2, generator=generator) @ directions).double()
    return [{"x": row, "y": torch.randn(60, generator=generator).double()} for row in inputs]


class SignSGD(torch.optim.Optimizer):
    """Steps of one size for every entry."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for value in group["params"]:
                value.sub_(group["lr"] * value.grad.sign())


def by_hand(root: Path, optimizer: type[torch.optim.Optimizer]) -> RankReport:
    model = Regression()
    chosen = optimizer(model.parameters(), lr=1e-2)  # type: ignore[call-arg]
    schedule = torch.optim.lr_scheduler.ConstantLR(chosen, factor=1.0)
    tracker = RankTracker(root / "study", "hand", settings=TrackerSettings(points=[1, 2, 6]))
    given = arguments(root / "out", max_steps=6, max_grad_norm=0.0, per_device_train_batch_size=32)
    trainer = Trainer(
        model, given, train_dataset=rows_of_rank_two(), callbacks=[tracker], optimizers=(chosen, schedule)
    )
    trainer.train()
    return tracked(root, "hand")


def test_a_gradient_of_rank_two_gives_an_update_of_rank_two(tmp_path: Path) -> None:
    report = by_hand(tmp_path, torch.optim.SGD)
    rows = report.updates
    assert list(rows["module"].unique()) == ["layer"]
    assert (rows["energy_rank_99"] == 2).all()
    for (_, row), values in zip(rows.iterrows(), report.spectra["values"], strict=True):
        assert values[1] > 0.01 * values[0]
        assert values[2] <= row["spectrum_floor"]
    assert (rows["optimizer"] == "sgd").all()
    assert (rows["learning_rate"] == 0.01).all()
    assert (rows["warning"] == "").all()
    assert report.provenance["base"]["source"] == "its weights before training"
    assert report.provenance["tracking"]["copied_bytes"] == 8 * 60 * 50


def test_a_sign_like_optimizer_raises_that_rank_by_itself_and_is_warned_of(tmp_path: Path) -> None:
    rows = by_hand(tmp_path, SignSGD).updates
    assert (rows["energy_rank_99"] >= 10).all()
    assert rows["warning"].str.contains("signsgd: steps of one size", regex=False).all()


def test_the_sign_of_rank_one_has_rank_one_and_that_of_rank_two_has_not(generator: torch.Generator) -> None:
    factors = torch.randn(60, 2, generator=generator), torch.randn(2, 60, generator=generator)
    one = (factors[0][:, :1] @ factors[1][:1]).sign()
    two = (factors[0] @ factors[1]).sign()
    assert torch.linalg.matrix_rank(one) == 1
    assert torch.linalg.matrix_rank(two) > 30


@pytest.mark.parametrize(("kind", "with_files"), [("lora", False), ("full", True), ("full", False)])
@pytest.mark.parametrize("killed_at", [4, 6])
def test_a_resumed_run_has_every_point_once_and_the_same(
    tmp_path: Path, kind: str, with_files: bool, killed_at: int
) -> None:
    base = base_of(tmp_path) if with_files else None
    whole, _ = trainer_of(tmp_path / "whole", kind, base=base)
    whole.train()
    saving = [SaveAt([2, 4])]
    trainer, _ = trainer_of(tmp_path / "cut", kind, base=base, others=[*saving, KillAt(killed_at)])
    with pytest.raises(KilledError):
        trainer.train()
    journal = tmp_path / "cut" / "study" / f"{kind}.rank" / JOURNAL_FILE
    with journal.open("a") as stream:
        stream.write('{"step": 7, "upd')  # killed while it wrote
    start = 2 if killed_at == 4 else 4  # with 2, a checkpoint before the last one
    resumed, _ = trainer_of(tmp_path / "cut", kind, base=base, others=saving)
    resumed.train(resume_from_checkpoint=str(tmp_path / "cut" / "out" / f"checkpoint-{start}"))
    expected, found = tracked(tmp_path / "whole", kind), tracked(tmp_path / "cut", kind)
    assert_alike(found.updates, expected.updates)
    assert_alike(found.spectra, expected.spectra)
    assert found.coverage.equals(expected.coverage)


def test_without_the_last_points_weights_a_resumed_run_says_since_when(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, "lora", others=[SaveAt([4]), KillAt(6)])
    with pytest.raises(KilledError):
        trainer.train()
    for file in tmp_path.rglob("last.safetensors"):
        file.unlink()
    resumed, _ = trainer_of(tmp_path, "lora")
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    rows = tracked(tmp_path).updates
    told = rows[rows["warning"].str.contains("since step 4, not 3", regex=False)]
    assert set(zip(told["step"], told["delta"], strict=True)) == {(5, "step")}


def test_a_killed_run_has_a_report_as_of_its_last_checkpoint(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, "lora", others=[SaveAt([4]), KillAt(6)])
    with pytest.raises(KilledError):
        trainer.train()
    assert sorted(tracked(tmp_path).updates["step"].unique()) == [1, 3]
    shown = rank_lab("show", tmp_path / "study", "--json")
    assert (shown.code, json.loads(shown.out)[0]["run"]) == (0, "lora")
    assert "; lora, adamw_torch_fused at 0.02" in " ".join(rank_lab("show", tmp_path / "study").out.split())
    exported = rank_lab("export", tmp_path / "study", "-o", tmp_path / "tables", "--format", "csv")
    assert (exported.code, (tmp_path / "tables").is_dir()) == (0, True)


def test_resuming_full_fine_tuning_without_its_base_is_refused(tmp_path: Path) -> None:
    trainer, _ = trainer_of(tmp_path, "full", others=[SaveAt([2])])
    trainer.train()
    late = RankTracker(tmp_path / "study", "late", settings=TrackerSettings(points=POINTS))
    resumed = Trainer(model_of("full"), arguments(tmp_path / "out"), train_dataset=data())
    resumed.add_callback(late)
    with pytest.raises(RankLabError, match="goes on from step 2, so that the weights are no longer those of the base"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_tracking_leaves_the_training_as_it_is(tmp_path: Path, kind: str) -> None:
    plain = Trainer(model_of(kind), arguments(tmp_path / "plain"), train_dataset=data())
    plain.train()
    with_it, _ = trainer_of(tmp_path, kind)
    with_it.train()
    others = dict(with_it.model.named_parameters())
    assert all(torch.equal(value, others[name]) for name, value in plain.model.named_parameters())


def test_several_threads_give_the_same_bits(tmp_path: Path) -> None:
    plan = plan_updates(live_checkpoint(model_of("full"), "live"), Checkpoint.open(moved_base(tmp_path)))
    alone = measured_live(plan.specs, MeasurementOptions(), norms_of_weights(plan.specs))
    torch.set_num_threads(2)
    try:
        together = measured_live(plan.specs, MeasurementOptions(), norms_of_weights(plan.specs))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert [spec.module for spec in together] == [spec.module for spec in alone]
    for spec, found in together.items():
        assert found.values.tolist() == alone[spec].values.tolist()
        assert found.weight == alone[spec].weight


def moved_base(root: Path) -> Path:
    model = model_of("full")
    perturbed(model)
    model.save_pretrained(root / "moved")
    return root / "moved"


def test_a_method_that_changes_no_weight_says_so_and_costs_nothing(tmp_path: Path) -> None:
    trainer, tracker = trainer_of(tmp_path, "prompt")
    trainer.train()
    report = tracked(tmp_path, "prompt")
    assert report.updates.empty
    assert "ranks are not tracked: prompt_tuning changes no weight matrix" in tracker.statement
    assert report.coverage["reason"].str.contains("there is no weight update to analyse").all()
    assert report.provenance["tracking"]["seconds"] < 0.5


@pytest.mark.filterwarnings("ignore:.*:UserWarning:peft")
def test_what_needs_the_base_and_has_none_is_left_to_analyze(tmp_path: Path) -> None:
    trainer, tracker = trainer_of(tmp_path, "dora")
    trainer.train()
    report = tracked(tmp_path, "dora")
    assert report.updates.empty
    assert report.coverage["failed"].all()
    assert "analyze its checkpoints instead" in tracker.statement
    assert "base" in tracker.statement


def test_vectors_alone_are_no_update_of_a_matrix(tmp_path: Path) -> None:
    model = model_of("full")
    for name, value in model.named_parameters():
        value.requires_grad_(name.endswith("bias"))
    trainer, tracker = trainer_of(tmp_path, "full", model=model)
    trainer.train()
    assert "no matrix of the model itself is trained" in tracker.statement
    assert tracked(tmp_path, "full").updates.empty


def test_frozen_matrices_are_rows_of_the_coverage(tmp_path: Path) -> None:
    model = model_of("full")
    for name, value in model.named_parameters():
        value.requires_grad_("q_proj" in name or "norm" in name)
    trainer, _ = trainer_of(tmp_path, "full", model=model, base=base_of(tmp_path))
    trainer.train()
    report = tracked(tmp_path, "full")
    assert set(report.updates["kind"]) == {"q"}
    rows = report.coverage[(report.coverage["step"] == 8) & (report.coverage["side"] != "base")]
    frozen = rows[rows["tensor"].str.contains("up_proj")]
    assert (frozen["reason"] == "not trained: requires_grad is off").all()
    assert set(rows.loc[rows["tensor"].str.endswith("norm.weight"), "status"]) == {"vector"}


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose training takes so long that looking at ranks is nothing beside it."""
    rates = replace(CPU, product=1.0)
    monkeypatch.setattr("rank_lab.training.rank_tracker.rates_for", lambda *_: rates)


@pytest.mark.usefixtures("slow")
def test_default_points_are_log_spaced_and_explained(tmp_path: Path) -> None:
    trainer, tracker = trainer_of(tmp_path, "lora", settings=TrackerSettings(share=0.5))
    trainer.train()
    points = tracked(tmp_path).provenance["tracking"]["points"]
    assert points[-1] == 8
    assert f"ranks at {len(points)} of 8 steps" in tracker.statement


def test_a_training_too_short_for_one_look_is_not_followed(tmp_path: Path) -> None:
    short, told = trainer_of(tmp_path / "short", "lora", settings=TrackerSettings())
    short.train()
    assert not (tmp_path / "short" / "study" / "lora.rank" / "report.json").exists()
    assert "ranks are not followed: one look alone is expected to take" in told.statement
    assert "'rank-lab analyze' measures its checkpoints" in told.statement


def test_a_checkpoint_without_a_new_point_writes_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    save = RankReport.save

    def counted(report: RankReport, *given: Any) -> Any:
        saved.append(report.provenance["tuned"][0]["step"])
        return save(report, *given)

    monkeypatch.setattr(RankReport, "save", counted)
    trainer, _ = trainer_of(tmp_path, "lora", others=[SaveAt((1, 2, 4, 6, 7))])
    trainer.train()
    assert saved == [1, 3, 5, 8]  # of points 1, 3, 5 and 8, the last at the end of training


def test_a_run_that_ends_early_is_measured_where_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rank_lab.training.rank_tracker.points_within", lambda *_: 1)  # the last step

    class Stop(SaveAt):
        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
            control.should_training_stop = state.global_step == 5
            return control

    trainer, _ = trainer_of(tmp_path, "lora", settings=TrackerSettings(), others=[Stop([])])
    trainer.train()
    assert tracked(tmp_path).provenance["tracking"]["points"] == [5]


def test_another_training_of_that_name_is_refused(tmp_path: Path) -> None:
    trainer_of(tmp_path, "lora")[0].train()
    other, _ = trainer_of(tmp_path, "lora", learning_rate=0.5)
    with pytest.raises(SchemaError, match=r"tracks another training \(learning_rate 0\.02, now 0\.5\); give this run"):
        other.train()
    (tmp_path / "study" / "lora.rank" / JOURNAL_FILE).unlink()
    again, _ = trainer_of(tmp_path, "lora")
    with pytest.raises(SchemaError, match="holds a report that no RankTracker wrote"):
        again.train()


def test_weights_that_are_spread_are_refused() -> None:
    model = torch.nn.Linear(2, 2)
    refuse_spread(model, SimpleNamespace(fsdp=""))
    with pytest.raises(RankLabError, match="FSDP spreads the weights over processes"):
        refuse_spread(model, SimpleNamespace(fsdp="full_shard"))
    model.weight.ds_id = 3  # type: ignore[assignment]
    with pytest.raises(RankLabError, match="DeepSpeed ZeRO-3 spreads"):
        refuse_spread(model, SimpleNamespace(fsdp=""))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"points": ()}, "expected optimizer steps of 1 or more"), ({"points": (0, 4)}, "of 1 or more"),
     ({"share": 0.0}, "above 0 and at most 1")],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RankLabError, match=words):
        replace(TrackerSettings(), **options)
