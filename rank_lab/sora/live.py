"""Directions that the forward pass may leave out: those whose gates were zero when last looked at, and still are.

Looking asks the device for values, which would stop it at every step; so it is done at stated moments, and what was
seen holds for as long as nothing but :class:`rank_lab.sora.ProximalStep` with ``revive=False`` changes the gate.
A step of any optimizer ends it, until a proximal step vouches for it; any other change in place is told by torch's
own count of changes, another memory by its address. All directions are then computed until the next look. On a CPU,
where it costs nothing, the values themselves are checked as well.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakTensorKeyDictionary

from rank_lab.errors import RankLabError

__all__ = ["after_load", "carry", "leave_out_zeros", "live_directions", "seen_and_unchanged"]


@dataclass(frozen=True)
class _Look:
    """What was seen of one gate.

    Parameters
    ----------
    live, rest
        Positions of the gates that are not zero, and of the others.
    changes
        How often torch had seen the gate change.
    memory
        Kept, so that its address stays its own.
    stepped
        Whether an optimizer stepped the gate, and no proximal step has vouched for it yet.
    """

    live: Tensor
    rest: Tensor
    changes: int
    memory: torch.UntypedStorage
    stepped: bool = False

    def holds(self, gate: Tensor) -> bool:
        """Whether the gate is as it was, as far as torch counts changes: steps of fused optimizers it does not."""
        same = gate.untyped_storage().data_ptr() == self.memory.data_ptr() and gate.device == self.live.device
        return same and gate._version == self.changes


# Taking rows and columns out costs a fixed time, and products of so thin factors hardly depend on the rank. On a CPU
# with 256 to 1024 tokens fewer zero directions than this cost more to leave out than to compute, if two or more stay.
_WORTH = 16

_LOOKS: Any = WeakTensorKeyDictionary()  # gate -> _Look; not with the gate, so that copies start afresh


def leave_out_zeros(model: nn.Module) -> int:
    """Look at all gates of adapters with ``leave_out_zeros``; from now on, directions whose gate is zero are left out.

    Modules without any other are passed by. Of a module with two or more open
    gates fewer than 16 are not left out: that would take longer than computing them.

    The Trainer's callback looks at the start of training and with every log and
    save, loading a PEFT model looks too. Call it in a loop of your own now and
    then, and after moving a model to another device or type.

    Parameters
    ----------
    model
        With a SoRA adapter.

    Returns
    -------
    int
        How many directions are left out.

    Raises
    ------
    RankLabError
        If no adapter has the option, gates are spread over processes, or one was
        changed by a way that torch does not see (``gate.data[...] = ...``) while it was left out.

    Examples
    --------
    >>> from peft import get_peft_model
    >>> from rank_lab.sora import SoraConfig
    >>> config = SoraConfig(r=2, target_modules=["0"], revive=False, leave_out_zeros=True)
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), config)
    >>> with torch.no_grad():
    ...     _ = model.base_model.model[0].lora_gate["default"][1].zero_()
    >>> leave_out_zeros(model)
    1
    """
    gates = [
        (f"{name}.lora_gate.{adapter}", gate)
        for name, module in model.named_modules()
        for adapter, gate in _own_gates(module)
    ]
    if not gates:
        raise RankLabError(
            "leave_out_zeros: no adapter of the model has the option; make it with"
            " SoraConfig(revive=False, leave_out_zeros=True)."
        )
    return sum(_look(name, gate) for name, gate in gates)


def live_directions(gate: Tensor) -> Tensor | None:
    """Positions of the gates to compute, which hold all that are not zero; None for all.

    Examples
    --------
    >>> live_directions(torch.zeros(3)) is None  # never looked at
    True
    """
    look = None if torch.compiler.is_compiling() else _LOOKS.get(gate)
    if look is None or look.stepped or not look.holds(gate) or not len(look.rest):
        return None
    if gate.device.type == "cpu" and _opened(gate, look.rest):
        return None
    live: Tensor = look.live
    return live


def seen_and_unchanged(gates: Iterable[Tensor]) -> list[Tensor]:
    """Those of the gates whose last look holds up to the step that is being taken."""
    return [gate for gate in gates if (look := _LOOKS.get(gate)) is not None and look.holds(gate)]


def carry(gates: Iterable[Tensor]) -> None:
    """Let the looks at these gates hold on: they changed, but none that was zero."""
    for gate in gates:
        _LOOKS[gate] = replace(_LOOKS[gate], changes=gate._version, stepped=False)


def _before_any_step(optimizer: Optimizer, *_: Any) -> None:
    """What was seen of gates that this optimizer steps holds no longer, unless a proximal step carries it over."""
    stepped = {id(value) for group in optimizer.param_groups for value in group["params"]}
    for gate, look in list(_LOOKS.items()):
        if id(gate) in stepped and look.stepped:
            del _LOOKS[gate]
        elif id(gate) in stepped:
            _LOOKS[gate] = replace(look, stepped=True)


@cache
def _watch_optimizers() -> Any:
    return register_optimizer_step_pre_hook(_before_any_step)


def after_load(module: nn.Module, _: Any) -> None:
    """Look afresh; a hook for after a module has loaded a state."""
    for adapter, gate in _own_gates(module):
        if not (gate.is_meta or gate.is_inference() or hasattr(gate, "full_tensor")):
            _LOOKS.pop(gate, None)
            _look(adapter, gate)


def _own_gates(module: nn.Module) -> list[tuple[str, Tensor]]:
    gates: Any = getattr(module, "lora_gate", None)
    if not isinstance(gates, nn.ParameterDict):
        return []
    layer: Any = module
    return [(name, gate) for name, gate in gates.items() if layer.lora_variant[name].config.leave_out_zeros]


@torch.no_grad()
def _look(name: str, gate: Tensor) -> int:
    if hasattr(gate, "full_tensor"):
        raise RankLabError(
            f"{name}: is spread over processes (FSDP2), where zero directions cannot be left out; train with"
            " leave_out_zeros=False."
        )
    before = _LOOKS.get(gate)
    if before is not None and not before.stepped and before.holds(gate) and _opened(gate, before.rest):
        raise RankLabError(
            f"{name}: gates that were zero and left out were set by a way that torch does not see, such as"
            " gate.data[...] = value; write 'with torch.no_grad(): gate[...] = value'."
        )
    _watch_optimizers()
    zero = gate == 0
    live, rest = (~zero).nonzero().flatten(), zero.nonzero().flatten()
    if len(live) > 1 and len(rest) < _WORTH:
        live, rest = torch.arange(len(gate), device=gate.device), rest[:0]
    _LOOKS[gate] = _Look(live, rest, gate._version, gate.untyped_storage())
    return len(rest)


def _opened(gate: Tensor, rest: Tensor) -> bool:
    return bool(gate.detach().index_select(0, rest).any())
