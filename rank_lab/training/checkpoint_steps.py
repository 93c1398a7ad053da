"""After which steps a training is saved: early ones close together, where most changes, later ones far apart."""

from collections.abc import Sequence

from rank_lab.errors import RankLabError

__all__ = ["log_spaced_steps", "steps_to_save"]


def log_spaced_steps(total: int, count: int) -> tuple[int, ...]:
    r"""Steps from 1 to the last whose ratio is the same, as far as whole numbers allow.

    .. math:: s_i \approx T^{i / (n - 1)}, \quad i = 0 \dots n - 1

    Parameters
    ----------
    total
        Steps of the training, :math:`T`.
    count
        How many are wanted, :math:`n`; fewer where there are not as many steps.

    Returns
    -------
    tuple of int
        Ascending, each once; the last is `total`.

    Raises
    ------
    RankLabError
        If either is below 1.

    Examples
    --------
    >>> log_spaced_steps(1000, 8)
    (1, 3, 7, 19, 52, 139, 373, 1000)
    >>> log_spaced_steps(5, 9), log_spaced_steps(64, 7), log_spaced_steps(50, 1)
    ((1, 2, 3, 4, 5), (1, 2, 4, 8, 16, 32, 64), (50,))
    """
    if total < 1 or count < 1:
        raise RankLabError(f"{count} checkpoints in {total} steps: expected 1 or more of both.")
    number = min(total, count)
    if number == 1:
        return (total,)
    found: list[int] = []
    for i in range(number):
        step = max(round(total ** (i / (number - 1))), found[-1] + 1 if found else 1)
        found.append(min(step, total - (number - 1 - i)))  # room for those that follow
    return tuple(found)


def steps_to_save(total: int, wanted: int | Sequence[int]) -> tuple[int, ...]:
    """The steps that are asked for, and the last.

    Parameters
    ----------
    total
        Steps of the training.
    wanted
        How many, spaced by their logarithm, or the steps themselves.

    Raises
    ------
    RankLabError
        If one lies outside of the training.

    Examples
    --------
    >>> steps_to_save(100, [10, 50, 10]), steps_to_save(100, 3)
    ((10, 50, 100), (1, 10, 100))
    """
    if isinstance(wanted, int):
        return log_spaced_steps(total, wanted)
    outside = [step for step in wanted if not 1 <= step <= total]
    if outside:
        raise RankLabError(f"a checkpoint after step {outside[0]}: expected steps from 1 to {total}, the last.")
    return tuple(sorted({*wanted, total}))
