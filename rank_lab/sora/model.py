"""The model that PEFT makes of a base and a :class:`rank_lab.sora.SoraConfig`."""

from typing import Any, NoReturn

from peft.tuners.lora import LoraModel
from peft.tuners.lora.layer import Linear, LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from rank_lab.errors import UnsupportedUpdateError
from rank_lab.sora.variant import SoraVariant

__all__ = ["SoraModel"]

_QUANTISED = ("Linear8bitLt", "Linear4bit")  # of bitsandbytes, and PEFT's layers around them


class SoraModel(LoraModel):  # type: ignore[misc]
    """LoRA's model whose layers have a gate; made by ``get_peft_model``, not by hand."""

    prefix: str = "lora_"

    def _create_and_replace(
        self,
        lora_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        if kwargs.get("parameter_name") is not None or not _is_linear(target):
            _refuse(current_key, target)
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **kwargs)
        module = getattr(parent, target_name)
        if type(module) is not Linear and not _is_quantised(module):
            _refuse(current_key, module)
        module.lora_variant[adapter_name] = SoraVariant(lora_config)
        SoraVariant.init(module, adapter_name, lora_config)
        module.supports_lora_conversion = _never  # peft 0.20 does not ask the variant, and would leave out the gates

    def add_weighted_adapter(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: PEFT's sum of adapters would leave out the gates.

        Raises
        ------
        UnsupportedUpdateError
            Always.
        """
        raise UnsupportedUpdateError(
            "add_weighted_adapter: PEFT's sum of adapters leaves out SoRA's gates; fold each adapter to plain LoRA"
            " (rank-lab fold) and add those."
        )


def _never(_adapter_name: str = "default") -> bool:
    return False


def _is_linear(target: nn.Module) -> bool:
    base = target.get_base_layer() if isinstance(target, LoraLayer) else target
    return isinstance(base, nn.Linear | Conv1D) or _is_quantised(base)


def _is_quantised(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__name__ in _QUANTISED and kind.__module__.startswith(("bitsandbytes.", "peft.tuners.lora.bnb"))


def _refuse(name: str, module: nn.Module) -> NoReturn:
    raise UnsupportedUpdateError(
        f"{name}: a {type(module).__name__} cannot be gated; SoRA adapts nn.Linear, Conv1D and the linear layers of"
        " bitsandbytes: name such in target_modules, or leave this one out by exclude_modules."
    )
