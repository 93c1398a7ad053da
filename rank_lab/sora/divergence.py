"""The first loss of a training that is not finite, noted without waiting for the device at each step."""

import torch
from torch import Tensor

__all__ = ["Divergence"]


class Divergence:
    """Remembers the first loss that is not finite.

    Examples
    --------
    >>> seen = Divergence()
    >>> seen.note(3, torch.tensor(2.5)), seen.first
    (True, None)
    >>> seen.note(4, torch.tensor(float("inf"))), seen.first
    (True, (4, inf))
    """

    def __init__(self) -> None:
        self._first: Tensor | None = None  # step and loss; step -1 while there is none

    def note(self, step: int, loss: Tensor) -> bool:
        """Take a loss in, and say whether asking for :attr:`first` waits for nothing: it does for a GPU.

        Parameters
        ----------
        step, loss
            Of one batch; the loss is a scalar.
        """
        value = loss.detach().float()
        here, none = (torch.stack([torch.full_like(value, at), value]) for at in (step, -1))
        before = none if self._first is None else self._first
        self._first = torch.where((before[0] >= 0) | torch.isfinite(value), before, here)
        return _is_read_at_once(loss)

    @property
    def first(self) -> tuple[int, float] | None:
        """Step and value of the first loss that was not finite."""
        if self._first is None:
            return None
        step, value = self._first.tolist()
        return (int(step), value) if step >= 0 else None


def _is_read_at_once(loss: Tensor) -> bool:
    return loss.device.type == "cpu"
