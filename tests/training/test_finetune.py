"""The trainer: what a run leaves, goes on with, and refuses."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rank_lab.errors import CheckpointError, NonFiniteError, RankLabError, UnsupportedUpdateError
from rank_lab.training.checkpoint_steps import first_change, log_spaced_steps, steps_to_save
from rank_lab.training.finetune import Watching
from rank_lab.training.loss_rows import LossRow, read_losses
from rank_lab.training.method import Method, MethodChoices
from rank_lab.training_record import TrainingRecord
from tests.training.runs import LOCAL, STEPS, arguments, assert_same, run, tensors, text_data, timeless


class StopError(Exception):
    """A process that ended."""


class StopAt(TrainerCallback):
    """Ends a run where a process might be killed: in a step, or with a checkpoint half written."""

    def __init__(self, step: int, *, saving: bool = False) -> None:
        self.step, self.saving = step, saving

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step and not self.saving:
            raise StopError

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step and self.saving:
            (Path(args.output_dir) / f"checkpoint-{self.step}" / "optimizer.pt").unlink()
            raise StopError


def test_steps_are_spaced_by_their_logarithm() -> None:
    assert log_spaced_steps(1024, 11) == tuple(2**i for i in range(11))
    for total in (1, 2, 7, 30, 1000):
        for count in (1, 2, 5, 40):
            steps = log_spaced_steps(total, count)
            assert len(steps) == min(total, count) == len(set(steps))
            assert list(steps) == sorted(steps)
            assert steps[-1] == total
            assert steps[0] == (1 if len(steps) > 1 else total)
    for wrong in ((0, 3), (3, 0)):
        with pytest.raises(RankLabError, match="expected 1 or more of both"):
            log_spaced_steps(*wrong)
    with pytest.raises(RankLabError, match="after step 9: expected steps from 1 to 8"):
        steps_to_save(8, (1, 9))


def test_spaced_steps_begin_where_they_are_told_to() -> None:
    for total, count, first in ((1000, 8, 2), (64, 6, 2), (7, 9, 3), (2, 2, 2), (1, 4, 2)):
        steps = log_spaced_steps(total, count, first)
        assert len(steps) == min(total - min(first, total) + 1, count) == len(set(steps))
        assert list(steps) == sorted(steps)
        assert steps[-1] == total
        assert steps[0] == min(first, total)
    assert log_spaced_steps(64, 6, 2) == (2, 4, 8, 16, 32, 64)
    with pytest.raises(RankLabError, match="from step 0: expected 1 or more"):
        log_spaced_steps(8, 2, 0)


@pytest.mark.parametrize(
    ("scheduler", "warmup", "first"),
    [("cosine", 0.06, 2), ("linear", 1, 2), ("constant", 0.06, 1), ("inverse_sqrt", 0.06, 2), ("cosine", 0, 1),
     ("constant_with_warmup", 3, 2), ("cosine_with_restarts", 0.06, 2), ("polynomial", 0.06, 2)],
)  # fmt: skip
def test_the_first_step_that_changes_something(scheduler: str, warmup: float, first: int) -> None:
    assert first_change(arguments(lr_scheduler_type=scheduler, warmup_steps=warmup)) == first


def test_of_a_number_of_checkpoints_none_is_the_base(tmp_path: Path) -> None:
    """The rate of a warm-up's first step is 0."""
    warmed = run(tmp_path / "warmed", save_at=3)
    assert warmed.save_at == (2, 3, 6)
    assert warmed.losses[1].validation_loss != warmed.losses[0].validation_loss
    assert run(tmp_path / "cold", save_at=3, warmup_steps=0).save_at == (1, 2, 6)
    asked = run(tmp_path / "asked", save_at=(1, 3))
    assert asked.save_at == (1, 3, 6)
    assert asked.losses[1].validation_loss == asked.losses[0].validation_loss  # as asked, though it is the base


@pytest.mark.parametrize("method", LOCAL)
def test_a_run_that_was_stopped_comes_to_the_same_bits(method: str, tmp_path: Path) -> None:
    straight = run(tmp_path / "straight", method, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    assert [row.step for row in straight.losses] == [0, 1, 3, 4, STEPS]
    assert straight.losses[-1].validation_loss < straight.losses[0].validation_loss
    assert straight.resumed_from == 0
    for stop in (StopAt(2), StopAt(4, saving=True), StopAt(5)):
        with pytest.raises(StopError):
            run(
                tmp_path / "parts", method, gradient_accumulation_steps=2, per_device_train_batch_size=2,
                watching=Watching(callbacks=[stop]),
            )  # fmt: skip
    parts = run(tmp_path / "parts", method, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    assert parts.resumed_from == 4
    for step in straight.save_at:
        assert_same(tmp_path / "straight" / f"checkpoint-{step}", tmp_path / "parts" / f"checkpoint-{step}")
    assert timeless(parts.losses) == timeless(straight.losses)


def test_what_a_run_leaves(tmp_path: Path) -> None:
    rows: list[LossRow] = []
    steps: list[tuple[int, int]] = []
    watching = Watching(rows.append, lambda *step: steps.append(step))
    done = run(tmp_path, per_device_train_batch_size=5, watching=watching)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == [f"checkpoint-{n}" for n in (1, 3, 4, 6)]
    assert rows == list(done.losses) == list(read_losses(tmp_path))
    assert steps == [(n, STEPS) for n in range(1, STEPS + 1)]
    record = TrainingRecord.load(tmp_path)
    assert record == done.record
    assert (record.method, record.kind, record.steps, record.batch_size, record.seed) == ("lora", "causal", 6, 5, 5)
    assert (record.optimizer, record.scheduler, record.precision) == ("adamw_torch_fused", "cosine", "float32")
    assert record.warmup == pytest.approx(2 / 6)
    assert record.choices["steps"] == STEPS
    assert record.trainable_parameters == 4 * 4 * (2 * (128 + 128) + (352 + 128))
    assert record.data["train"]["examples"] == 10
    first, last = done.losses[0], done.losses[-1]
    assert (first.train_loss, first.learning_rate, first.tokens) == (None, None, 0)
    assert last.learning_rate == pytest.approx(2e-3 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * 3 / 4)).item()))
    lengths = [len(ids) for ids in text_data().train["input_ids"]]
    assert (last.tokens, done.losses[3].tokens) == (3 * sum(lengths), 2 * sum(lengths))  # of whole epochs, no padding


def test_the_validation_loss_is_the_mean_over_tokens(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from rank_lab.demo import BASE

    losses = {size: run(tmp_path / str(size), per_device_eval_batch_size=size).losses[0] for size in (1, 5)}
    model, total, count = AutoModelForCausalLM.from_pretrained(BASE), 0.0, 0
    for ids in text_data().validation["input_ids"]:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    for row in losses.values():
        assert row.validation_loss == pytest.approx(total / count, rel=1e-5)


def test_checkpoints_change_no_number(tmp_path: Path) -> None:
    run(tmp_path / "many", save_at=(1, 2, 3, 4, 5))
    run(tmp_path / "one", save_at=())
    assert_same(tmp_path / "many" / "checkpoint-6", tmp_path / "one" / "checkpoint-6")


def test_a_complete_run_is_left_as_it_is(tmp_path: Path) -> None:
    run(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    again = run(tmp_path)
    assert again.was_complete
    assert len(again.losses) == 5
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != ".lock"}
    with pytest.raises(RankLabError, match="holds checkpoints of a run already"):
        run(tmp_path, resume=False)


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "rate": ({"learning_rate": 1e-3}, r"training.learning_rate 0.002 there, 0.001 now"),
    "steps": ({"max_steps": 8}, r"training.choices.steps 6 there, 8 now"),
    "batch": ({"per_device_train_batch_size": 2}, r"training.batch_size 4 there, 2 now"),
    "seed": ({"seed": 6}, r"training.seed 5 there, 6 now"),
    "rank": ({"choices": MethodChoices(rank=2, threshold=0.5)}, r"training.choices.rank 4 there, 2 now"),
    "checkpoints": ({"save_at": (1, 2)}, r"save_at \[1, 3, 4, 6\] there, \[1, 2, 6\] now"),
    "betas": ({"adam_beta2": 0.9}, r"arguments.adam_beta2 0.999 there, 0.9 now"),
    "method": ({"method": "sora"}, 'training.method "lora" there, "sora" now'),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("begun")
    with pytest.raises(StopError):
        run(out, watching=Watching(callbacks=[StopAt(4)]))
    return out


@pytest.mark.parametrize("case", CHANGES)
def test_going_on_with_a_change_is_refused(begun: Path, case: str) -> None:
    options, message = CHANGES[case]
    before = {path: path.read_bytes() for path in begun.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(RankLabError, match=message):
        run(begun, **options)
    assert before == {path: path.read_bytes() for path in begun.rglob("*") if path.is_file() and path.name != ".lock"}


def test_another_base_is_refused_and_the_same_elsewhere_is_not(begun: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from rank_lab.demo import BASE

    here = shutil.copytree(begun, tmp_path / "run")
    moved = shutil.copytree(BASE, tmp_path / "base")
    weights = load_file(moved / "model.safetensors")
    other = shutil.copytree(BASE, tmp_path / "other")
    name = "model.embed_tokens.weight"
    save_file(weights | {name: weights[name] + 1e-3}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(RankLabError, match=r"begun with other settings: base.sha256"):
        run(here, base=other)
    assert run(here, base=moved).resumed_from == 3


def test_a_smaller_batch_with_more_of_them_goes_on(begun: Path, tmp_path: Path) -> None:
    here = shutil.copytree(begun, tmp_path / "run")
    done = run(here, per_device_train_batch_size=2, gradient_accumulation_steps=2, activation_checkpointing=True)
    assert done.resumed_from == 3
    assert done.losses[-1].step == STEPS


def test_a_folder_of_another_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(RankLabError, match=r"holds checkpoint-3 of another training, but no finetune.json"):
        run(tmp_path)
    assert (tmp_path / "checkpoint-3").is_dir()


def test_lost_rows_are_missed(begun: Path, tmp_path: Path) -> None:
    here = shutil.copytree(begun, tmp_path / "run")
    (here / "losses.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="has no row of step 3"):
        run(here)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fp16": True}, r"fp16=True\): not supported"),
        ({"max_steps": -1}, "max_steps -1: expected the steps"),
        ({"optim": "lion_8bit"}, "optimizer lion_8bit: is of the package bitsandbytes, which is not installed"),
        ({"warmup_steps": 9}, "9 steps of warm-up in 6 steps"),
        ({"save_at": (7,)}, "a checkpoint after step 7"),
        ({"save_at": 0}, "0 checkpoints in 6 steps"),
        ({"per_device_train_batch_size": 11}, "10 training examples for a batch of 11"),
        ({"train_sampling_strategy": "sequential"}, "train_sampling_strategy='sequential'"),
    ],
)
def test_what_no_run_can_be_trained_with(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match=message):
        run(tmp_path / "run", **options)
    assert not list(tmp_path.glob("run/checkpoint-*"))


def test_a_method_that_trains_nothing_or_does_not_fit(tmp_path: Path) -> None:
    def nothing(model: Any, choices: MethodChoices, kind: str) -> Any:
        return model.requires_grad_(False)

    def misfit(model: Any, choices: MethodChoices, kind: str) -> Any:
        raise ValueError("Target modules {'query'} not found")

    for adapt, message in ((nothing, "nothing of LlamaForCausalLM is trained"), (misfit, r"odd: Target modules")):
        with pytest.raises(RankLabError, match=message):
            run(tmp_path, Method("odd", "", "", 1e-3, adapt))


def test_divergence_stops_at_its_step_and_keeps_what_was_before(tmp_path: Path) -> None:
    class Break(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    next(value for value in model.parameters() if value.requires_grad).fill_(torch.inf)

    with pytest.raises(NonFiniteError, match=r"step 5: the training loss is nan: training diverges"):
        run(tmp_path / "train", save_at=(1, 3), watching=Watching(callbacks=[Break()]))
    assert [row.step for row in read_losses(tmp_path / "train")] == [0, 1, 3]
    with pytest.raises(NonFiniteError, match=r"step 4: the validation loss is nan"):
        run(tmp_path / "valid", watching=Watching(callbacks=[Break()]))
    assert (tmp_path / "valid" / "checkpoint-3" / "whole.json").is_file()


def test_too_little_memory_names_what_to_lower(tmp_path: Path) -> None:
    class Hungry(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 4:
                torch.empty(1 << 55, dtype=torch.uint8)

    with pytest.raises(RankLabError, match=r"out of memory \(.*\); checkpoint-3 is kept.*lower --batch-size") as found:
        run(tmp_path, save_at=(1, 3), watching=Watching(callbacks=[Hungry()]))
    assert "\n" not in str(found.value)
    assert run(tmp_path, save_at=(1, 3)).resumed_from == 3


def test_a_callback_that_ends_training_early_is_named(tmp_path: Path) -> None:
    class Early(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = True

    with pytest.raises(RankLabError, match="training ended before step 6"):
        run(tmp_path, watching=Watching(callbacks=[Early()]))


@pytest.mark.parametrize(
    "options",
    [
        {"bf16": True},
        {"optim": "sgd", "learning_rate": 0.1},
        {"optim": "adafactor"},
        {"optim": "rmsprop"},
        {"activation_checkpointing": True},
        {"lr_scheduler_type": "linear", "warmup_steps": 0.5},
    ],
    ids=str,
)
def test_other_ways_to_train(options: dict[str, Any], tmp_path: Path) -> None:
    done = run(tmp_path, **options)
    assert done.losses[-1].validation_loss < done.losses[0].validation_loss
    weights = [value for name, value in tensors(tmp_path / "checkpoint-6").items() if "lora_A" in name]
    assert weights
    assert all(value.dtype == torch.float32 for value in weights)
    assert done.record.precision == ("bfloat16" if options.get("bf16") else "float32")


def test_several_gpus_in_one_process_are_refused(tmp_path: Path) -> None:
    from rank_lab.training.finetune_checks import refuse_arguments

    many = arguments()
    many._n_gpu = 2
    with pytest.raises(UnsupportedUpdateError, match="2 GPUs in one process: start one process for each with"):
        refuse_arguments(many, text_data(), tmp_path)


def test_a_folder_that_another_process_holds(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; from pathlib import Path; from rank_lab.sora.study_lock import study_lock\n"
        "with study_lock(Path(sys.argv[1])): print('held', flush=True); input()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(RankLabError, match=rf"process {other.pid} is at work there"):
            run(tmp_path)
        other.communicate("\n")


def test_settings_that_cannot_be_read(begun: Path, tmp_path: Path) -> None:
    here = shutil.copytree(begun, tmp_path / "run")
    (here / "finetune.json").write_text(json.dumps({"version": 1}))
    with pytest.raises(RankLabError, match=r"finetune.json: cannot be read \('training'\)"):
        run(here)
    assert os.path.isdir(here / "checkpoint-3")  # noqa: PTH112
    assert replace(MethodChoices(), steps=3).steps == 3
