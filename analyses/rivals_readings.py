"""What the tools say of the same files and models: weightwatcher, PEFT, numpy and this one."""

import contextlib
import copy
import importlib.util
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from rank_lab import Checkpoint, RankLabError, analyze, plan_updates, read_update

__all__ = [
    "NOT_ASKED",
    "NOT_INSTALLED",
    "Answer",
    "Values",
    "Watched",
    "converted_by_peft",
    "delta_of_peft",
    "energy_rank",
    "error_of",
    "matrix_rank",
    "merged_by_peft",
    "our_change",
    "our_refusal",
    "our_row",
    "values_of",
    "watched",
]

Answer: TypeAlias = float | str
"""A number, or why there is none."""

Values: TypeAlias = npt.NDArray[np.float64]

NOT_INSTALLED = "not installed"
NOT_ASKED = "–"

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Watched:
    """What ``WeightWatcher.analyze`` says.

    Parameters
    ----------
    details
        Its table by module; None if weightwatcher is not installed.
    """

    details: pd.DataFrame | None

    def answer(self, module: str, column: str) -> Answer:
        """One number of its table."""
        return NOT_INSTALLED if self.details is None else float(self.details[column].to_dict()[module])

    def norm(self, module: str) -> Answer:
        """Frobenius norm, of which its table holds the square."""
        square = self.answer(module, "norm")
        return square if isinstance(square, str) else float(np.sqrt(square))


def watched(model: Any, base: Any = None) -> Watched:
    """Let weightwatcher analyse a model: the factors of an adapted one, or the difference to its base.

    Parameters
    ----------
    model, base
        In memory. bfloat16, which numpy lacks, is widened to float32, which changes no value.
    """
    if importlib.util.find_spec("weightwatcher") is None:
        return Watched(None)
    models = [None if one is None else copy.deepcopy(one).float() for one in (model, base)]
    with _silence():
        import weightwatcher  # type: ignore[import-not-found, unused-ignore]

        watcher = weightwatcher.WeightWatcher()
        details = watcher.analyze(model=models[0], base_model=models[1], peft=base is None, min_evals=1)
    names = details["longname"].str.removeprefix(_PREFIX).str.removesuffix(".lora_BA.default")
    return Watched(details.set_index(names))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without its banner, its warnings and those of its power-law fits, whose outcome is in its columns anyway."""
    logging.disable(logging.CRITICAL)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


@torch.no_grad()
def delta_of_peft(model: Any, module: str) -> Tensor:
    """What PEFT's ``get_delta_weight`` gives of one module, in float64."""
    found: Tensor = model.get_submodule(_PREFIX + module).get_delta_weight("default")
    return found.double()


def merged_by_peft(model: Any, module: str) -> Tensor:
    """The weight that PEFT's ``merge_and_unload`` leaves, in float64."""
    weight: Tensor = copy.deepcopy(model).merge_and_unload().get_submodule(module).weight
    return weight.detach().double()


def converted_by_peft(model: Any, rank: float, folder: Path) -> dict[str, tuple[int, Tensor]]:
    """Rank and change of each module once PEFT's ``save_as_lora`` has converted it.

    Parameters
    ----------
    model
        The adapted model.
    rank
        Share of the energy to keep, as PEFT takes it.
    folder
        Where PEFT saves what it made, which is read again from there.
    """
    from peft import save_as_lora

    save_as_lora(folder, model, rank=rank)
    plan = plan_updates(Checkpoint.open(folder))
    return {spec.module: (spec.rank_bound, read_update(spec).to_dense()) for spec in plan.specs}


def our_row(tuned: Path, base: Path | None, module: str) -> dict[str, Any]:
    """What this tool's table ``updates`` says of one module."""
    table = analyze(tuned, base).updates
    return {str(name): value for name, value in table[table["module"] == module].iloc[0].items()}


def our_change(tuned: Path, base: Path | None, module: str, initial: Path | None = None) -> Tensor:
    """The change of one module as this tool reads it."""
    opened = [None if folder is None else Checkpoint.open(folder) for folder in (base, initial)]
    plan = plan_updates(Checkpoint.open(tuned), opened[0], initial=opened[1])
    (spec,) = (spec for spec in plan.specs if spec.module == module)
    return read_update(spec).to_dense()


def our_refusal(tuned: Path, base: Path) -> str:
    """The line with which this tool refuses to compare two folders, called by their names; empty if it does not."""
    try:
        analyze(tuned, base)
    except RankLabError as refusal:
        return str(refusal).replace(str(tuned), tuned.name).replace(str(base), base.name)
    return ""


def values_of(change: Tensor) -> Values:
    """Singular values by LAPACK in float64, descending."""
    return np.linalg.svd(change.double().numpy(), compute_uv=False)


def matrix_rank(change: Tensor) -> float:
    """Rank as numpy has it, of the float64 values."""
    return float(np.linalg.matrix_rank(change.double().numpy()))


def energy_rank(values: Values, share: float) -> float:
    """Least k whose squares hold this share of all squares."""
    energy = np.cumsum(values**2)
    return float(np.searchsorted(energy, share * energy[-1]) + 1)


def error_of(found: Tensor, true: Tensor) -> float:
    """Frobenius norm of the error over that of the truth."""
    return float((found.double() - true).norm() / true.norm())
