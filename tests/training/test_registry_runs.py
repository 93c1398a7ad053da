"""Every method of the registry under the trainer: trains, is stopped and goes on to the same bits, is read again."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import TrainerCallback

from rank_lab import RankReport, Settings, analyze
from rank_lab.errors import UnsupportedUpdateError
from rank_lab.kept_start import INITIAL
from rank_lab.masking import MaskingCollator
from rank_lab.tasks import TaskData
from rank_lab.training.finetune import Watching
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from rank_lab.training.rank_tracker import RankTracker, TrackerSettings
from rank_lab.training_record import TrainingRecord
from tests.checkpoints import rank_lab
from tests.training.models import CASES, loaded, saved_base
from tests.training.runs import assert_same, run, timeless
from tests.training.test_finetune import StopAt, StopError
from tests.training.test_methods import CHOICES, REFUSED
from tests.training.token_data import token_data

WITH_BIASES = {"bitfit": ("bert", "regression")}
CASE = {name: WITH_BIASES.get(name, ("llama", "causal")) for name in METHODS}
EXTRA = [
    ("full", "bert", "masked"),
    ("full", "roberta", "classification"),
    ("lora", "gpt2", "causal"),
    ("lora", "bert", "regression"),
    ("adalora", "llama", "classification"),
    ("adalora", "bert", "masked"),
    ("sora", "gpt2", "causal"),
    ("sora", "roberta", "classification"),
]
PEFT_OWN = "ignore:The following rank_pattern keys did not match"  # said of every AdaLoRA adapter that is loaded


class Outputs(TrainerCallback):
    """What the model in training says at the last checkpoint."""

    def __init__(self, batch: Any) -> None:
        self.batch, self.logits = batch, torch.empty(0)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.logits = logits_of(model, self.batch)
        model.train()


@torch.no_grad()
def logits_of(model: Any, batch: Any) -> torch.Tensor:
    # Without labels: PEFT's AdaLoRA, read from a file, fails where it is given any.
    return model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).logits


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    folder = tmp_path_factory.mktemp("run-bases")
    return {case: saved_base(folder / "-".join(case), *case) for case in CASES}


@pytest.mark.filterwarnings(PEFT_OWN)
@pytest.mark.parametrize(("name", "architecture", "kind"), [*((name, *case) for name, case in CASE.items()), *EXTRA])
def test_it_trains_stops_goes_on_and_is_read(
    name: str, architecture: str, kind: str, bases: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    assert (name, architecture, kind) not in REFUSED
    data: TaskData = token_data(kind)
    options: dict[str, Any] = {
        "base": bases[architecture, kind], "data": data, "max_steps": 4, "save_at": (1, 2), "learning_rate": 1e-2,
        "choices": MethodChoices(**CHOICES.get(name, {"rank": 4})),
    }  # fmt: skip
    batch = data.collator([data.validation[0], data.validation[1]])
    seen = Outputs(batch)
    straight = run(tmp_path / "straight", METHODS[name], watching=Watching(callbacks=[seen]), **options)
    assert straight.losses[-1].train_loss is not None
    with pytest.raises(StopError):
        run(tmp_path / "parts", METHODS[name], watching=Watching(callbacks=[StopAt(3)]), **options)
    parts = run(tmp_path / "parts", METHODS[name], **options)
    assert parts.resumed_from == 2
    assert_same(tmp_path / "straight" / "checkpoint-4", tmp_path / "parts" / "checkpoint-4")
    assert timeless(parts.losses) == timeless(straight.losses)
    saved = tmp_path / "straight" / "checkpoint-4"
    if name == "full":
        again = loaded(saved, architecture, kind)
    else:
        again = PeftModel.from_pretrained(loaded(bases[architecture, kind], architecture, kind), str(saved))
    assert torch.allclose(logits_of(again, batch), seen.logits, atol=1e-5)


def test_a_prefix_is_not_computed_again(bases: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "base": bases["llama", "causal"],
        "data": token_data("causal"),
        "choices": MethodChoices(),
    }
    with pytest.raises(UnsupportedUpdateError, match="method 'prefix' with gradient checkpointing"):
        run(tmp_path, METHODS["prefix"], activation_checkpointing=True, **options)


@pytest.mark.parametrize("method", ["full", "adalora"])
def test_ranks_are_followed_over_a_stop(method: str, bases: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    base = bases["llama", "causal"]
    options: dict[str, Any] = {
        "base": base, "data": token_data("causal"), "max_steps": 6, "save_at": (2, 4), "learning_rate": 1e-2,
        "choices": MethodChoices(**{"rank": 4} if method == "adalora" else {}),
    }  # fmt: skip

    def follow(study: Path, *others: TrainerCallback) -> Watching:
        def made(record: TrainingRecord) -> list[TrainerCallback]:
            settings = TrackerSettings(points=(1, 3, 5, 6), record=record)
            return [RankTracker(study, "run", base=base, settings=settings), *others]

        return Watching(callbacks=made)

    for name in ("untracked", "straight", "parts"):
        watching = Watching() if name == "untracked" else follow(tmp_path / name)
        if name == "parts":
            with pytest.raises(StopError):
                run(tmp_path / name / "run", METHODS[method], watching=follow(tmp_path / name, StopAt(5)), **options)
        run(tmp_path / name / "run", METHODS[method], watching=watching, **options)
    for name in ("straight", "parts"):  # looking changes nothing
        assert_same(tmp_path / "untracked" / "run" / "checkpoint-6", tmp_path / name / "run" / "checkpoint-6")
    straight, parts = (RankReport.load(tmp_path / name / "run.rank").updates for name in ("straight", "parts"))
    assert sorted(set(straight["step"])) == [1, 3, 5, 6]
    columns = ["step", "delta", "module", "numerical_rank", "frobenius_norm", "effective_rank"]
    order = ["step", "delta", "module"]
    pd.testing.assert_frame_equal(*(each[columns].sort_values(order, ignore_index=True) for each in (straight, parts)))


def test_a_masked_run_hides_other_tokens_in_each_epoch_and_validates_on_the_same(
    bases: dict[tuple[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, int, tuple[int, ...]]] = []
    hidden = MaskingCollator.hidden

    def spied(self: MaskingCollator, row: Any) -> dict[str, Any]:
        found = hidden(self, row)
        drawn.append((self.epoch, row["row"], tuple(found["labels"])))
        return found

    monkeypatch.setattr(MaskingCollator, "hidden", spied)
    options: dict[str, Any] = {
        "base": bases["bert", "masked"], "data": token_data("masked"), "max_steps": 6, "save_at": (),
        "choices": MethodChoices(),
    }  # fmt: skip
    done = run(tmp_path / "a", METHODS["full"], **options)
    first, second = ({row: labels for epoch, row, labels in drawn if epoch == each} for each in (0, 1))
    assert first.keys() == second.keys() == set(range(12))
    assert sum(first[row] != second[row] for row in first) > 6
    other = run(tmp_path / "b", METHODS["full"], seed=6, **options)
    assert done.losses[0].validation_loss == other.losses[0].validation_loss
    assert done.losses[-1].train_loss != other.losses[-1].train_loss


@pytest.fixture(scope="module", params=["pissa", "loftq"])
def started_elsewhere(
    request: pytest.FixtureRequest, bases: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """Such a method, the base, and its run, tracked at each of its three steps."""
    base, study = bases["llama", "causal"], tmp_path_factory.mktemp(request.param)

    def follow(record: TrainingRecord) -> list[TrainerCallback]:
        return [RankTracker(study, "run", base=base, settings=TrackerSettings(points=(1, 2, 3), record=record))]

    run(
        study / "run", METHODS[request.param], base=base, data=token_data("causal"), max_steps=3, save_at=(1, 2, 3),
        learning_rate=1e-2, choices=MethodChoices(rank=4, targets="q_proj"), watching=Watching(callbacks=follow),
    )  # fmt: skip
    return request.param, base, study / "run"


def changes(run: Path, one: str, other: str) -> dict[str, float]:
    """Norms of the updates from one of its adapters to the other."""
    files = [load_file(run / place / "adapter_model.safetensors") for place in (one, other)]
    found = {}
    for name in files[0]:
        if name.endswith("lora_A.weight"):
            first, second = (2 * each[name.replace("_A.", "_B.")].double() @ each[name].double() for each in files)
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            found[module] = float(torch.linalg.matrix_norm(second - first))
    return found


def assert_since_the_start(report: RankReport, run: Path) -> None:
    """Cumulative changes since the adapter before training, and those of each step since the one before."""
    places = {0: INITIAL} | {step: f"checkpoint-{step}" for step in (1, 2, 3)}
    for step in (1, 2, 3):
        for delta, before in (("cumulative", 0), ("step", step - 1)):
            rows = report.updates[(report.updates["step"] == step) & (report.updates["delta"] == delta)]
            norms = dict(zip(rows["module"], rows["frobenius_norm"], strict=True))
            assert len(norms) == 2
            assert norms == pytest.approx(changes(run, places[before], places[step]), rel=1e-5)


def test_an_update_is_told_from_where_the_factors_started(started_elsewhere: tuple[str, Path, Path]) -> None:
    method, base, folder = started_elsewhere
    start = folder / INITIAL
    for against in (base, None):
        report = analyze(folder, against)
        assert_since_the_start(report, folder)
        settings = report.provenance["settings"]
        assert (settings["initial"], settings["initial_kept_by_training"]) == (str(start), True)
        given = analyze(folder, against, settings=Settings(initial=start))
        assert given.updates.equals(report.updates)
        assert given.provenance["settings"]["initial_kept_by_training"] is False
    alone = analyze(folder / "checkpoint-3", base).updates
    norms = dict(zip(alone["module"], alone["frobenius_norm"], strict=True))
    assert norms == pytest.approx(changes(folder, INITIAL, "checkpoint-3"), rel=1e-5)
    done = rank_lab("analyze", folder, "-o", folder.parent, "--name", "told")
    assert done.code == 0
    assert done.err == f"note: {folder}: its base is {base}, as its training.json says\n"
    assert f"since the adapter as it started, {start}: training.json says {method}" in " ".join(done.out.split())
    assert not (folder / f".{INITIAL}.part").exists()


def test_the_tracker_tells_it_from_there_too(started_elsewhere: tuple[str, Path, Path]) -> None:
    _, _, folder = started_elsewhere
    report = RankReport.load(folder.parent / "run.rank")
    assert_since_the_start(report, folder)
    assert report.provenance["settings"]["initial"] == str(folder / INITIAL)
    first = report.updates[report.updates["delta"] == "cumulative"]
    assert first["warning"].str.contains("the initial adapter is taken out").all()


def test_a_start_is_not_guessed_from_a_folders_name(started_elsewhere: tuple[str, Path, Path], tmp_path: Path) -> None:
    _, base, folder = started_elsewhere
    copy = Path(shutil.copytree(folder, tmp_path / "run"))
    record = TrainingRecord.load(folder)
    replace(record, method="lora").save(copy)
    other = analyze(copy, base)
    (copy / "training.json").unlink()
    for report in (other, analyze(copy, base)):
        assert "initial" not in report.provenance["settings"]
        assert not report.updates["warning"].str.contains("the initial adapter is taken out").any()
    record.save(copy)
    assert "initial" in analyze(copy, base).provenance["settings"]
    merged = analyze(copy / INITIAL, base)  # the start itself has none
    assert "initial" not in merged.provenance["settings"]
