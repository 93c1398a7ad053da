"""What made an update, as far as the files and the record of the training say: method, optimizer, learning rate."""

import math
from dataclasses import dataclass

from rank_lab.training_record import TrainingRecord, is_sign_like

__all__ = ["SIGN_LIKE_WARNING", "TrainedWith", "sign_like_warning", "trained_with"]

SIGN_LIKE_WARNING = "steps of one size whatever the gradient's raise ranks by themselves"
"""What stands beside every rank that a sign-like optimizer made, behind its name."""

# What a method of the registry leaves in its files where that has another name.
_LEAVES = {
    "rslora": {"lora"},
    "pissa": {"lora"},
    "olora": {"lora"},
    "loftq": {"lora"},
    "prefix": {"prefix_tuning"},
    "prompt": {"prompt_tuning"},
    "series": {"bottleneck"},
    "parallel": {"bottleneck"},
    "parallel_linear": {"bottleneck"},
}


@dataclass(frozen=True)
class TrainedWith:
    """Method and optimizer beside every row of a report.

    Parameters
    ----------
    method
        The record's name for it where the files agree, else the files'.
    optimizer
        As transformers names it; None where nothing says it.
    learning_rate
        The largest; NaN where nothing says it.
    warnings
        What a reader must know of it.
    """

    method: str
    optimizer: str | None = None
    learning_rate: float = math.nan
    warnings: tuple[str, ...] = ()


def trained_with(method: str, record: TrainingRecord | None) -> TrainedWith:
    r"""What the record of a training adds to what its files say.

    Parameters
    ----------
    method
        What the files say: ``full``, ``lora``, ``adalora``, ``sora``, or PEFT's name of another method.
    record
        Of :func:`rank_lab.training_record.record_beside`; None where there is none.

    Returns
    -------
    TrainedWith
        The record's method only where the files are of that kind: a record of LoRA beside a full
        checkpoint is a merge, or of another run, and stands as a warning.

    Notes
    -----
    A sign-like optimizer is warned of. The sign of a gradient of rank one has rank one, since
    :math:`\operatorname{sign}(u v^T) = \operatorname{sign}(u) \operatorname{sign}(v)^T`, but already that of a
    gradient of rank two has nearly the rank of its shape, of which the tests hold a case. Adam's first step
    is a sign step, too; later ones are weighed by the history of each entry.

    Examples
    --------
    >>> trained_with("lora", None).optimizer is None
    True
    """
    if record is None:
        return TrainedWith(method)
    agrees = record.method == method or method in _LEAVES.get(record.method, set())
    found = () if agrees else (f"training.json says {record.method}, but the files are {method}: which is it?",)
    return TrainedWith(
        record.method if agrees else method,
        record.optimizer,
        record.learning_rate,
        found + sign_like_warning(record.optimizer),
    )


def sign_like_warning(optimizer: str) -> tuple[str, ...]:
    """The warning that stands beside every rank of a sign-like optimizer; empty for others.

    Examples
    --------
    >>> sign_like_warning("adamw_torch")
    ()
    """
    return (f"trained with {optimizer}: {SIGN_LIKE_WARNING}",) if is_sign_like(optimizer) else ()
