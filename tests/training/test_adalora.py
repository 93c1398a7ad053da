"""AdaLoRA under the trainer: its allocator acts, its checkpoints hold what the model is, its penalty counts once."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, TrainerCallback

from rank_lab.demo import BASE
from rank_lab.errors import CheckpointError, RankLabError
from rank_lab.training.finetune import Watching
from rank_lab.training.method import Method, MethodChoices
from tests.training.runs import LOCAL, run, tensors

MODULES, TARGET, STEPS = 8, 2, 18
BATCH = torch.arange(3, 3 + 24).reshape(2, 12)


def adapted(model: Any, choices: MethodChoices, kind: str, **options: Any) -> Any:
    given = {"tinit": 2, "tfinal": 4, "deltaT": 4, "total_step": choices.steps, "orth_reg_weight": 0.5}
    config = AdaLoraConfig(
        target_r=TARGET, init_r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM",
        **given | options,
    )  # fmt: skip
    return get_peft_model(model, config)


def method(**options: Any) -> Method:
    return Method("adalora", "AdaLoRA", "", 1e-2, partial(adapted, **options))


class Outputs(TrainerCallback):
    """What the model in training says at each checkpoint, and how many of its directions are not zero."""

    def __init__(self) -> None:
        self.logits: dict[int, Tensor] = {}
        self.ranks: dict[int, int] = {}

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.eval()
        with torch.no_grad():
            self.logits[state.global_step] = model(input_ids=BATCH).logits
        model.train()
        values = [value for name, value in model.named_parameters() if "lora_E" in name]
        self.ranks[state.global_step] = sum(int((value != 0).sum()) for value in values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outputs]:
    out, seen = tmp_path_factory.mktemp("adalora"), Outputs()
    run(out, method(), max_steps=STEPS, save_at=(2, 4, 7, 9, 14, 16), watching=Watching(callbacks=[seen]))
    return out, seen


def test_ranks_fall_to_the_budget(trained: tuple[Path, Outputs]) -> None:
    ranks = trained[1].ranks
    assert ranks[2] == MODULES * 4
    assert MODULES * TARGET < ranks[4] < MODULES * 4
    assert ranks[14] == ranks[16] == ranks[18] == MODULES * TARGET
    saved = load_file(trained[0] / "checkpoint-18" / "adapter_model.safetensors")
    each = [value.shape[0] for name, value in saved.items() if "lora_E" in name]
    assert sum(each) == MODULES * TARGET
    assert len(set(each)) > 1


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match")  # PEFT's, of every AdaLoRA adapter
def test_each_checkpoint_is_the_model_at_its_step(trained: tuple[Path, Outputs]) -> None:
    assert any(count > MODULES * TARGET for step, count in trained[1].ranks.items() if step in (7, 9))
    for step, logits in trained[1].logits.items():
        base = AutoModelForCausalLM.from_pretrained(BASE)
        loaded = PeftModel.from_pretrained(base, str(trained[0] / f"checkpoint-{step}")).eval()
        with torch.no_grad():
            assert torch.allclose(loaded(input_ids=BATCH).logits, logits, atol=1e-5), step


def test_its_penalty_counts_once_however_a_step_is_split(tmp_path: Path) -> None:
    options = {"optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0.0, "max_steps": 8, "save_at": ()}
    plain = method(orth_reg_weight=5.0)
    run(tmp_path / "one", plain, **options)
    run(tmp_path / "two", plain, per_device_train_batch_size=2, gradient_accumulation_steps=2, **options)
    run(tmp_path / "none", method(orth_reg_weight=0.0), **options)
    one, two, none = (tensors(tmp_path / name / "checkpoint-8") for name in ("one", "two", "none"))
    far = max(float((one[name] - none[name]).abs().max()) for name in one if "trained" in name)
    near = max(float((one[name] - two[name]).abs().max()) for name in one if "trained" in name)
    assert near < 1e-4 * far


def test_the_validation_loss_is_without_the_penalty(tmp_path: Path) -> None:
    losses = [
        run(tmp_path / f"{weight}", method(orth_reg_weight=weight, tfinal=1), save_at=()).losses[0].validation_loss
        for weight in (0.0, 50.0)
    ]
    assert losses[0] == losses[1]


def test_a_budget_planned_for_other_steps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match=r"planned for 30 steps, and training takes 6; give the method"):
        run(tmp_path, method(total_step=30))


def test_without_its_state_it_does_not_go_on(tmp_path: Path) -> None:
    run(tmp_path, LOCAL["adalora"])
    (tmp_path / "checkpoint-6" / "whole.json").unlink()
    file = tmp_path / "checkpoint-4" / "adalora_state.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:50])
    with pytest.raises(CheckpointError, match=r"adalora_state.safetensors: cannot be read"):
        run(tmp_path, LOCAL["adalora"])
    other = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), _narrow())
    file.write_bytes(kept)
    from rank_lab.training.adalora import load_allocator

    with pytest.raises(CheckpointError, match="is of another adapter"):
        load_allocator(other, tmp_path / "checkpoint-4")
    assert run(tmp_path, LOCAL["adalora"]).resumed_from == 4


def _narrow() -> AdaLoraConfig:
    with warnings.catch_warnings():
        return AdaLoraConfig(target_r=1, init_r=2, total_step=6, target_modules=["q_proj"], task_type="CAUSAL_LM")
