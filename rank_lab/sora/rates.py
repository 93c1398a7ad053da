"""The learning rates of a stage before it is trained, as transformers' schedules give them."""

import torch
from torch import nn
from transformers import TrainingArguments, get_scheduler

from rank_lab.errors import UnsupportedUpdateError

__all__ = ["gate_rates"]

_BY_METRIC = ("reduce_lr_on_plateau", "greedy")


def gate_rates(arguments: TrainingArguments, max_steps: int, gate_lr: float | None = None) -> list[float]:
    """The gates' learning rate in each step of a stage.

    Parameters
    ----------
    arguments
        The user's.
    max_steps
        Length of the schedule.
    gate_lr
        Of the adapter's config; None for the rate of all others.

    Raises
    ------
    UnsupportedUpdateError
        If the schedule goes by a metric, so that its rates cannot be known beforehand.

    Examples
    --------
    >>> options = TrainingArguments(learning_rate=0.5, lr_scheduler_type="linear", warmup_steps=2)
    >>> gate_rates(options, 4)
    [0.0, 0.25, 0.5, 0.25]
    """
    kind = str(getattr(arguments.lr_scheduler_type, "value", arguments.lr_scheduler_type))
    if kind in _BY_METRIC:
        raise UnsupportedUpdateError(
            f"lr_scheduler_type {kind!r} goes by a metric: the rates of a stage, which targets and the control"
            " 'as_shipped' need, are not known beforehand; choose another, or leave those out."
        )
    rate = arguments.learning_rate if gate_lr is None else gate_lr
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    schedule = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer=optimizer,
        num_warmup_steps=arguments.get_warmup_steps(max_steps),
        num_training_steps=max_steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    rates = []
    for _ in range(max_steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        schedule.step()
    return rates
