"""What a file of results does not say of its scores, and what becomes of those that are no scores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rank_lab.errors import DataError
from rank_lab.plain_text import plain
from rank_lab.score_row import ROLES, ScoreRow
from rank_lab.scores import nearest

__all__ = ["HIGHER_IS_BETTER", "Imported", "LeftOut", "Origin", "direction", "number"]

HIGHER_IS_BETTER: Mapping[str, bool] = {
    **dict.fromkeys(("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "acc_all", "accuracy", "token_accuracy"), True),
    **dict.fromkeys(("exact_match", "f1", "mcc", "matthews_correlation", "pearson", "spearman", "likelihood"), True),
    **dict.fromkeys(("bleu", "chrf", "chrf++"), True),
    **dict.fromkeys(("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "cross_entropy"), False),
    **dict.fromkeys(("pseudo_cross_entropy", "pseudo_perplexity", "loss", "kl_from_base", "ter", "brier_score"), False),
}
"""Of metrics whose direction is their definition; pass@k is one of the first."""


@dataclass(frozen=True)
class Origin:
    """What the caller knows of the model that was scored.

    Parameters
    ----------
    run, method, step
        As of a :class:`rank_lab.score_table.ScoreRow`; None where the file says it itself.
    roles
        Task to ``"source"`` or ``"target"``.
    chance
        Task to the score of a model that guesses.

    Raises
    ------
    DataError
        If a role is none.
    """

    run: str | None = None
    method: str | None = None
    step: int | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse roles that are none."""
        for task, role in self.roles.items():
            if role not in ROLES:
                raise DataError(f"task {task!r}: role {role!r}, expected 'source', 'target' or none.")

    def named(self, file: str) -> tuple[str, str]:
        """Run and method, which files of this kind do not hold.

        Raises
        ------
        DataError
            If they were not given.
        """
        if self.run is None or self.method is None:
            missing = " and ".join(name for name in ("run", "method") if getattr(self, name) is None)
            raise DataError(
                f"{file}: does not say which {missing} it is of; give it (the untuned model: method 'base', step 0)."
            )
        return self.run, self.method

    def check_tasks(self, file: str, tasks: Iterable[str]) -> None:
        """Refuse a role or a chance of a task that the file does not have.

        Raises
        ------
        DataError
            Naming the nearest tasks.
        """
        known = list(tasks)
        unknown = [task for task in (*self.roles, *self.chance) if task not in known]
        if unknown:
            raise DataError(
                f"{file}: has no task {unknown[0]!r}. Nearest: {plain(nearest(unknown[0], known), limit=400)}."
            )


@dataclass(frozen=True)
class LeftOut:
    """Something in a file that is no row of the table.

    Parameters
    ----------
    name
        Task and metric.
    reason
        Why.
    """

    name: str
    reason: str

    def __post_init__(self) -> None:
        """Make what stood in a file safe to print."""
        for attribute in ("name", "reason"):
            object.__setattr__(self, attribute, plain(getattr(self, attribute), limit=500))


@dataclass(frozen=True)
class Imported:
    """What was read from a file of results.

    Parameters
    ----------
    rows
        The scores.
    left_out
        What else the file holds, or what could not be had of a score, and why.
    """

    rows: tuple[ScoreRow, ...]
    left_out: tuple[LeftOut, ...] = ()

    def or_refused(self, file: str) -> "Imported":
        """Itself, if there is a row.

        Raises
        ------
        DataError
            If there is none; the first reason is given.
        """
        if not self.rows:
            why = f" ({self.left_out[0].name}: {self.left_out[0].reason})" if self.left_out else ""
            raise DataError(f"{file}: no number in it is a score{why}.")
        return self


def number(value: Any) -> float | None:
    """A number of a file as a float; None for what is none, or too large for one.

    Parameters
    ----------
    value
        Any content of JSON.

    Examples
    --------
    >>> number(3), number(True), number("3"), number(10**400)
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def direction(metric: str) -> bool | None:
    """Whether a larger value is better, of metrics whose definition says so; None of all others.

    Parameters
    ----------
    metric
        Its name, with lm-eval's filter or without.

    Examples
    --------
    >>> direction("exact_match,strict-match"), direction("pass@10"), direction("word_perplexity"), direction("taste")
    (True, True, False, None)
    """
    name = metric.split(",", maxsplit=1)[0]
    if name.startswith("pass@") and name.removeprefix("pass@").isdigit():
        return True
    return HIGHER_IS_BETTER.get(name)
