"""Zero directions that the forward pass leaves out: nothing that is computed with them may change."""

import copy
import gc
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from rank_lab import analyze
from rank_lab.sora import ProximalStep, fold, gate_parameters, leave_out_zeros, live, parameter_groups
from tests.sora.adapters import KINDS, adapted, as_trained, base_model, logits, settings, tokens
from tests.sora.live_models import OPTION, SHUT, Model, by_hand, pair, sizes
from tests.sora.test_trainer import trainer_of

pytestmark = pytest.mark.usefixtures("every_zero_is_left_out")


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_and_gradients_are_the_same(kind: str) -> None:
    plain, leaving = pair(kind)
    torch.testing.assert_close(logits(leaving), logits(plain), rtol=1e-6, atol=1e-6)
    computed = sizes(leaving, lambda: logits(leaving))
    nonzero = [int(gate.count_nonzero()) for gate in gate_parameters(leaving).values()]
    assert sorted(computed) == sorted(nonzero)
    assert min(computed) == 0 < max(computed)
    for model in (plain, leaving):
        model(input_ids=tokens()).logits.square().mean().backward()
    gradients = {name: value.grad for name, value in plain.named_parameters() if value.requires_grad}
    for name, value in leaving.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(value.grad, gradients[name], rtol=1e-5, atol=1e-8)
    for name, gate in gate_parameters(leaving).items():
        assert bool((gate.grad[gate == 0] == 0).all()), name


def run_of(model: Model, *, look_every: int = 7, steps: int = 30, **step: Any) -> tuple[list[float], Any]:
    """An own loop with all that could tell a left out direction: decay, moments, clipping, dropout."""
    torch.manual_seed(1)
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.1), lr=0.01, fused=True)
    ProximalStep(optimizer, revive=False, **({"threshold": 1.0} | step))
    losses = []
    for number in range(steps):
        if number % look_every == 0 and model.peft_config["default"].leave_out_zeros:
            leave_out_zeros(model)
        optimizer.zero_grad()
        loss = (model(input_ids=tokens()).logits - 1.0).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_([value for value in model.parameters() if value.requires_grad], 0.1)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, optimizer


MODES: dict[str, dict[str, Any]] = {
    "lr": {},
    "adam": {"mode": "adam", "threshold": 0.02, "prox_start_step": 5},
    "adam by module": {"mode": "adam", "threshold": 0.02, "prox_start_step": 5, "adam_rms": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_training_is_the_same(kind: str, mode: str) -> None:
    """In float64, where only the rounding of sums tells both apart: Adam makes much of it in float32."""
    plain, leaving = (model.double() for model in pair(kind, lora_dropout=0.1))
    before = sum(int(gate.count_nonzero()) for gate in gate_parameters(plain).values())
    expected, first = run_of(plain, **MODES[mode])
    found: list[Any] = []
    computed = sizes(leaving, lambda: found.extend(run_of(leaving, **MODES[mode])))
    losses, second = found
    assert losses == pytest.approx(expected, rel=1e-9)
    after = sum(int(gate.count_nonzero()) for gate in gate_parameters(plain).values())
    assert after < before, "no gate died on the way"
    per_step = len(gate_parameters(leaving))
    assert sum(computed[-per_step:]) < sum(computed[:per_step]) == before, "what died was computed on"
    for (name, value), other in zip(plain.named_parameters(), leaving.parameters(), strict=True):
        torch.testing.assert_close(other, value, rtol=1e-8, atol=1e-9, msg=name)
    for name, gate in gate_parameters(plain).items():
        assert torch.equal(gate == 0, gate_parameters(leaving)[name] == 0)
    for one, two in zip(first.state.values(), second.state.values(), strict=True):
        assert one["step"] == two["step"]
        for moment in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(two[moment], one[moment], rtol=1e-8, atol=1e-12)


def test_a_module_that_is_left_out_decays_on() -> None:
    _, model = pair("llama")
    name = next(name for name in gate_parameters(model) if SHUT[0] in name)
    layer = model.get_submodule(name.split(".lora_gate")[0])
    A, B = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    before = A.detach().clone(), B.detach().clone()
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=0.5), lr=0.1)
    model(input_ids=tokens()).logits.square().mean().backward()
    assert bool((A.grad == 0).all())
    assert bool((B.grad == 0).all())
    optimizer.step()
    for value, old in zip((A, B), before, strict=True):
        torch.testing.assert_close(value.detach(), 0.95 * old)


class Asked(TorchDispatchMode):
    """Notes what would stop a device: reading a value, or counting what is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(function) in {"aten._local_scalar_dense.default", "aten.nonzero.default", "aten.equal.default"}:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_a_step_does_not_ask_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_opened", lambda gate, rest: False)  # asked on a CPU only
    plain, model = pair("llama")
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    step = ProximalStep(optimizer, 1.0, revive=False)
    found = []
    for asked in (plain, model):
        with Asked() as mode:
            asked(input_ids=tokens()).logits.square().mean().backward()
        found.append(mode.found)
    assert found[0] == found[1]
    with Asked() as mode:
        step._before()
        step._after()
    assert mode.found == []
    assert min(sizes(model, lambda: logits(model))) == 0  # and what was seen still holds
    with Asked() as mode:
        leave_out_zeros(model)
    assert "aten.nonzero.default" in mode.found


@pytest.mark.parametrize("kind", KINDS)
def test_under_gradient_checkpointing(kind: str) -> None:
    gradients = []
    for model in pair(kind, lora_dropout=0.1):
        torch.manual_seed(2)
        model.train().enable_input_require_grads()
        base = model.get_base_model()
        getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)()
        model(input_ids=tokens()).logits.square().mean().backward()
        gradients.append([value.grad for value in model.parameters() if value.requires_grad])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-8)


def test_under_autocast_and_in_half_precision() -> None:
    plain, leaving = pair("llama")
    with torch.autocast("cpu", torch.bfloat16):
        one, two = logits(plain), logits(leaving)
    assert one.dtype == two.dtype == torch.bfloat16
    torch.testing.assert_close(two, one, rtol=2e-2, atol=2e-2)
    half = [
        as_trained(
            get_peft_model(base_model("llama").bfloat16(), settings("llama", **options), autocast_adapter_dtype=False)
        )
        for options in ({"revive": False}, OPTION)
    ]
    assert leave_out_zeros(half[1]) > 0
    torch.testing.assert_close(logits(half[1]), logits(half[0]), rtol=2e-2, atol=2e-2)


def test_under_compilation_nothing_is_left_out() -> None:
    plain, leaving = pair("llama")
    compiled = torch.compile(leaving, backend="eager")
    torch.testing.assert_close(logits(compiled), logits(plain))
    by_hand(plain)
    by_hand(leaving)
    torch.testing.assert_close(logits(compiled), logits(plain))


def test_an_adapter_that_transformers_loads(tmp_path: Path) -> None:
    plain, leaving = pair("llama")
    leaving.save_pretrained(tmp_path)
    model = base_model("llama")
    model.load_adapter(tmp_path)
    for looked in (False, True):
        if looked:
            leave_out_zeros(model)
        assert (min(sizes(model, lambda: logits(model))) == 0) is looked
        torch.testing.assert_close(logits(model), logits(plain), rtol=1e-6, atol=1e-6)


def test_all_else_is_unaffected(tmp_path: Path) -> None:
    plain, leaving = pair("llama")
    expected = logits(leaving)
    assert list(leaving.state_dict()) == list(plain.state_dict())
    with leaving.disable_adapter():
        torch.testing.assert_close(logits(leaving), logits(base_model("llama")))
    leaving.add_adapter("other", settings("llama", r=4))
    as_trained(leaving, "other")
    leaving.set_adapter("other")
    assert sizes(leaving, lambda: logits(leaving)) == []  # it has not the option
    leaving.set_adapter("default")
    assert torch.equal(logits(leaving), expected)
    leaving.delete_adapter("other")
    leaving.merge_adapter()
    torch.testing.assert_close(logits(leaving), expected, rtol=1e-4, atol=1e-5)
    leaving.unmerge_adapter()
    leaving.save_pretrained(tmp_path / "sora")
    for options in ({}, {"low_cpu_mem_usage": True}):
        loaded = PeftModel.from_pretrained(base_model("llama"), tmp_path / "sora", **options)
        assert min(sizes(loaded, lambda model=loaded: logits(model))) == 0  # loading looked
        torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-5)
    assert fold(tmp_path / "sora", tmp_path / "plain", model=base_model("llama")).left_out
    assert not analyze(tmp_path / "sora").coverage["failed"].any()


def test_copies_start_afresh_and_nothing_is_kept_alive() -> None:
    _, model = pair("llama")
    expected = logits(model)
    stored = io.BytesIO()
    torch.save(model, stored)
    stored.seek(0)
    for other in (copy.deepcopy(model), torch.load(stored, weights_only=False)):
        assert min(sizes(other, lambda copied=other: logits(copied))) > 0
        torch.testing.assert_close(logits(other), expected, rtol=1e-6, atol=1e-6)
        by_hand(other)
        assert not torch.equal(logits(other), expected)
    gc.collect()
    kept = len(live._LOOKS)
    gone = len(gate_parameters(model))
    del model, other
    gc.collect()
    assert len(live._LOOKS) <= kept - gone


class Counting(TrainerCallback):  # type: ignore[misc]
    def __init__(self, model: Model) -> None:
        self.model, self.computed = model, list[int]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.computed.append(sum(sizes(self.model, lambda: logits(self.model))))
        self.model.train()


def test_the_trainer_looks_at_logs_and_saves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    losses = []
    for on in (False, True):
        model = as_trained(adapted("llama", threshold=2.0, revive=False, leave_out_zeros=on))
        counting = Counting(model)
        often = {"save_strategy": "steps", "save_steps": 9, "logging_steps": 6}
        trainer = trainer_of(tmp_path / str(on), model, learning_rate=0.02, weight_decay=0.1, **often)
        trainer.add_callback(counting)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    computed = counting.computed
    assert computed[0] == 18  # of 36, from the start of training
    assert computed[-1] < computed[0]
    changes = {step for step in range(1, 24) if computed[step] != computed[step - 1]}
    assert changes <= {6, 9, 12, 18}
