"""Where zero directions are not left out: where there are too few, and where it is refused."""

import pytest
import torch
from peft import get_peft_model
from torch import Tensor, nn

from rank_lab.errors import RankLabError
from rank_lab.sora import SoraConfig, gate_parameters, leave_out_zeros
from tests.sora.adapters import adapted
from tests.sora.live_models import OPTION, sizes


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
