r"""Bottleneck adapters as a method of PEFT: in series with a sublayer (Houlsby et al., 1902.00751), or parallel.

In series, after the sublayer's output projection gave :math:`h` and before it is added to the residual:
:math:`h + s\,W_{up}\,f(W_{down} h + b_{down}) + s\,b_{up}`. Parallel, as in He et al. (2110.04366): the same of
the sublayer's input :math:`x` (in models that normalise first, the normalised one) is added to :math:`h`. What
LLM-Adapters (2304.01933) call parallel stands beside single linear layers: of each one's input, added to its output.

Saved are ``adapter_config.json`` (``peft_type`` ``BOTTLENECK``) and ``adapter_model.safetensors`` with four tensors
for each MODULE (a sublayer's output projection, or a linear layer), d the width of its output, e of what the adapter
reads (beside a linear layer its input's, else d) and k the bottleneck's:
``base_model.model.MODULE.bottleneck_down.weight`` (k, e) and ``.bias`` (k),
``base_model.model.MODULE.bottleneck_up.weight`` (d, k) and ``.bias`` (d).
"""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from rank_lab.errors import RankLabError
from rank_lab.peft_types import peft_type, register
from rank_lab.training.heads import new_heads, task_type
from rank_lab.training.method import MethodChoices
from rank_lab.training.own_tuner import OwnConfig, OwnLayer, OwnModel
from rank_lab.training.sublayers import Passage, check_width, input_width_of, output_projections, tap, untap, width_of
from rank_lab.training.targets import adapt_exactly, chosen_targets

__all__ = ["BottleneckConfig", "BottleneckModel", "adapt_beside_linear", "adapt_parallel", "adapt_series"]

_START = 0.02  # standard deviation of the down projection's weights at the start, as transformers' models start


@dataclass
class BottleneckConfig(OwnConfig):
    """What ``get_peft_model`` needs to make bottleneck adapters.

    Parameters
    ----------
    size
        Width of the bottleneck.
    parallel
        Whether the adapter reads an input instead of the output.
    each_linear
        Of a parallel adapter: whether that is the input of the layer it stands at, not of the sublayer this ends.
    activation
        Non-linearity, by transformers' name for it.
    scaling
        :math:`s`.

    Raises
    ------
    RankLabError
        If a value is none of those.

    Examples
    --------
    >>> config = BottleneckConfig(size=8, target_modules=["o_proj"])
    >>> config.peft_type.value, config.activation
    ('BOTTLENECK', 'gelu')
    """

    size: int = field(default=64, metadata={"help": "Width of the bottleneck."})
    parallel: bool = field(default=False, metadata={"help": "Whether the sublayer's input is read."})
    each_linear: bool = field(default=False, metadata={"help": "Whether the layer's own input is read instead."})
    activation: str = field(default="gelu", metadata={"help": "Non-linearity."})
    scaling: float = field(default=1.0, metadata={"help": "Factor of what is added."})

    def __post_init__(self) -> None:
        """Check all values, and take the method's own type."""
        super().__post_init__()
        self.peft_type = peft_type("BOTTLENECK")
        check_width(self.size, self.activation)
        if self.each_linear and not self.parallel:
            raise RankLabError("each_linear: only a parallel adapter reads a layer's input; set parallel, too.")


class BottleneckLayer(OwnLayer):
    """A linear layer with bottlenecks behind it, beside it, or beside the sublayer that it ends."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bottleneck_down = nn.ModuleDict({})
        self.bottleneck_up = nn.ModuleDict({})
        self.passage = Passage()
        self._configs: dict[str, Any] = {}

    def add_parts(self, adapter_name: str, config: Any) -> None:
        """Two linear maps, the second of them zero."""
        width = width_of(self.wrapped)
        read = input_width_of(self.wrapped) if config.each_linear else width
        down, up = nn.Linear(read, config.size), nn.Linear(config.size, width)
        nn.init.normal_(down.weight, std=_START)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.bottleneck_down[adapter_name], self.bottleneck_up[adapter_name] = down, up
        self._configs[adapter_name] = config

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The projection's output with the adapters' added."""
        result: Tensor = self.base_layer(*args, **kwargs)
        before = self.passage.take()
        for name in self.in_use():
            config = self._configs[name]
            source = self._read(config, args, kwargs, before, result)
            down: Any = self.bottleneck_down[name]
            up: Any = self.bottleneck_up[name]
            inner = ACT2FN[config.activation](down(source.to(down.weight.dtype)))
            result = result + (config.scaling * up(inner)).to(result.dtype)
        return result

    def _read(self, config: Any, args: Any, kwargs: Any, before: Tensor | None, result: Tensor) -> Tensor:
        if not config.parallel:
            return result
        if config.each_linear:
            own: Tensor = args[0] if args else next(iter(kwargs.values()))
            return own
        return self.passage.required(before)


class BottleneckModel(OwnModel):
    """The model that PEFT makes of a base and a :class:`BottleneckConfig`."""

    prefix: str = "bottleneck_"
    tuner_layer_cls = BottleneckLayer

    def _create_and_replace(self, peft_config: Any, *args: Any, **kwargs: Any) -> None:
        super()._create_and_replace(peft_config, *args, **kwargs)
        if peft_config.parallel and not peft_config.each_linear:
            name = kwargs["current_key"]
            tap(self.model, name, self.model.get_submodule(name).passage)

    def _unload_and_optionally_merge(self, *args: Any, **kwargs: Any) -> Any:
        unloaded = super()._unload_and_optionally_merge(*args, **kwargs)
        untap(unloaded)
        return unloaded


def adapt_series(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """Adapters in series: after attention, after the feed-forward, or after both, by ``choices.place``.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    return _adapted(model, choices, kind, parallel=False, activation="gelu")


def adapt_parallel(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """Adapters parallel to attention, to the feed-forward, or to both, by ``choices.place``.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    return _adapted(model, choices, kind, parallel=True, activation="relu")


def adapt_beside_linear(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """Adapters parallel to each linear layer of ``choices.targets``.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    return _adapted(model, choices, kind, parallel=True, activation="relu", each_linear=True)


def _adapted(
    model: Any, choices: MethodChoices, kind: str, *, parallel: bool, activation: str, each_linear: bool = False
) -> nn.Module:
    if choices.bottleneck < 1:
        raise RankLabError(f"bottleneck {choices.bottleneck}: expected 1 or more.")
    targets = chosen_targets(model, choices.targets) if each_linear else output_projections(model, choices.place)
    names = [target.name for target in targets]
    config = BottleneckConfig(
        task_type=task_type(kind),
        target_modules=names,
        modules_to_save=new_heads(model, kind) or None,
        size=choices.bottleneck,
        parallel=parallel,
        each_linear=each_linear,
        activation=activation,
    )
    return adapt_exactly(model, config, names)


register("BOTTLENECK", BottleneckConfig, BottleneckModel, BottleneckModel.prefix)
