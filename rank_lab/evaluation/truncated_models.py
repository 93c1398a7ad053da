"""A tuned model in memory whose update is cut to k directions and put back: no copy of it is ever on the disk."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rank_lab.errors import PairingError, UnsupportedUpdateError
from rank_lab.key_space import nearest_pairs
from rank_lab.names import Identity, identify, strip_wrappers
from rank_lab.plain_text import plain
from rank_lab.truncated_update import TruncatedUpdate, Truncation, decomposed
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix, Update

__all__ = ["CutMatrix", "ModelValues", "TruncatedModel", "truncated_model", "values_of"]

Progress = Callable[[int, int], None]
"""Called with the matrices that are decomposed, and all of them."""

_AGREES = 1e-3  # of an update's norm: factors and what merging them changed, beside the rounding of the weight
_ROUNDING = 8.0  # units in the last place of the weight


@dataclass(frozen=True, eq=False)
class ModelValues:
    """Values of a model, that stay when the model goes on being changed.

    Parameters
    ----------
    values
        By name, of all parameters and buffers, those that are tied under each of their names.
    parameters
        Names of the parameters, each once.
    """

    values: Mapping[str, Tensor] = field(repr=False)
    parameters: tuple[str, ...]


def values_of(model: Any) -> ModelValues:
    """A copy of a model's values in the memory of the processor.

    Parameters
    ----------
    model
        Of torch.
    """
    copies = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
    return ModelValues(copies, tuple(name for name, _ in model.named_parameters()))


@dataclass(frozen=True, eq=False)
class CutMatrix:
    """One matrix of the model, or one of a stack in a parameter.

    Parameters
    ----------
    module
        Its path without ``.weight``; of a stack with the number of the matrix behind it.
    parameter
        Name in the model.
    part
        Number in the stack; None where the parameter is one matrix.
    transposed
        Whether the model keeps ``(in, out)``, as transformers' Conv1D does.
    cut
        Its update; None where nothing was changed.
    shape
        ``(out, in)``.
    """

    module: str
    parameter: str
    part: int | None
    transposed: bool
    shape: tuple[int, int]
    cut: TruncatedUpdate | None

    @property
    def identity(self) -> Identity:
        """Stack, layer, kind and expert."""
        return identify(self.module)

    @property
    def factored(self) -> bool:
        """Whether it was decomposed from an adapter's factors."""
        return self.cut is not None and isinstance(self.cut.update, LowRankUpdate)


@dataclass(eq=False)
class TruncatedModel:
    """A model that can be set to its base plus a truncated update, and back.

    Parameters
    ----------
    model
        Of transformers, with the tuned weights; whatever else refers to it sees it truncated for as long as it is.
    matrices
        All that it has, the unchanged ones among them.
    tuned, base
        Values by parameter, of those that changed.
    vectors
        Parameters that changed and are no matrices, such as norms and biases.
    """

    model: Any
    matrices: tuple[CutMatrix, ...]
    tuned: Mapping[str, Tensor] = field(repr=False)
    base: Mapping[str, Tensor] = field(repr=False)
    vectors: tuple[str, ...] = ()

    @property
    def changed(self) -> tuple[CutMatrix, ...]:
        """Matrices with an update."""
        return tuple(each for each in self.matrices if each.cut is not None)

    @property
    def bound(self) -> int:
        """The largest rank of an update: from there on a truncation is the tuned model."""
        return max(each.cut.bound for each in self.matrices if each.cut is not None)

    def directions(self, k: int) -> int:
        """How many directions all matrices keep together."""
        return sum(min(k, each.cut.bound) for each in self.matrices if each.cut is not None)

    def energy(self, k: int) -> float:
        """Share of the squared norm of all updates together that their first k directions hold."""
        cuts = [each.cut for each in self.matrices if each.cut is not None]
        norms = [cut.spectrum.frobenius_norm**2 for cut in cuts]
        held = [norm * float(cut.energies[min(k, cut.bound)]) for norm, cut in zip(norms, cuts, strict=True)]
        return min(math.fsum(held) / math.fsum(norms), 1.0)

    @contextmanager
    def truncated(self, k: int, how: Truncation = "leading", *, vectors: bool = True, seed: int = 0) -> Iterator[Any]:
        """The model with every update cut, for as long as this lasts.

        Parameters
        ----------
        k
            Directions of each matrix, as far as it has so many.
        how, seed
            See :meth:`rank_lab.truncated_update.TruncatedUpdate.cut`.
        vectors
            Whether norms and biases stay as they were tuned; else they are the base's.

        Yields
        ------
        The model. Afterwards its values are bit for bit the tuned ones.
        """
        values = dict(self.model.named_parameters(remove_duplicate=False))
        try:
            with torch.no_grad():
                for place, matrix in enumerate(self.matrices):
                    self._write(values, matrix, k, how, (seed, place))
                for name in self.vectors:
                    values[name].copy_(self.tuned[name] if vectors else self.base[name])
            yield self.model
        finally:
            with torch.no_grad():
                for name, tuned in self.tuned.items():
                    values[name].copy_(tuned)

    def _write(
        self, values: Mapping[str, Tensor], matrix: CutMatrix, k: int, how: Truncation, seed: tuple[int, int]
    ) -> None:
        if matrix.cut is None:
            return
        name, part = matrix.parameter, slice(None) if matrix.part is None else matrix.part
        there, base = values[name], self.base[name]
        if how in ("leading", "random", "shrunk") and k >= matrix.cut.bound:
            there[part].copy_(self.tuned[name][part])
            return
        update = matrix.cut.cut(k, how, seed=seed, device=str(there.device))
        update = update.T if matrix.transposed else update
        before = base[part].to(device=there.device, dtype=torch.float32)
        there[part].copy_(before + update.reshape(before.shape))


def truncated_model(
    model: Any,
    base: ModelValues,
    *,
    factors: Mapping[str, Update] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> TruncatedModel:
    """Decompose what separates a tuned model from its base, parameter by parameter.

    Parameters
    ----------
    model
        With all its weights, adapters merged; it is kept, and changed while it is truncated.
    base
        Of the same architecture, from :func:`values_of`.
    factors
        Module to the update that an adapter stores: where merging it gave the same change it is decomposed in place of
        the difference, which has the rounding of the merge in it.
    device
        Where to decompose.
    progress
        Called as matrices are decomposed.

    Raises
    ------
    PairingError
        If the two do not have the same parameters, or nothing was changed.
    UnsupportedUpdateError
        If buffers were changed, which no truncation of weights takes back.

    Notes
    -----
    The model, a copy of its tuned values and of the base's, and q x q numbers of each matrix with the short side q are
    in memory.
    """
    before, after = base.values, dict(model.named_parameters())
    _refuse_others(model, after, base)
    changed = {name: value for name, value in after.items() if not torch.equal(value.detach().cpu(), before[name])}
    if not changed:
        raise PairingError("the tuned model's weights are those of the base: was nothing trained, or is one the other?")
    tuned = {name: value.detach().to("cpu", copy=True) for name, value in changed.items()}
    pieces = [piece for name in after for piece in _pieces(model, name, after[name])]
    matrices = []
    for done, (matrix, view) in enumerate(pieces, 1):
        if matrix.parameter in changed:
            both = (view(tuned[matrix.parameter]), view(before[matrix.parameter]))
            given = (factors or {}).get(matrix.module)
            update = _update(*both, transposed=matrix.transposed, given=given)
            matrices.append(_with(matrix, update, device))
        else:
            matrices.append(matrix)
        if progress is not None:
            progress(done, len(pieces))
    if not any(each.cut is not None for each in matrices):
        raise PairingError("no matrix was changed, norms and biases alone: there is no update to truncate.")
    placed = {matrix.parameter for matrix, _ in pieces}
    return TruncatedModel(
        model, tuple(matrices), tuned, {name: before[name] for name in changed},
        tuple(name for name in changed if name not in placed),
    )  # fmt: skip


def _refuse_others(model: Any, after: Mapping[str, Tensor], base: ModelValues) -> None:
    before = base.values
    unknown = sorted(set(after) - set(before))
    absent = sorted(set(base.parameters) - set(after))  # one that the tuned model ties has no value of its own there
    if unknown or absent:
        which, names, others = ("tuned model", unknown, list(before)) if unknown else ("base", absent, list(after))
        raise PairingError(
            f"the {which} has {len(names)} parameters that the other has not; nearest: {nearest_pairs(names, others)}."
            " Give the base that was tuned; a new head has no base to be truncated to."
        )
    for name, value in after.items():
        if value.shape != before[name].shape:
            raise PairingError(
                f"{plain(name)}: {list(value.shape)} in the tuned model and {list(before[name].shape)} in the base;"
                " give the base that was tuned, with a vocabulary of the same size."
            )
    for name, value in model.named_buffers():
        if name in before and not torch.equal(value.cpu(), before[name]):
            raise UnsupportedUpdateError(
                f"{plain(name)}: a buffer that training changed; no truncation of weights takes that back."
            )


def _pieces(model: Any, name: str, value: Tensor) -> Iterator[tuple[CutMatrix, Callable[[Tensor], Tensor]]]:
    """The matrices of a parameter and how each is taken out of it; a vector has none."""
    module = model.get_submodule(name.rpartition(".")[0])
    path = strip_wrappers(name).removesuffix(".weight")
    if value.ndim < 2:
        return
    if value.ndim == 3 and not isinstance(module, torch.nn.modules.conv._ConvNd):
        out, across = value.shape[1:]
        for part in range(len(value)):
            yield CutMatrix(f"{path}.{part}", name, part, False, (out, across), None), _taken(part)
        return
    transposed = type(module).__name__ == "Conv1D"
    rows, columns = len(value), value[0].numel()
    shape = (columns, rows) if transposed else (rows, columns)
    yield CutMatrix(path, name, None, transposed, shape, None), _flat


def _taken(part: int) -> Callable[[Tensor], Tensor]:
    return lambda stack: stack[part]


def _flat(value: Tensor) -> Tensor:
    return value.reshape(len(value), -1)


def _update(tuned: Tensor, base: Tensor, *, transposed: bool, given: Update | None) -> Update | None:
    if torch.equal(tuned, base):
        return None
    dense = DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base), transposed=transposed)
    if not isinstance(given, LowRankUpdate) or given.shape != dense.shape:
        return dense
    norm = given.frobenius_norm()
    apart = float(torch.linalg.matrix_norm(dense.to_dense() - given.to_dense()))
    rounding = _ROUNDING * torch.finfo(tuned.dtype).eps * float(torch.linalg.matrix_norm(tuned.double()))
    return given if apart <= _AGREES * norm + rounding and norm > rounding else dense


def _with(matrix: CutMatrix, update: Update | None, device: str) -> CutMatrix:
    if update is None:
        return matrix
    cut = decomposed(update, device=device)
    return CutMatrix(matrix.module, matrix.parameter, matrix.part, matrix.transposed, matrix.shape, cut)
