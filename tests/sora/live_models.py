"""Models with zero directions, with and without the option that leaves them out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rank_lab.sora import gate_parameters, leave_out_zeros, live
from tests.sora.adapters import adapted, as_trained, patterns

Model = Any

OPTION = {"revive": False, "leave_out_zeros": True}
SHUT = ["layers.0.self_attn.v_proj", "h.0.mlp.c_proj", "layer.0.attention"]


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


def by_hand(model: Model) -> None:
    with torch.no_grad():
        for gate in gate_parameters(model).values():
            gate.fill_(0.5)
