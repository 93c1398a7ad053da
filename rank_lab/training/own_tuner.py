"""What rank_lab's own methods share as methods of PEFT: a layer around one of the model's, with a part per adapter."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, NoReturn

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from rank_lab.errors import UnsupportedUpdateError

__all__ = ["OwnConfig", "OwnLayer", "OwnModel"]


@dataclass
class OwnConfig(PeftConfig):  # type: ignore[misc]
    """What all own methods' configs say.

    Parameters
    ----------
    target_modules
        Modules of the model that get a part, by their names.
    exclude_modules
        Exceptions from these.
    modules_to_save
        Modules that are trained and saved whole beside, such as a new head.
    """

    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules that get a part."})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Modules that get none."})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Modules trained and saved whole."})

    def __post_init__(self) -> None:
        """Keep names as a set, as PEFT compares them."""
        super().__post_init__()
        for name in ("target_modules", "exclude_modules"):
            given = getattr(self, name)
            setattr(self, name, set(given) if isinstance(given, list) else given)


class OwnLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """One of the model's modules and, beside it, the parts of each adapter.

    Parameters
    ----------
    base_layer
        The module.
    """

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self._active_adapter: Any = []
        self.merged_adapters: list[str] = []

    @property
    def wrapped(self) -> Any:
        """The module, whatever is wrapped around it."""
        layer: Any = self
        return layer.get_base_layer()

    @abstractmethod
    def add_parts(self, adapter_name: str, config: Any) -> None:
        """Put a new adapter's parts in their dictionaries."""

    def update_layer(self, adapter_name: str, config: Any) -> None:
        """Add an adapter; it becomes active if none was."""
        self.add_parts(adapter_name, config)
        layer: Any = self
        layer._move_adapter_to_device_of_base_layer(adapter_name)
        layer.set_adapter(layer.active_adapters or [adapter_name], inference_mode=config.inference_mode)

    def in_use(self) -> list[str]:
        """Adapters that act in a forward pass now."""
        layer: Any = self
        if layer.disable_adapters or layer.merged:
            return []
        parts = getattr(layer, layer.adapter_layer_names[0])
        return [name for name in layer.active_adapters if name in parts]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:  # noqa: ARG002
        """Refused: there is no weight to merge the method into.

        Raises
        ------
        UnsupportedUpdateError
            Always.
        """
        raise UnsupportedUpdateError(
            f"merge: {type(self).__name__} changes activations, which no weight of the model can; use the adapter as it"
            " is, or unload it."
        )

    def unmerge(self) -> None:
        """Nothing: it was not merged."""


class OwnModel(BaseTuner):  # type: ignore[misc]
    """A model whose target modules are wrapped by layers of ``tuner_layer_cls``; made by ``get_peft_model``."""

    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012
    tuner_layer_cls: Any = OwnLayer

    def _new_layer(self, target: nn.Module, name: str) -> OwnLayer:
        """A layer around a module, without adapters."""
        _ = name
        layer: OwnLayer = self.tuner_layer_cls(target)
        return layer

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, OwnLayer):
            target.update_layer(adapter_name, peft_config)
            return
        layer = self._new_layer(target, current_key)
        layer.update_layer(adapter_name, peft_config)
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(self, parent: nn.Module, child_name: str, new_module: nn.Module, _child: nn.Module) -> None:
        setattr(parent, child_name, new_module)  # PEFT's own also gives a module without a wrapper the other's weight

    def add_weighted_adapter(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a sum of such adapters is not an adapter.

        Raises
        ------
        UnsupportedUpdateError
            Always.
        """
        raise UnsupportedUpdateError(f"add_weighted_adapter: {type(self).__name__} has no sum of adapters.")
