"""After which steps a training is saved: early ones close together, where most changes, later ones far apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rank_lab.errors import RankLabError

if TYPE_CHECKING:
    from transformers import TrainingArguments

__all__ = ["first_change", "log_spaced_steps", "steps_to_save"]


def first_change(arguments: "TrainingArguments") -> int:
    """The first step that changes a model: the second where the schedule begins at a rate of 0, as a warm-up does.

    Parameters
    ----------
    arguments
        With ``max_steps``, the scheduler and its warm-up.

    Examples
    --------
    >>> from transformers import TrainingArguments
    >>> [first_change(TrainingArguments("out", max_steps=100, warmup_steps=warmup)) for warmup in (0, 0.06)]
    [1, 2]
    """
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=arguments.learning_rate)
    get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=arguments.get_warmup_steps(arguments.max_steps),
        num_training_steps=arguments.max_steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    return 2 if optimizer.param_groups[0]["lr"] == 0 else 1


def log_spaced_steps(total: int, count: int, first: int = 1) -> tuple[int, ...]:
    r"""Steps from the first to the last whose ratio is the same, as far as whole numbers allow.

    .. math:: s_i \approx f \, (T / f)^{i / (n - 1)}, \quad i = 0 \dots n - 1

    Parameters
    ----------
    total
        Steps of the training, :math:`T`.
    count
        How many are wanted, :math:`n`; fewer where there are not as many steps.
    first
        Where they begin, :math:`f`; the last step where that comes earlier.

    Returns
    -------
    tuple of int
        Ascending, each once; the last is `total`.

    Raises
    ------
    RankLabError
        If one is below 1.

    Examples
    --------
    >>> log_spaced_steps(1000, 8)
    (1, 3, 7, 19, 52, 139, 373, 1000)
    >>> log_spaced_steps(5, 9), log_spaced_steps(64, 7), log_spaced_steps(50, 1)
    ((1, 2, 3, 4, 5), (1, 2, 4, 8, 16, 32, 64), (50,))
    >>> log_spaced_steps(1000, 8, first=2), log_spaced_steps(1, 3, first=2)
    ((2, 5, 12, 29, 70, 169, 412, 1000), (1,))
    """
    if total < 1 or count < 1:
        raise RankLabError(f"{count} checkpoints in {total} steps: expected 1 or more of both.")
    if first < 1:
        raise RankLabError(f"checkpoints from step {first}: expected 1 or more.")
    first = min(first, total)
    number = min(total - first + 1, count)
    if number == 1:
        return (total,)
    found: list[int] = []
    for i in range(number):
        step = max(round(first * (total / first) ** (i / (number - 1))), found[-1] + 1 if found else first)
        found.append(min(step, total - (number - 1 - i)))  # room for those that follow
    return tuple(found)


def steps_to_save(total: int, wanted: int | Sequence[int], first: int = 1) -> tuple[int, ...]:
    """The steps that are asked for, and the last.

    A number of checkpoints begins at the first step that changes something: one before it would be the base once more,
    one of few spent on nothing, and with ties for what is compared. Steps that are asked for by themselves are kept.

    Parameters
    ----------
    total
        Steps of the training.
    wanted
        How many, spaced by their logarithm, or the steps themselves.
    first
        Where the spaced ones begin; see :func:`first_change`.

    Raises
    ------
    RankLabError
        If one lies outside of the training.

    Examples
    --------
    >>> steps_to_save(100, [10, 50, 10]), steps_to_save(100, 3)
    ((10, 50, 100), (1, 10, 100))
    >>> steps_to_save(200, 3, first=2), steps_to_save(200, [1], first=2)
    ((2, 20, 200), (1, 200))
    """
    if isinstance(wanted, int):
        return log_spaced_steps(total, wanted, first)
    outside = [step for step in wanted if not 1 <= step <= total]
    if outside:
        raise RankLabError(f"a checkpoint after step {outside[0]}: expected steps from 1 to {total}, the last.")
    return tuple(sorted({*wanted, total}))
