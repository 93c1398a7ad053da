"""When a stage of training ends: a function of what the Trainer has logged, and of nothing else."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rank_lab.errors import RankLabError
from rank_lab.sora.thresholds import is_whole

__all__ = ["Stop", "StopRule", "checks_of", "gates_fell", "stopped"]

Stop = Literal["converged", "max_steps", "target_not_reached"]


@dataclass(frozen=True)
class StopRule:
    r"""A stage has converged when the number of non-zero gates rests and the training loss is flat.

    Checked every ``check_steps``: the number must be the same in the last
    ``patience`` checks, and the mean loss :math:`\bar L` of those must differ from
    that of the ``patience`` checks before by less than ``tolerance`` of the
    latter, :math:`|\bar L_2 - \bar L_1| < \tau |\bar L_1|`.

    A loss is also flat where the learning rate is tiny: with a schedule that falls
    to zero every stage "converges" in the end. The default arguments of
    :func:`rank_lab.sora.run_schedule` keep the rate constant after warm-up; a row
    that ended at less than a tenth of its largest rate says so in its warning.
    Nor does a count at rest say that gates are: those that start at one shrink for
    :math:`1 / (\eta\lambda)` steps (mode ``lr``) before the first can become zero.
    Choose ``min_steps`` above that where a small threshold is to show what it prunes.

    Parameters
    ----------
    min_steps
        No end before; must not lie within warm-up.
    max_steps
        The end at the latest, and the length of the learning rate's schedule; a multiple of ``check_steps``.
    check_steps
        Steps from check to check; a check's loss is the mean over them.
    patience
        Number of checks.
    tolerance
        Relative change of the loss.
    fall
        Share by which the mean loss of the last ``patience`` checks must lie below that of the first check: a loss is
        flat before it begins to fall, too. 0 asks for no fall.

    Raises
    ------
    RankLabError
        If a number is out of range.

    Examples
    --------
    >>> StopRule(max_steps=200).check_steps
    20
    """

    min_steps: int = 100
    max_steps: int = 1000
    check_steps: int = 20
    patience: int = 3
    tolerance: float = 0.01
    fall: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what could never stop, or stop at once."""
        for name in ("max_steps", "check_steps", "patience"):
            if not is_whole(getattr(self, name)) or getattr(self, name) < 1:
                raise RankLabError(f"{name} {getattr(self, name)!r}: expected a whole number, 1 or more.")
        if not is_whole(self.min_steps) or not 0 <= self.min_steps <= self.max_steps:
            raise RankLabError(f"min_steps {self.min_steps!r}: expected 0 to max_steps, {self.max_steps}.")
        if self.max_steps % self.check_steps:
            raise RankLabError(
                f"max_steps {self.max_steps} is no multiple of check_steps {self.check_steps}: the last steps would not"
                f" be checked; give {self.max_steps - self.max_steps % self.check_steps or self.check_steps}."
            )
        if not math.isfinite(self.tolerance) or self.tolerance < 0:
            raise RankLabError(f"tolerance {self.tolerance!r}: expected a fraction, 0 or more; 0 for max_steps always.")
        if not 0 <= self.fall < 1:
            raise RankLabError(f"fall {self.fall!r}: expected a share of the first loss, from 0 to below 1.")


def stopped(rule: StopRule, history: Sequence[Mapping[str, Any]]) -> Stop | None:
    """Whether training ends at the last check of a Trainer's log, and why.

    Parameters
    ----------
    rule
        Of the stage.
    history
        ``TrainerState.log_history`` of the stage's Trainer; entries without ``loss`` are no checks.
        ``target_reached`` is among them where the stage is driven to a target: it does not converge before.

    Returns
    -------
    str or None
        ``converged``, ``max_steps``, ``target_not_reached``, or None: go on.

    Examples
    --------
    >>> rule = StopRule(min_steps=4, max_steps=20, check_steps=2, patience=2)
    >>> flat = [{"step": step, "loss": 0.5, "nonzero_gates": 7} for step in (2, 4, 6, 8)]
    >>> stopped(rule, flat[:3]), stopped(rule, flat)
    (None, 'converged')
    >>> stopped(StopRule(min_steps=4, max_steps=20, check_steps=2, patience=2, fall=0.05), flat) is None
    True
    """
    checks = checks_of(history)
    if not checks:
        return None
    step, reached = int(checks[-1]["step"]), checks[-1].get("target_reached", True)
    if reached and step >= rule.min_steps and _rests(rule, checks):
        return "converged"
    if step < rule.max_steps:
        return None
    return "max_steps" if reached else "target_not_reached"


def gates_fell(rule: StopRule, history: Sequence[Mapping[str, Any]]) -> float:
    """Share of the gates' sum of absolute values that was lost in the last ``patience`` checks.

    From the check before them on; where there is none, from the first on.

    Parameters
    ----------
    rule, history
        See :func:`stopped`; checks hold ``gate_sum``.

    Examples
    --------
    >>> log = [{"step": step, "loss": 0.5, "nonzero_gates": 7, "gate_sum": 9 - step / 2} for step in (2, 4, 6, 8)]
    >>> round(gates_fell(StopRule(patience=3), log), 3)
    0.375
    """
    sums = [float(entry["gate_sum"]) for entry in checks_of(history)[-rule.patience - 1 :]]
    return 1 - sums[-1] / sums[0] if sums[0] > 0 else 0.0


def checks_of(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries of a log that are checks.

    Parameters
    ----------
    history
        See :func:`stopped`.
    """
    return [entry for entry in history if "loss" in entry]


def _rests(rule: StopRule, checks: Sequence[Mapping[str, Any]]) -> bool:
    if len(checks) < 2 * rule.patience:
        return False
    if len({entry["nonzero_gates"] for entry in checks[-rule.patience :]}) > 1:
        return False
    losses = [float(entry["loss"]) for entry in checks[-2 * rule.patience :]]
    before, last = math.fsum(losses[: rule.patience]), math.fsum(losses[rule.patience :])
    if rule.fall and last > (1 - rule.fall) * rule.patience * float(checks[0]["loss"]):
        return False
    return abs(last - before) < rule.tolerance * abs(before)
