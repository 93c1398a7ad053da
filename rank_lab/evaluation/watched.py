"""Places of a model that are watched while the probe set passes, and what is kept of each."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.affine_change import AffineChange
from rank_lab.errors import UnsupportedUpdateError
from rank_lab.evaluation.activations import Seen
from rank_lab.evaluation.module_changes import ModuleChange
from rank_lab.linear_share import HalfMoments, LinearMaps, ShareSums
from rank_lab.second_moment import SecondMoment

__all__ = ["AffineModule", "FunctionModule", "Layer", "TokenGroups", "Watched"]

_Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TokenGroups:
    """Where each token of a batch belongs.

    Parameters
    ----------
    text, group, half
        Numbers, shape (tokens,).
    first
        Whether it is the first of its input.
    """

    text: _Array
    group: _Array
    half: _Array
    first: npt.NDArray[np.bool_]


@dataclass(eq=False)
class Watched(ABC):
    """A place, and sums of what passed.

    Parameters
    ----------
    name
        Of the layer or module.
    shape
        ``(out, in)`` of its change.
    groups, texts
        How many of each.
    device
        Where sums are.
    """

    name: str
    shape: tuple[int, int]
    groups: int
    texts: int
    device: str | torch.device = "cpu"
    energy: float = field(default=0.0, init=False)
    first_energy: float = field(default=0.0, init=False)
    base_energy: float = field(default=0.0, init=False)
    change: SecondMoment = field(init=False)

    @property
    @abstractmethod
    def source(self) -> str:
        """Module of the base whose input is read."""

    @abstractmethod
    def seen(self, base: Seen, tuned: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Input, change, and what the base has there, a row a token each, of one batch."""

    @abstractmethod
    def add(self, base: Seen, tuned: Seen, where: TokenGroups) -> None:
        """Take in a batch."""

    @abstractmethod
    def input_moment(self, *, centered: bool) -> Tensor:
        r"""Sum of :math:`x x^\top`, shape (in, in), perhaps of inputs less their mean."""

    def count_energy(self, change: Tensor, before: Tensor, first: npt.NDArray[np.bool_]) -> None:
        """Take in the size of what was and of what changed."""
        squares = (change.double() ** 2).sum(1)
        self.energy += float(squares.sum())
        self.first_energy += float(squares[torch.as_tensor(first, device=squares.device)].sum())
        self.base_energy += float((before.double() ** 2).sum())


@dataclass(eq=False)
class _Mapped(Watched):
    """A place whose change is any function of its input."""

    halves: HalfMoments = field(init=False)
    maps: LinearMaps | None = field(default=None, init=False)
    shares: ShareSums = field(init=False)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        out, across = self.shape
        self.change = SecondMoment.empty(out, groups=self.groups, device=self.device)
        self.halves = HalfMoments.empty(across, out, self.device)
        self.shares = ShareSums.empty(self.texts)

    def add(self, base: Seen, tuned: Seen, where: TokenGroups) -> None:
        """Take in a batch."""
        inputs, change, before = self.seen(base, tuned)
        self.change.add(change, where.group)
        self.halves.add(inputs, change, where.half)
        self.count_energy(change, before, where.first)

    def fit(self) -> None:
        """The maps, of all that has passed."""
        self.maps = self.halves.maps()

    def again(self, base: Seen, tuned: Seen, where: TokenGroups) -> None:
        """Measure each text with the map of the half that it is not in."""
        if self.maps is None:
            return
        inputs, change, _ = self.seen(base, tuned)
        for text in np.unique(where.text):
            own = np.flatnonzero(where.text == text)
            at = torch.as_tensor(own, device=inputs.device)
            self.shares.add(self.maps, inputs[at], change[at], int(where.half[own[0]]), int(text))

    def input_moment(self, *, centered: bool) -> Tensor:
        """As of the base class."""
        return self.halves.total(centered=centered)


@dataclass(eq=False)
class Layer(_Mapped):
    """The hidden state after a layer: same tokens through both models, beside the base's state before it."""

    @property
    def source(self) -> str:
        """The layer."""
        return self.name

    def seen(self, base: Seen, tuned: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """As of the base class."""
        before = _rows(base.outputs, self.name)
        after = _rows(tuned.outputs, self.name).to(before.device)
        return _rows(base.inputs, self.name), after.double() - before.double(), before


@dataclass(eq=False)
class FunctionModule(_Mapped):
    """A module whose update is no matrix: a bottleneck adapter."""

    module: ModuleChange = field(kw_only=True)
    function: Callable[[Tensor], Tensor] = field(kw_only=True)

    @property
    def source(self) -> str:
        """What its update is a function of."""
        return self.module.watched

    def seen(self, base: Seen, tuned: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """As of the base class."""
        _ = tuned
        inputs = _rows(base.inputs, self.source)
        return inputs, self.function(inputs), _rows(base.outputs, self.name)


@dataclass(eq=False)
class AffineModule(Watched):
    """A module whose update is a matrix and a bias, in the basis of its own singular vectors."""

    module: ModuleChange = field(kw_only=True)
    affine: AffineChange = field(kw_only=True)
    inputs: SecondMoment = field(init=False)
    weighted: SecondMoment | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.whole = self.affine.with_bias() if self.affine.has_bias else None
        across = len(self.affine.reduced) if self.whole is None else len(self.whole)
        self.change = SecondMoment.empty(across, groups=self.groups, device=self.device)
        self.inputs = SecondMoment.empty(self.shape[1], groups=1, device=self.device)
        if self.whole is not None:
            self.weighted = SecondMoment.empty(self.affine.rank, groups=self.groups, device=self.device)

    @property
    def source(self) -> str:
        """What its update is a function of."""
        return self.module.watched

    def seen(self, base: Seen, tuned: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """As of the base class; the change in the reduced basis."""
        _ = tuned
        inputs = _rows(base.inputs, self.source).double()
        linear = inputs @ self.affine.reduced.T
        if self.whole is not None:
            linear = torch.cat((inputs, inputs.new_ones(len(inputs), 1)), dim=1) @ self.whole.T
        return inputs, linear, _rows(base.outputs, self.name)

    def add(self, base: Seen, tuned: Seen, where: TokenGroups) -> None:
        """Take in a batch."""
        inputs, change, before = self.seen(base, tuned)
        self.change.add(change, where.group)
        self.inputs.add(inputs, np.zeros(len(inputs), np.int64))
        if self.weighted is not None:
            self.weighted.add(inputs @ self.affine.reduced.T, where.group)
        self.count_energy(change, before, where.first)

    def input_moment(self, *, centered: bool) -> Tensor:
        """As of the base class."""
        return self.inputs.total(centered=centered)


def _rows(found: dict[str, Tensor | str], name: str) -> Tensor:
    value = found.get(name, "was not called")
    if isinstance(value, str):
        raise UnsupportedUpdateError(f"{name}: {value}, so that its activations are not known token by token.")
    return value
