"""SoRA with transformers' own Trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from rank_lab import analyze
from rank_lab.errors import RankLabError
from rank_lab.sora import SoraCallback, SoraTrainer, SoraTrainerMixin, fold, gate_parameters, parameter_groups
from tests.sora.adapters import adapted, as_trained, base_model, settings

Model = Any


def data(rows: int = 96) -> Dataset:
    generator = torch.Generator().manual_seed(8)
    return Dataset.from_list(
        [
            {"input_ids": (ids := torch.randint(0, 60, (8,), generator=generator)).tolist(), "labels": ids.tolist()}
            for _ in range(rows)
        ]
    )


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given = {
        "max_steps": 24, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 0.02,
        "warmup_steps": 3, "weight_decay": 0.1, "save_strategy": "no", "logging_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "seed": 5, "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **given | options)


def model_of(**options: Any) -> Model:
    torch.manual_seed(2)
    return adapted("llama", **{"threshold": 4.0, "lora_dropout": 0.1} | options)


def trainer_of(folder: Path, model: Model | None = None, **options: Any) -> SoraTrainer:
    return SoraTrainer(model_of() if model is None else model, arguments(folder, **options), train_dataset=data())


def weights(model: Model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora_" in name}


def test_one_line_is_enough(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, logging_strategy="steps", logging_steps=8)
    trainer.train()
    group = trainer.optimizer.param_groups[-1]
    assert group["sora_gate"] is True
    assert group["weight_decay"] == 0.0
    assert len(group["params"]) == len(gate_parameters(trainer.model)) == 6
    callback = next(found for found in trainer.callback_handler.callbacks if isinstance(found, SoraCallback))
    assert callback.proximal is not None
    assert callback.proximal.calls == trainer.state.global_step == 24
    gates = torch.cat([gate.detach() for gate in gate_parameters(trainer.model).values()])
    logged = [entry["nonzero_gates"] for entry in trainer.state.log_history if "nonzero_gates" in entry]
    assert len(logged) == 3
    assert logged[-1] == int((gates != 0).sum()) < 36


def test_mixed_precision(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, bf16=True, max_steps=6)
    trainer.train()
    for gate in gate_parameters(trainer.model).values():
        assert gate.dtype == torch.float32
        assert bool((gate < 1).all())


@pytest.mark.parametrize("options", [{}, {"threshold_mode": "adam", "threshold": 0.01, "prox_start_step": 3}])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    straight = trainer_of(tmp_path / "straight", model_of(**options))
    straight.train()
    saving = {"save_strategy": "steps", "save_steps": 12}
    first = trainer_of(tmp_path / "parts", model_of(**options), **saving)
    first.add_callback(StopAt(12))
    first.train()
    assert first.state.global_step == 12
    second = trainer_of(tmp_path / "parts", model_of(**options), **saving)
    second.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-12"))
    assert second.state.global_step == 24
    ours, theirs = weights(second.model), weights(straight.model)
    assert any(bool((value == 0).any()) for name, value in ours.items() if "lora_gate" in name)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    state = json.loads((tmp_path / "parts" / "checkpoint-24" / "sora_state.json").read_text())
    assert state["calls"] == state["step"] == 24
    assert len(state["nonzero"]) == 6
    config = json.loads((tmp_path / "parts" / "checkpoint-24" / "adapter_config.json").read_text())
    report = analyze(tmp_path / "parts" / "checkpoint-24")
    assert not report.coverage["failed"].any()
    assert dict(zip(report.updates["module"], report.updates["numerical_rank"], strict=True)) == state["nonzero"]
    assert config["threshold"] == options.get("threshold", 4.0)
    assert config["threshold_mode"] == options.get("threshold_mode", "lr")


def test_resuming_with_other_settings_is_refused(tmp_path: Path) -> None:
    first = trainer_of(tmp_path, max_steps=4, save_strategy="steps", save_steps=2)
    first.train()
    folder = str(tmp_path / "checkpoint-2")
    with pytest.raises(RankLabError, match="saved with operator='soft' and would go on with 'gapped'"):
        trainer_of(tmp_path, model_of(operator="gapped"), max_steps=4).train(resume_from_checkpoint=folder)
    with pytest.raises(RankLabError, match=r"saved with threshold 4.0 at this step, but it would go on with 1.0"):
        trainer_of(tmp_path, model_of(threshold=1.0), max_steps=4).train(resume_from_checkpoint=folder)


class StopAt(TrainerCallback):  # type: ignore[misc]
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


def test_the_l1_term_is_in_the_training_loss_only(tmp_path: Path) -> None:
    batch = {name: torch.tensor(data(2)[name]) for name in ("input_ids", "labels")}
    plain, with_l1 = (
        trainer_of(tmp_path, model_of(threshold=0.0, l1_weight=weight, lora_dropout=0.0)) for weight in (0.0, 10.0)
    )
    for trainer in (plain, with_l1):
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = 1
        trainer.training_step(trainer.model, dict(batch))
    N = 36
    for name, gate in gate_parameters(with_l1.model).items():
        before = gate_parameters(plain.model)[name].grad
        torch.testing.assert_close(gate.grad - before, torch.full_like(gate, 10.0 / N), rtol=1e-5, atol=1e-7)
    losses = [trainer.evaluate(data(8), metric_key_prefix="eval")["eval_loss"] for trainer in (plain, with_l1)]
    assert losses[0] == losses[1]


def test_the_l1_term_does_not_depend_on_accumulation(tmp_path: Path) -> None:
    """Where the Trainer adds up batches as they are, the term must not be added once for each."""
    gradients = []
    for steps in (1, 4):
        trainer = trainer_of(tmp_path, model_of(threshold=0.0, l1_weight=10.0, lora_dropout=0.0))
        trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = steps
        rows = data(4)
        size = 4 // steps
        for start in range(0, 4, size):
            batch = {name: torch.tensor(rows[start : start + size][name]) for name in ("input_ids", "labels")}
            trainer.training_step(trainer.model, batch, num_items_in_batch=torch.tensor(4 * 7))
        gradients.append([gate.grad for gate in gate_parameters(trainer.model).values()])
    for once, often in zip(*gradients, strict=True):
        torch.testing.assert_close(often, once, rtol=1e-4, atol=1e-6)


class Bare(Trainer):  # type: ignore[misc]
    """A user's Trainer without the mixin."""


class Forgetful(TrainerCallback):  # type: ignore[misc]
    """Takes the hook off during training, as a wrapper that replaces the optimizer would."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            kwargs["optimizer"].optimizer._optimizer_step_post_hooks.clear()


def test_it_refuses_where_it_could_not_act(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match="no parameter group of the optimizer is flagged"):
        Bare(model_of(), arguments(tmp_path), train_dataset=data(), callbacks=[SoraCallback()]).train()
    with pytest.raises(RankLabError, match="no threshold"):
        trainer_of(tmp_path, model_of(threshold=None)).train()
    with pytest.raises(RankLabError, match="prox_start_step"):
        trainer_of(tmp_path, model_of(threshold_mode="adam")).train()
    trainer = trainer_of(tmp_path)
    trainer.add_callback(Forgetful())
    with pytest.raises(RankLabError, match="took 3 steps but gates were shrunk in 2"):
        trainer.train()
    trainer = trainer_of(tmp_path)
    trainer.args.deepspeed = {"optimizer": {"type": "AdamW"}}
    with pytest.raises(RankLabError, match="DeepSpeed"):
        trainer.callback_handler.on_train_begin(trainer.args, trainer.state, trainer.control)
    from tests.peft_models import small

    with pytest.raises(RankLabError, match="has no active SoRA adapter"):
        SoraTrainer(small(), arguments(tmp_path), train_dataset=data()).train()


def test_an_own_optimizer_and_a_threshold_of_the_step(tmp_path: Path) -> None:
    model = model_of(threshold=None)
    optimizer = torch.optim.AdamW(parameter_groups(model, gate_lr=0.05), lr=0.01)
    callback = SoraCallback(threshold=lambda step: 0.0 if step < 10 else 0.5)
    Bare(model, arguments(tmp_path), train_dataset=data(), callbacks=[callback], optimizers=(optimizer, None)).train()
    assert callback.proximal is not None
    assert callback.proximal.calls == 24
    assert callback.proximal.state_dict()["threshold"] == 0.5


def test_one_threshold_only_and_it_is_recorded(tmp_path: Path) -> None:
    model = model_of(threshold=None)
    trainer = SoraTrainer(model, arguments(tmp_path), train_dataset=data(), callbacks=[SoraCallback(0.25)])
    trainer.train()
    assert model.peft_config["default"].threshold == 0.25
    for other in (1.0, lambda step: 1.0):
        trainer = SoraTrainer(model_of(), arguments(tmp_path), train_dataset=data(), callbacks=[SoraCallback(other)])
        with pytest.raises(RankLabError, match="two thresholds"):
            trainer.train()


def test_the_mixin_before_a_users_trainer(tmp_path: Path) -> None:
    class Mine(SoraTrainerMixin, Bare):  # type: ignore[misc]
        pass

    trainer = Mine(model_of(gate_lr=0.001), arguments(tmp_path, max_steps=3), train_dataset=data())
    trainer.train()
    assert trainer.optimizer.param_groups[-1]["initial_lr"] == 0.001
    assert sum(isinstance(found, SoraCallback) for found in trainer.callback_handler.callbacks) == 1


def test_the_best_checkpoint_is_loaded_with_its_gates(tmp_path: Path) -> None:
    often = {"save_strategy": "steps", "save_steps": 8, "eval_strategy": "steps", "eval_steps": 8}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss"}
    trainer = SoraTrainer(model_of(), arguments(tmp_path, **often, **best), train_dataset=data(), eval_dataset=data(8))
    trainer.train()
    saved = load_file(Path(trainer.state.best_model_checkpoint) / "adapter_model.safetensors")
    for name, gate in gate_parameters(trainer.model).items():
        assert torch.equal(gate.detach(), saved[name.removesuffix(".default")])


def test_an_adapter_that_transformers_added(tmp_path: Path) -> None:
    model = base_model("llama")
    model.add_adapter(settings("llama", threshold=4.0))
    trainer = trainer_of(tmp_path, model, save_strategy="steps", save_steps=24)
    trainer.train()
    gates = torch.cat([gate.detach() for gate in gate_parameters(model).values()])
    assert len(gates) == 36
    assert 0 < int((gates == 0).sum()) < 36
    report = fold(tmp_path / "checkpoint-24", tmp_path / "plain", model=base_model("llama"))
    assert sum(report.ranks.values()) == int((gates != 0).sum())


def test_training_twice_does_not_shrink_twice(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path, max_steps=3)
    trainer.train()
    trainer.train()
    callback = next(found for found in trainer.callback_handler.callbacks if isinstance(found, SoraCallback))
    assert callback.proximal is not None
    assert callback.proximal.calls == 3


class _Norms(TrainerCallback):
    """Norms of the gradients that the optimizer is given: of the gates, and of all others."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_pre_optimizer_step(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        gates = {id(gate) for gate in gate_parameters(kwargs["model"]).values()}
        trained = [value for value in kwargs["model"].parameters() if value.grad is not None]
        norms = [
            float(torch.nn.utils.get_total_norm([value.grad for value in trained if (id(value) in gates) is ours]))
            for ours in (True, False)
        ]
        self.seen.append((norms[0], norms[1]))


@pytest.mark.parametrize(("gate_clip", "apart"), [(None, False), (2e-3, True)])
def test_gates_may_be_clipped_apart(tmp_path: Path, gate_clip: float | None, apart: bool) -> None:
    model, norms = as_trained(model_of(gate_clip=gate_clip)), _Norms()
    trainer = trainer_of(tmp_path, model, max_steps=6, max_grad_norm=1e-3)
    trainer.add_callback(norms)
    trainer.train()
    assert len(norms.seen) == 6
    together = [(gates**2 + others**2) ** 0.5 for gates, others in norms.seen]
    if apart:
        assert max(gates for gates, _ in norms.seen) == pytest.approx(2e-3, rel=0.01)
        assert all(others == pytest.approx(1e-3, rel=0.01) for _, others in norms.seen)
    else:
        assert all(norm == pytest.approx(1e-3, rel=0.01) for norm in together)
        assert all(gates < 1e-3 for gates, _ in norms.seen)


def test_a_gate_clip_that_nothing_carries_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RankLabError, match="gate_clip needs gradients that are clipped"):
        trainer_of(tmp_path, model_of(gate_clip=0.1), max_grad_norm=0.0)
    with pytest.raises(RankLabError, match="gate_clip 0: no gate would ever move"):
        settings("llama", gate_clip=0.0)


def test_the_mixin_must_come_first() -> None:
    with pytest.raises(RankLabError, match=r"write class Wrong\(SoraTrainerMixin, Trainer\)"):
        type("Wrong", (Trainer, SoraTrainerMixin), {})


def test_a_trainer_that_shrinks_nothing_is_told(tmp_path: Path) -> None:
    plain = Trainer(model_of(), arguments(tmp_path, max_steps=2), train_dataset=data())
    with pytest.warns(RuntimeWarning, match="no ProximalStep shrinks the gates"):
        plain.train()
    dense = Trainer(model_of(threshold=0.0), arguments(tmp_path, max_steps=2), train_dataset=data())
    dense.train()  # nothing was to be shrunk
