r"""Lion, the optimizer whose steps are signs, where bitsandbytes, of which transformers takes it, is not installed.

With gradient :math:`g_t`, weight :math:`w` and decoupled weight decay :math:`\lambda`,

.. math:: c_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \qquad
          w \leftarrow (1 - \eta \lambda)\, w - \eta \operatorname{sign}(c_t), \qquad
          m_t = \beta_2 m_{t-1} + (1 - \beta_2) g_t,

so that every entry of a matrix moves by the same amount, whatever its gradient [1]_. "LoRA Learns Less and Forgets
Less" (https://arxiv.org/abs/2405.09673) trained with it.

References
----------
.. [1] Chen et al. (2023), Symbolic discovery of optimization algorithms, https://arxiv.org/abs/2302.06675
"""

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["Lion", "is_own_lion"]

_NAME = "lion_32bit"
"""transformers' name for it, with a momentum in float32; the 8-bit and paged forms are of bitsandbytes alone."""


def is_own_lion(optimizer: str) -> bool:
    """Whether an optimizer of transformers' name is made here, and not by bitsandbytes.

    Parameters
    ----------
    optimizer
        As ``TrainingArguments(optim=...)`` names it.

    Examples
    --------
    >>> is_own_lion("lion_8bit"), is_own_lion("adamw_torch")
    (False, False)
    """
    return optimizer == _NAME and importlib.util.find_spec("bitsandbytes") is None


class Lion(Optimizer):
    """Lion, with one momentum a parameter.

    Parameters
    ----------
    params
        Tensors, or groups of them.
    lr
        Of the step; a third to a tenth of Adam's.
    betas
        Of the step's direction, and of the momentum.
    weight_decay
        Decoupled.

    Raises
    ------
    ValueError
        If a setting is out of range.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.tensor([1.0, 1.0, 1.0]))
    >>> optimizer = Lion([weight], lr=0.25)
    >>> weight.grad = torch.tensor([1e-6, -1e6, 0.0])
    >>> _ = optimizer.step()
    >>> weight.tolist()
    [0.75, 1.25, 1.0]
    """

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ) -> None:
        if not lr >= 0 or not weight_decay >= 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(
                f"lr {lr}, betas {betas}, weight_decay {weight_decay}: expected 0 or more, and betas below 1"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step.

        Parameters
        ----------
        closure
            Computes the loss again, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, weight.grad, group)
        return loss

    def _move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        momentum, (first, second) = state["momentum"], group["betas"]
        weight.mul_(1.0 - group["lr"] * group["weight_decay"])
        weight.add_(momentum.lerp(gradient, 1.0 - first).sign_(), alpha=-group["lr"])
        momentum.lerp_(gradient, 1.0 - second)
