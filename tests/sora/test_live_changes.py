"""Zero directions that are left out, and gates that then change in every way: what was seen is never stale."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rank_lab.errors import RankLabError
from rank_lab.sora import ProximalStep, gate_parameters, leave_out_zeros, live, parameter_groups
from tests.sora.adapters import logits, tokens
from tests.sora.live_models import Model, by_hand, pair, sizes

pytestmark = pytest.mark.usefixtures("every_zero_is_left_out")


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
