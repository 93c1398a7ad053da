"""Small real models and adapters whose change is known, and a row of what tools say of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from analyses.rivals_readings import NOT_ASKED, Answer

__all__ = ["QUERY", "VALUE", "Adapted", "Case", "Row", "adapted", "in_float64", "llama", "move"]

QUERY, VALUE = (f"model.layers.0.self_attn.{name}_proj" for name in "qv")
"""The two matrices that are adapted and asked about."""

_SEED = 20261126


@dataclass(frozen=True)
class Row:
    """One quantity of one case.

    Parameters
    ----------
    case, quantity
        What was made, and what is asked of it.
    truth
        The number that was planted.
    rank_lab, weightwatcher, peft, numpy
        Answers.
    tolerance
        How far from the truth an answer may lie, for its rounding.
    cause
        Why those that are wrong are wrong.
    note
        What else is to be read beside it.
    """

    case: str
    quantity: str
    truth: float
    rank_lab: Answer
    weightwatcher: Answer = NOT_ASKED
    peft: Answer = NOT_ASKED
    numpy: Answer = NOT_ASKED
    tolerance: float = 0.0
    cause: str = ""
    note: str = ""

    def wrong(self, answer: Answer) -> bool:
        """Whether an answer is a number and not the truth."""
        return not isinstance(answer, str) and not abs(answer - self.truth) <= self.tolerance


Case: TypeAlias = Callable[[Path, int], list[Row]]
"""Takes an empty folder and the width of the models, gives rows."""


@dataclass(frozen=True)
class Adapted:
    """An adapted model, and its files: ``base``, ``adapter``, and ``initial`` from before it was moved.

    Parameters
    ----------
    model
        PEFT's.
    folder
        Where its files lie.
    before
        The weights that the model had before PEFT, in float64.
    scaling
        Of B A, by the formula of the method.
    """

    model: Any
    folder: Path
    before: Mapping[str, Tensor]
    scaling: float

    @torch.no_grad()
    def change(self, module: str) -> Tensor:
        """What the adapter makes of the weight, less what that was, by the formulas of LoRA and DoRA in float64."""
        layer = self.model.get_submodule(f"base_model.model.{module}")
        B, A = (getattr(layer, f"lora_{name}")["default"].weight.double() for name in "BA")
        original = self.before[f"{module}.weight"]
        product: Tensor = self.scaling * B @ A
        if "default" in layer.lora_magnitude_vector:
            magnitude = layer.lora_magnitude_vector["default"].weight.double()
            rows = original + product
            scaled: Tensor = magnitude[:, None] * rows / rows.norm(dim=1, keepdim=True)
            return scaled - original
        residual: Tensor = layer.get_base_layer().weight.double()  # the original, but for starts that take a part out
        return residual - original + product


def llama(width: int, *, layers: int = 2) -> Any:
    """A random model of 60 words."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(_SEED)
    config = LlamaConfig(
        hidden_size=width, intermediate_size=3 * width // 2, num_hidden_layers=layers, num_attention_heads=4,
        vocab_size=60, bos_token_id=0, eos_token_id=0, pad_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


@torch.no_grad()
def move(model: Any, by: float) -> None:
    """Add noise of this size to everything that is trained."""
    generator = torch.Generator().manual_seed(_SEED + 1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(by * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))


def in_float64(model: Any) -> dict[str, Tensor]:
    """A copy of its weights."""
    return {name: value.detach().double().clone() for name, value in model.state_dict().items()}


def adapted(
    folder: Path, model: Any, *, scaling: float = 4.0, by: float = 0.02, options: Mapping[str, Any] | None = None
) -> Adapted:
    """Put LoRA on a model with PEFT, move it, and save everything.

    Parameters
    ----------
    folder
        For the files.
    model
        What to adapt.
    scaling
        What the formula of the method says of ``options``.
    by
        How far to move what is trained.
    options
        Of PEFT's ``LoraConfig``, over rank 4 and alpha 16 on queries and values.
    """
    from peft import LoraConfig, get_peft_model

    config: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]} | dict(options or {})
    model.save_pretrained(folder / "base")
    before = in_float64(model)
    made = get_peft_model(model, LoraConfig(**config), autocast_adapter_dtype=False)
    made.save_pretrained(folder / "initial")
    move(made, by)
    made.save_pretrained(folder / "adapter")
    return Adapted(made, folder, before, scaling)
