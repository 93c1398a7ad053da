r"""Second moments of activations, streamed over tokens, by groups of texts, so that these can be resampled."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.errors import NonFiniteError, ShapeMismatchError

__all__ = ["SecondMoment", "groups_of_texts"]

_ROWS = 4096  # widened to float64 at a time


@dataclass(eq=False)
class SecondMoment:
    r"""Sums of :math:`h h^\top` and :math:`h` over the tokens of each group of texts, in float64.

    Memory is ``8 groups width (width + 1)`` bytes and 4,096 rows in float64, however many tokens pass.

    Parameters
    ----------
    outer
        Shape (groups, width, width).
    sums
        Shape (groups, width).
    tokens
        Tokens of each group.

    Examples
    --------
    >>> moment = SecondMoment.empty(2, groups=1)
    >>> moment.add(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), [0, 0])
    >>> moment.total().tolist()
    [[10.0, 2.0], [2.0, 4.0]]
    """

    outer: Tensor
    sums: Tensor
    tokens: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, width: int, *, groups: int, device: str | torch.device = "cpu") -> "SecondMoment":
        """No tokens yet.

        Parameters
        ----------
        width
            Of an activation.
        groups
            Of texts.
        device
            Where sums are.
        """
        kind = {"dtype": torch.float64, "device": device}
        outer, sums = torch.zeros(groups, width, width, **kind), torch.zeros(groups, width, **kind)  # type: ignore[call-overload]
        return cls(outer, sums, np.zeros(groups, np.int64))

    @property
    def width(self) -> int:
        """Of an activation."""
        return int(self.outer.shape[1])

    @property
    def count(self) -> int:
        """Tokens so far."""
        return int(self.tokens.sum())

    def add(self, rows: Tensor, groups: Sequence[int] | npt.NDArray[np.int64]) -> None:
        """Take in tokens.

        Parameters
        ----------
        rows
            Shape (tokens, width).
        groups
            That of each token.

        Raises
        ------
        ShapeMismatchError
            If these do not fit.
        NonFiniteError
            If an activation is not finite.
        """
        of_row = np.asarray(groups, np.int64)
        if rows.ndim != 2 or rows.shape[1] != self.width or len(of_row) != len(rows):
            raise ShapeMismatchError(
                f"activations of shape {tuple(rows.shape)} with {len(of_row)} groups; expected (tokens, {self.width})"
                " and a group for each token."
            )
        for group in np.unique(of_row):
            own = rows[torch.as_tensor(np.flatnonzero(of_row == group), device=rows.device)]
            for part in own.split(_ROWS):
                wide = part.to(self.outer.device, torch.float64)
                self.outer[group].addmm_(wide.T, wide)
                self.sums[group] += wide.sum(0)
            self.tokens[group] += len(own)
        if not bool(torch.isfinite(self.sums).all()):
            raise NonFiniteError(
                "an activation is NaN or infinite; did the training diverge? Look at the weights, or load the models"
                " with dtype float32."
            )

    def total(self, weights: Sequence[float] | None = None, *, centered: bool = False) -> Tensor:
        r"""Sum of :math:`h h^\top`, or of :math:`(h - \bar h)(h - \bar h)^\top`, shape (width, width).

        Parameters
        ----------
        weights
            How often each group counts; None for once.
        centered
            Whether the mean over these tokens is taken off.
        """
        factors = [1.0] * len(self.tokens) if weights is None else list(weights)
        of_group = torch.tensor(factors, dtype=torch.float64, device=self.outer.device)
        found = torch.tensordot(of_group, self.outer, dims=1)
        if centered:
            mean, count = of_group @ self.sums, float(np.dot(factors, self.tokens))
            found = found - torch.outer(mean, mean) / max(count, 1.0)
        symmetric: Tensor = (found + found.T) / 2
        return symmetric

    def projected(self, basis: Tensor) -> "SecondMoment":
        """The same of activations in another basis.

        Parameters
        ----------
        basis
            Shape (width, other width): what multiplies an activation from the right.
        """
        return SecondMoment(basis.T @ self.outer @ basis, self.sums @ basis, self.tokens)

    def mean_share(self) -> float:
        r"""Of the mean in the energy, :math:`\lVert\bar h\rVert^2 / \overline{\lVert h\rVert^2}`; NaN of zeros."""
        energy = float(torch.diagonal(self.outer, dim1=1, dim2=2).sum())
        mean = self.sums.sum(0)
        return float(mean @ mean) / self.count / energy if energy > 0 else float("nan")


def groups_of_texts(texts: int, *, most: int = 24, seed: int = 0) -> npt.NDArray[np.int64]:
    """A group for each text, of as equal numbers of texts as there can be, dealt at random.

    Parameters
    ----------
    texts
        How many.
    most
        Groups; with fewer texts each is one.
    seed
        Of the deal: the order of a file may be one of sources.

    Examples
    --------
    >>> groups_of_texts(5, most=2).tolist()
    [0, 0, 1, 0, 1]
    """
    dealt = np.arange(texts, dtype=np.int64) % max(1, min(texts, most))
    return np.random.default_rng(seed).permutation(dealt)
