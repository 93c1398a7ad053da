r"""Compacter (2106.04647) as a method of PEFT: adapters in series whose linear maps are sums of Kronecker products.

Where :mod:`rank_lab.training.bottleneck` has a matrix of its own, Compacter has
:math:`W = \sum_{i=1}^{n} A_i \otimes (s_i t_i)`. The :math:`A_i` are shared by both maps of all adapters.

Saved are ``adapter_config.json`` (``peft_type`` ``COMPACTER``) and ``adapter_model.safetensors``. MODULE is a
sublayer's output projection, d its width, k the bottleneck's, n the number of products and r the rank of their second
factors: ``base_model.model.MODULE.compacter_rule`` (n, n, n), the same in every module;
``base_model.model.MODULE.compacter_down.left`` (n, k/n, r), ``.right`` (n, r, d/n) and ``.bias`` (k);
``base_model.model.MODULE.compacter_up.left`` (n, d/n, r), ``.right`` (n, r, k/n) and ``.bias`` (d).
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.activations import ACT2FN

from rank_lab.errors import RankLabError
from rank_lab.peft_types import peft_type, register
from rank_lab.training.heads import new_heads, task_type
from rank_lab.training.method import MethodChoices
from rank_lab.training.own_tuner import OwnConfig, OwnLayer, OwnModel
from rank_lab.training.sublayers import check_width, output_projections, width_of
from rank_lab.training.targets import adapt_exactly

__all__ = ["CompacterConfig", "CompacterModel", "adapt_compacter", "kronecker_sum"]


@dataclass
class CompacterConfig(OwnConfig):
    """What ``get_peft_model`` needs to make a Compacter.

    Parameters
    ----------
    size
        Width of the bottleneck.
    products
        :math:`n`, which must divide the bottleneck's width and the model's.
    factor_rank
        Rank of the products' second factors.
    activation
        Non-linearity, by transformers' name for it.

    Raises
    ------
    RankLabError
        If a value is none of those.

    Examples
    --------
    >>> CompacterConfig(size=8, target_modules=["o_proj"]).products
    4
    """

    size: int = field(default=64, metadata={"help": "Width of the bottleneck."})
    products: int = field(default=4, metadata={"help": "Number of Kronecker products in a sum."})
    factor_rank: int = field(default=1, metadata={"help": "Rank of their second factors."})
    activation: str = field(default="gelu", metadata={"help": "Non-linearity."})

    def __post_init__(self) -> None:
        """Check all values, and take the method's own type."""
        super().__post_init__()
        self.peft_type = peft_type("COMPACTER")
        check_width(self.size, self.activation)
        for name in ("products", "factor_rank"):
            if getattr(self, name) < 1:
                raise RankLabError(f"{name} {getattr(self, name)}: expected 1 or more.")
        _check_divides(self.products, self.size, "bottleneck")


class _Factors(nn.Module):
    """One map's own part."""

    def __init__(self, out_features: int, in_features: int, config: Any, *, zero: bool) -> None:
        super().__init__()
        n, r = config.products, config.factor_rank
        self.left = nn.Parameter(torch.zeros(n, out_features // n, r))
        self.right = nn.Parameter(torch.empty(n, r, in_features // n))
        self.bias = nn.Parameter(torch.zeros(out_features))
        _xavier(self.right)
        if not zero:
            _xavier(self.left)


class CompacterLayer(OwnLayer):
    """A sublayer's output projection, with Compacters behind it.

    Parameters
    ----------
    base_layer
        The projection.
    rule
        Of each adapter its :math:`A_i`, shared by all layers.
    """

    adapter_layer_names = ("compacter_down", "compacter_up", "compacter_rule")

    def __init__(self, base_layer: nn.Module, rule: nn.ParameterDict) -> None:
        super().__init__(base_layer)
        self.compacter_down = nn.ModuleDict({})
        self.compacter_up = nn.ModuleDict({})
        self.compacter_rule = rule
        self._configs: dict[str, Any] = {}

    def add_parts(self, adapter_name: str, config: Any) -> None:
        """Both maps' own factors, and the shared ones where this is the adapter's first layer."""
        width = width_of(self.wrapped)
        _check_divides(config.products, width, "model")
        self.compacter_down[adapter_name] = _Factors(config.size, width, config, zero=False)
        self.compacter_up[adapter_name] = _Factors(width, config.size, config, zero=True)
        self._configs[adapter_name] = config
        if adapter_name not in self.compacter_rule:
            n = config.products
            self.compacter_rule[adapter_name] = nn.Parameter(_xavier(torch.empty(n, n, n)))

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The projection's output with the adapters' added."""
        result: Tensor = self.base_layer(*args, **kwargs)
        for name in self.in_use():
            rule: Tensor = self.compacter_rule[name]
            down: Any = self.compacter_down[name]
            up: Any = self.compacter_up[name]
            inner = linear(result.to(rule.dtype), kronecker_sum(rule, down.left @ down.right), down.bias)
            inner = ACT2FN[self._configs[name].activation](inner)
            result = result + linear(inner, kronecker_sum(rule, up.left @ up.right), up.bias).to(result.dtype)
        return result


class CompacterModel(OwnModel):
    """The model that PEFT makes of a base and a :class:`CompacterConfig`."""

    prefix: str = "compacter_"
    tuner_layer_cls = CompacterLayer

    def _new_layer(self, target: nn.Module, name: str) -> OwnLayer:
        _ = name
        there = [module for module in self.model.modules() if isinstance(module, CompacterLayer)]
        return CompacterLayer(target, there[0].compacter_rule if there else nn.ParameterDict({}))


def kronecker_sum(first: Tensor, second: Tensor) -> Tensor:
    r"""Sum of Kronecker products, :math:`\sum_i A_i \otimes B_i`.

    Parameters
    ----------
    first
        ``(n, a, b)``.
    second
        ``(n, c, d)``.

    Returns
    -------
    torch.Tensor
        ``(a c, b d)``.

    Examples
    --------
    >>> kronecker_sum(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[1.0], [10.0]]]))
    tensor([[ 1.,  2.],
            [10., 20.]])
    """
    rows, columns = first.shape[1] * second.shape[1], first.shape[2] * second.shape[2]
    return torch.einsum("iab,icd->acbd", first, second).reshape(rows, columns)


def adapt_compacter(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """Compacter after attention, after the feed-forward, or after both, by ``choices.place``.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    names = [target.name for target in output_projections(model, choices.place)]
    config = CompacterConfig(
        task_type=task_type(kind),
        target_modules=names,
        modules_to_save=new_heads(model, kind) or None,
        size=choices.bottleneck,
    )
    return adapt_exactly(model, config, names)


def _xavier(factors: Tensor) -> Tensor:
    """Each product's matrix by itself: of three dimensions torch takes the last for a convolution's kernel."""
    for factor in factors.detach():
        nn.init.xavier_uniform_(factor)
    return factors


def _check_divides(products: int, width: int, whose: str) -> None:
    if width % products:
        raise RankLabError(
            f"Compacter with {products} products: they must divide the {whose}'s width, which is {width}; choose a"
            f" multiple of {products} for the bottleneck, or another method."
        )


register("COMPACTER", CompacterConfig, CompacterModel, CompacterModel.prefix)
