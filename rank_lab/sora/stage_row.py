"""From a model at the end of a stage to the stage's row of the curve."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from rank_lab.decomposition import spectrum_of
from rank_lab.quantities import effective_rank
from rank_lab.scores import Score
from rank_lab.sora.callback import sora_config_of
from rank_lab.sora.factors import gated_factors
from rank_lab.sora.gates import exact_parameter_count, gated_modules, published_parameter_count
from rank_lab.sora.predictions import Predictions, predictions_of, read_predictions, save_predictions
from rank_lab.uncertainty import Interval, ratio_interval

__all__ = [
    "SETS",
    "EvaluationSets",
    "Reference",
    "measured",
    "number",
    "relative",
    "slow_end",
    "still_shrinking",
    "unusable",
]

SETS = ("train", "validation")
"""Names of the memorization subset and the validation set in ``predictions.parquet``."""

_LITTLE = 0.1  # of the largest learning rate
_MOVING = 0.003  # of the gates' size


@dataclass(frozen=True)
class EvaluationSets:
    """What every stage is measured on, and how.

    Parameters
    ----------
    subset, validation
        The memorization subset of the training set, and the validation set.
    indices
        Where in the training set the subset is from.
    collator, batch_size
        How batches are made.
    score
        Of both.
    resamples
        Of the bootstrap.
    """

    subset: Any
    validation: Any
    indices: tuple[int, ...]
    collator: Any
    batch_size: int
    score: Score
    resamples: int

    def predicted(self, model: nn.Module) -> dict[str, Predictions]:
        """What a model predicts for both sets.

        Parameters
        ----------
        model
            At the end of a stage.
        """
        sets = zip(SETS, (self.subset, self.validation), strict=True)
        return {
            name: predictions_of(model, dataset, self.collator, self.score.kind, self.batch_size)
            for name, dataset in sets
        }

    def refuse_misfit(self, model: nn.Module) -> None:
        """Try the score on all labels and the model on one batch, before hours are spent on training.

        Parameters
        ----------
        model
            As it starts.

        Raises
        ------
        RankLabError
            If outputs or labels are not those of the score's kind.
        """
        few = self.validation.select(range(min(self.batch_size, len(self.validation))))
        found = predictions_of(model, few, self.collator, self.score.kind, self.batch_size)
        for dataset in (self.subset, self.validation) if self.score.kind != "causal" else ():
            labels = dataset["labels" if "labels" in dataset.column_names else "label"]
            self.score.of(labels, labels)
        self.score.of(found.labels, found.predictions)

    def save(self, folder: Path, found: Mapping[str, Predictions]) -> None:
        """Write the predictions of a stage.

        Parameters
        ----------
        folder
            Of the stage.
        found
            From :meth:`predicted`.
        """
        numbers = (np.array(self.indices, np.int64), np.arange(len(self.validation), dtype=np.int64))
        indexed = {name: (index, found[name]) for name, index in zip(SETS, numbers, strict=True)}
        save_predictions(folder, indexed)


@dataclass(frozen=True)
class Reference:
    """What a score is divided by: the value, and the folder of the stage whose predictions gave it.

    Parameters
    ----------
    value
        None where the score is not defined.
    folder
        Of the stage; None for the stage that is being measured.
    """

    value: float | None
    folder: Path | None


def measured(model: nn.Module, found: Mapping[str, Predictions], score: Score) -> dict[str, Any]:
    """The columns of a row that the model and its predictions decide.

    Parameters
    ----------
    model
        At the end of a stage.
    found
        Its predictions by set.
    score
        Of both.
    """
    modules, config = gated_modules(model), sora_config_of(model)
    hidden = getattr(getattr(model, "config", None), "hidden_size", None)
    columns: dict[str, Any] = {
        "threshold_mode": config.threshold_mode,
        "operator": config.operator,
        "gates": sum(module.rank for module in modules),
        "nonzero_gates": sum(module.nonzero for module in modules),
        "nonzero_by_module": {module.module: module.nonzero for module in modules},
        "nonzero_parameters": exact_parameter_count(modules),
        "published_parameters": published_parameter_count(modules, hidden) if isinstance(hidden, int) else None,
        "effective_rank": _mean_effective_rank(model),
        "score": score.name,
    }
    for name in SETS:
        columns |= {
            f"{name}_loss": found[name].loss,
            f"{name}_score": number(score.of(found[name].labels, found[name].predictions)),
            f"{name}_examples": len(found[name].labels),
        }
    return columns


def relative(name: str, found: Predictions, reference: Reference, sets: EvaluationSets) -> Interval:
    """Memorization or generalization of one set: per cent of the reference, with its paired interval.

    Parameters
    ----------
    name
        Of the set.
    found
        Its predictions.
    reference
        What they are relative to.
    sets
        The score and the bootstrap.
    """
    others = found.predictions if reference.folder is None else read_predictions(reference.folder, name)
    return ratio_interval(sets.score, found.labels, found.predictions, others, resamples=sets.resamples)


def unusable(reference: float | None) -> bool:
    """Whether nothing can be divided by a reference: it is not defined, zero or negative.

    Parameters
    ----------
    reference
        A score.

    Examples
    --------
    >>> unusable(0.5), unusable(0.0), unusable(None)
    (False, True, True)
    """
    return reference is None or not reference > 0


def number(value: float) -> float | None:
    """A value for JSON: None where it is not defined.

    Parameters
    ----------
    value
        Any float.
    """
    return None if math.isnan(value) else float(value)


def slow_end(lr_end: float, lr_peak: float, stop: str) -> str:
    """The warning of a stage that was flat because its learning rate was.

    Parameters
    ----------
    lr_end, lr_peak, stop
        Of the stage.

    Examples
    --------
    >>> slow_end(0.1, 0.1, "converged"), slow_end(0.001, 0.1, "converged")
    ('', 'converged at 1% of the largest learning rate, where any loss is flat')
    """
    if stop != "converged" or lr_end >= _LITTLE * lr_peak:
        return ""
    return f"converged at {lr_end / lr_peak:.0%} of the largest learning rate, where any loss is flat"


def still_shrinking(gates_fell: float, threshold: float, stop: str) -> str:
    """The warning of a stage whose count rests only because no gate has come down to zero yet.

    Parameters
    ----------
    gates_fell, threshold, stop
        Of the stage.

    Examples
    --------
    >>> still_shrinking(0.001, 0.5, "converged")
    ''
    >>> still_shrinking(0.2, 0.5, "converged")
    'converged by count and loss, but gates still lost 20.0% of their size in the last checks: more steps may prune'
    """
    if stop != "converged" or not threshold or gates_fell < _MOVING:
        return ""
    return (
        f"converged by count and loss, but gates still lost {gates_fell:.1%} of their size in the last checks: more"
        " steps may prune"
    )


def _mean_effective_rank(model: nn.Module) -> float:
    spectra = [spectrum_of(each.update) for each in gated_factors(model)]
    ranks = [0.0 if spectrum.zero else effective_rank(spectrum) for spectrum in spectra]
    return math.fsum(ranks) / len(ranks)
