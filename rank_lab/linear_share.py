r"""How much of a change a linear map of the input explains, fitted on some texts and measured on others.

Of x, the input, and :math:`\Delta h`, the change, the texts are dealt to two halves. The map of each half,
:math:`D = \arg\min \sum \lVert \Delta h - D x \rVert^2`, is measured on the texts of the other,

.. math:: R^2 = 1 - \sum_{\text{all texts}} \lVert \Delta h - D x \rVert^2 \big/ \sum \lVert \Delta h \rVert^2,

and, with an intercept, against the variance about the other half's mean. Never on its own texts: there it is one as
soon as inputs are as many as tokens. What is measured is a lower bound of what the best map explains, by about
:math:`(1 - R^2)\, d / n` for n tokens in a half; below :data:`TOKENS_PER_INPUT` tokens an input it is refused.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.decomposition import convergence
from rank_lab.uncertainty import Interval, percentile_interval

__all__ = ["TOKENS_PER_INPUT", "HalfMoments", "LinearMaps", "ShareSums"]

TOKENS_PER_INPUT = 2
"""Tokens in each half per input, below which no map is fitted."""

_CUT = 1e-12  # eigenvalues of the inputs' moment, relative to the largest, that are rounding
_ROWS = 4096

Values = npt.NDArray[np.float64]


@dataclass(eq=False)
class HalfMoments:
    r"""What a least-squares map needs to know of each half: sums of :math:`x x^\top` and :math:`x \Delta h^\top`.

    An input stands with a one behind it, for the intercept. Memory is ``16 (in + 1) (in + 1 + out)`` bytes.

    Parameters
    ----------
    inputs
        Shape (2, in + 1, in + 1).
    cross
        Shape (2, in + 1, out).
    """

    inputs: Tensor
    cross: Tensor

    @classmethod
    def empty(cls, in_features: int, out_features: int, device: str | torch.device = "cpu") -> "HalfMoments":
        """No tokens yet."""
        size, kind = in_features + 1, {"dtype": torch.float64, "device": device}
        return cls(torch.zeros(2, size, size, **kind), torch.zeros(2, size, out_features, **kind))  # type: ignore[call-overload]

    def add(self, inputs: Tensor, change: Tensor, halves: npt.NDArray[np.int64]) -> None:
        """Take in tokens.

        Parameters
        ----------
        inputs, change
            Shapes (tokens, in) and (tokens, out).
        halves
            0 or 1 for each.
        """
        for half in (0, 1):
            at = torch.as_tensor(np.flatnonzero(halves == half), device=inputs.device)
            for part in at.split(_ROWS):
                wide, moved = _with_one(inputs[part]), change[part].double()
                self.inputs[half].addmm_(wide.T, wide)
                self.cross[half].addmm_(wide.T, moved)

    @property
    def tokens(self) -> tuple[int, int]:
        """Of each half."""
        return int(self.inputs[0, -1, -1]), int(self.inputs[1, -1, -1])

    def total(self, *, centered: bool = False) -> Tensor:
        r"""Sum of :math:`x x^\top` over both, (in, in), perhaps of inputs less their mean."""
        whole = self.inputs.sum(0)
        found: Tensor = whole[:-1, :-1]
        return found - torch.outer(whole[:-1, -1], whole[-1, :-1]) / whole[-1, -1] if centered else found

    def mean_null(self) -> float:
        r""":math:`R^2` of a map without an intercept if change and input had nothing but their means in common.

        :math:`\lVert \overline{\Delta h} \rVert^2\, \bar x^\top C^{-1} \bar x` per token, to be divided by the mean
        energy of a change.
        """
        count = max(sum(self.tokens), 1)
        mean = self.inputs.sum(0)[:-1, -1] / count
        moved = self.cross.sum(0)[-1] / count
        solved = _least_squares(self.total() / count, mean[:, None])[:, 0]
        return float(moved @ moved) * float(mean @ solved)

    def maps(self) -> "LinearMaps | None":
        """The map of each half; None where tokens do not suffice."""
        if min(self.tokens) < TOKENS_PER_INPUT * self.inputs.shape[1]:
            return None
        plain = [_least_squares(self.inputs[half, :-1, :-1], self.cross[half, :-1]) for half in (0, 1)]
        shifted = [_least_squares(self.inputs[half], self.cross[half]) for half in (0, 1)]
        means = [self.cross[half, -1] / self.tokens[half] for half in (0, 1)]
        return LinearMaps((plain[0], plain[1]), (shifted[0], shifted[1]), (means[0], means[1]))


@dataclass(frozen=True, eq=False)
class LinearMaps:
    """The maps of both halves.

    Parameters
    ----------
    plain
        Shape (in, out), without an intercept.
    shifted
        Shape (in + 1, out): the intercept is the last row.
    means
        Of the change.
    """

    plain: tuple[Tensor, Tensor]
    shifted: tuple[Tensor, Tensor]
    means: tuple[Tensor, Tensor]


@dataclass(eq=False)
class ShareSums:
    """Sums over the tokens of each text, of what the other half's map leaves and of what there was.

    Parameters
    ----------
    sums
        Shape (texts, 4): residual and energy, residual with intercept and variance.
    """

    sums: Values

    @classmethod
    def empty(cls, texts: int) -> "ShareSums":
        """No tokens yet."""
        return cls(np.zeros((texts, 4)))

    def add(self, maps: LinearMaps, inputs: Tensor, change: Tensor, half: int, text: int) -> None:
        """Take in tokens of one text.

        Parameters
        ----------
        maps
            Of both halves.
        inputs, change
            Shapes (tokens, in) and (tokens, out).
        half, text
            Whose they are.
        """
        other = 1 - half
        for rows, moved in zip(inputs.split(_ROWS), change.split(_ROWS), strict=True):
            wide, wanted = _with_one(rows), moved.double()
            left = (
                wanted - wide[:, :-1] @ maps.plain[other],
                wanted,
                wanted - wide @ maps.shifted[other],
                wanted - maps.means[other],
            )
            self.sums[text] += [float((each**2).sum()) for each in left]

    def share(self, kind: Literal["plain", "centered"], *, resamples: int = 1000, seed: int = 0) -> Interval:
        """R squared with its interval, a percentile bootstrap over texts; the maps are held as they are.

        Parameters
        ----------
        kind
            Against the energy, or with an intercept against the variance.
        resamples, seed
            How many, and where their randomness starts.
        """
        columns = (0, 1) if kind == "plain" else (2, 3)
        own = self.sums[self.sums[:, 1] > 0][:, columns]
        if not len(own) or not own[:, 1].sum() > 0:
            return Interval(float("nan"), None, None, reason="nothing changed")
        value = float(1 - own[:, 0].sum() / own[:, 1].sum())
        if len(own) < 2:
            return Interval(value, None, None, reason="one text")
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=resamples) @ own
        return percentile_interval(value, 1 - counts[:, 0] / counts[:, 1])


def _with_one(rows: Tensor) -> Tensor:
    wide = rows.double()
    return torch.cat((wide, wide.new_ones(len(wide), 1)), dim=1)


def _least_squares(inputs: Tensor, cross: Tensor) -> Tensor:
    """Minimum-norm solution of the normal equations."""
    with convergence(tuple(inputs.shape)):
        values, vectors = torch.linalg.eigh(inputs)
    kept = values > _CUT * values[-1].clamp(min=0.0)
    inverse = torch.where(kept, 1 / torch.where(kept, values, 1.0), 0.0)
    solved: Tensor = vectors @ (inverse[:, None] * (vectors.T @ cross))
    return solved
