"""Zero directions that the forward pass leaves out: nothing that is computed with them may change."""

import copy
import gc
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback

from rank_lab import analyze
from rank_lab.errors import RankLabError
from rank_lab.sora import ProximalStep, SoraConfig, fold, gate_parameters, leave_out_zeros, live, parameter_groups
from tests.sora.adapters import KINDS, adapted, as_trained, base_model, logits, patterns, settings, tokens
from tests.sora.test_trainer import trainer_of

Model = Any

OPTION = {"revive": False, "leave_out_zeros": True}
SHUT = ["layers.0.self_attn.v_proj", "h.0.mlp.c_proj", "layer.0.attention"]


@pytest.fixture(autouse=True)
def _even_one_is_worth_it(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "worth" not in request.node.name:
        monkeypatch.setattr(live, "_WORTH", 1)


def pair(kind: str, **options: Any) -> tuple[Model, Model]:
    """The same adapter without the option and with it, of which some modules are shut, looked at."""
    plain, leaving = (
        as_trained(adapted(kind, **patterns(kind), **options, revive=False, leave_out_zeros=on), shut=SHUT)
        for on in (False, True)
    )
    assert leave_out_zeros(leaving) > 0
    return plain, leaving


def sizes(model: Model, run: Callable[[], Any]) -> list[int]:
    """How many directions each gated layer computes."""
    seen: list[int] = []
    found = live.live_directions

    def spied(gate: Tensor) -> Tensor | None:
        at = found(gate)
        seen.append(len(gate) if at is None else len(at))
        return at

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rank_lab.sora.variant.live_directions", spied)
        run()
    return seen


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


def test_few_directions_are_not_worth_it() -> None:
    model = get_peft_model(nn.Sequential(nn.Linear(9, 9)), SoraConfig(r=20, target_modules=["0"], **OPTION))
    (gate,) = gate_parameters(model).values()
    x = torch.ones(3, 9)
    for zeros, left_out in ((0, 0), (1, 0), (15, 0), (16, 16), (18, 18), (19, 19), (20, 20)):
        with torch.no_grad():
            gate.fill_(1.0)[:zeros] = 0.0
        assert leave_out_zeros(model) == left_out
        assert sizes(model, lambda: model(x)) == [20 - left_out]
    small = get_peft_model(nn.Sequential(nn.Linear(9, 9)), SoraConfig(r=3, target_modules=["0"], **OPTION))
    (gate,) = gate_parameters(small).values()
    for zeros, left_out in ((1, 0), (2, 2), (3, 3)):
        with torch.no_grad():
            gate.fill_(1.0)[:zeros] = 0.0
        assert leave_out_zeros(small) == left_out


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


def by_hand(model: Model) -> None:
    with torch.no_grad():
        for gate in gate_parameters(model).values():
            gate.fill_(0.5)


def by_state(model: Model) -> None:
    model.load_state_dict({name: torch.full_like(gate, 0.5) for name, gate in gate_parameters(model).items()}, False)


def by_assigned_state(model: Model) -> None:
    state = {name: torch.full_like(gate, 0.5) for name, gate in gate_parameters(model).items()}
    model.load_state_dict(state, strict=False, assign=True)


def by_other_memory(model: Model) -> None:
    for gate in gate_parameters(model).values():
        gate.data = torch.full_like(gate, 0.5)


def by_other_parameter(model: Model) -> None:
    for name, gate in list(gate_parameters(model).items()):
        gates = model.get_submodule(name.rsplit(".", 1)[0])
        gates["default"] = nn.Parameter(torch.full_like(gate, 0.5))


def by_optimizer(model: Model) -> None:
    """An optimizer without a proximal step, which keeps nothing at zero."""
    optimizer = torch.optim.SGD(gate_parameters(model).values(), lr=1.0)
    for gate in gate_parameters(model).values():
        gate.grad = gate.detach() - 0.5
    optimizer.step()


def by_data(model: Model) -> None:
    for gate in gate_parameters(model).values():
        gate.data.fill_(0.5)


def by_fused_optimizer(model: Model) -> None:
    """Torch does not count what a fused optimizer changes."""
    groups = parameter_groups(model)
    for gate in gate_parameters(model).values():
        gate.grad = gate.detach() - 0.5
    optimizer = torch.optim.SGD(groups, lr=1.0, fused=True)
    optimizer.step()


def by_fused_optimizer_then_vouched_for(model: Model) -> None:
    """A proximal step that comes too late must not vouch for what others did."""
    by_fused_optimizer(model)
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.0, fused=True)
    ProximalStep(optimizer, 0.0, revive=False)
    optimizer.step()


CHANGES = [
    by_hand,
    by_state,
    by_assigned_state,
    by_other_memory,
    by_other_parameter,
    by_optimizer,
    by_fused_optimizer,
    by_fused_optimizer_then_vouched_for,
]


@pytest.mark.parametrize("values_are_asked", [True, False], ids=["cpu", "as on an accelerator"])
@pytest.mark.parametrize("change", [*CHANGES, by_data])
def test_what_was_seen_is_never_stale(
    change: Callable[[Model], None], values_are_asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not values_are_asked:
        monkeypatch.setattr(live, "_opened", lambda gate, rest: False)
    plain, leaving = pair("llama")
    change(plain)
    change(leaving)
    assert {gate.tolist()[1] for gate in gate_parameters(leaving).values()} == {0.5}
    if change is by_data and not values_are_asked:
        monkeypatch.undo()  # torch sees nothing of it, so that only the next look can tell
        with pytest.raises(RankLabError, match=r"q_proj.*torch does not see"):
            leave_out_zeros(leaving)
        return
    torch.testing.assert_close(logits(leaving), logits(plain), rtol=1e-6, atol=1e-6)
    leaving.zero_grad()
    leaving(input_ids=tokens()).logits.square().mean().backward()
    assert all(bool((gate.grad != 0).all()) for gate in gate_parameters(leaving).values())


def test_a_proximal_step_that_lets_gates_revive_ends_it() -> None:
    _, model = pair("llama")
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    ProximalStep(optimizer, 0.0)
    for gate in gate_parameters(model).values():
        gate.grad = torch.ones_like(gate)
    optimizer.step()
    assert sizes(model, lambda: logits(model)) == [len(gate) for gate in gate_parameters(model).values()]


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
    assert torch.equal(logits(compiled), logits(plain))
    by_hand(plain)
    by_hand(leaving)
    assert torch.equal(logits(compiled), logits(plain))


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


def test_it_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(RankLabError, match=r"leave_out_zeros=True with revive=True: .* set revive=False"):
        SoraConfig(r=2, target_modules=["q_proj"], leave_out_zeros=True)
    with pytest.raises(RankLabError, match="no adapter of the model has the option"):
        leave_out_zeros(adapted("llama"))

    class Spread(nn.Parameter):
        def full_tensor(self) -> Tensor:
            return self.data

    model = adapted("llama", **OPTION)
    layer = next(layer for layer in model.modules() if hasattr(layer, "lora_gate"))
    layer.lora_gate["default"] = Spread(torch.ones(6))
    with pytest.raises(RankLabError, match=r"lora_gate.default: is spread over processes"):
        leave_out_zeros(model)


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
