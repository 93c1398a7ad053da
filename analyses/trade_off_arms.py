"""What :mod:`analyses.learning_vs_forgetting` compares: methods with their learning rates."""

from dataclasses import dataclass

from rank_lab.training.method import MethodChoices

__all__ = ["ARMS", "QUICK_ARMS", "Arm", "arm_named", "choices_of"]

_RATES = (2.5e-4, 1e-3, 4e-3, 1.6e-2)
_GATE_LR, _SHRINKAGE = 0.1, 1.2
_HIGH_RANK = 256
_PLACES = {"attention": "attention", "mlp": "feed-forward"}
_USUAL = MethodChoices()


@dataclass(frozen=True)
class Arm:
    """One method in one size, at every learning rate.

    Parameters
    ----------
    name
        Start of the names of its runs.
    title
        What figures call it.
    method
        Of the registry.
    choices
        Of the method; see :func:`choices_of`.
    rates
        Learning rates, ascending, as many for each arm, a factor of four apart, about a middle that short runs on
        the demo's base and on an early one of this study gave.
    """

    name: str
    title: str
    method: str
    choices: MethodChoices = _USUAL
    rates: tuple[float, ...] = _RATES


def _times(factor: float) -> tuple[float, ...]:
    return tuple(factor * rate for rate in _RATES)


def _lora(rank: int, targets: str) -> Arm:
    where = "" if targets == "all" else f" ({_PLACES[targets]})"
    rates = _RATES if rank < _HIGH_RANK else _times(1 / 4)
    choices = MethodChoices(rank=rank, targets=targets)
    return Arm(f"lora-r{rank}-{targets}", f"LoRA r = {rank}{where}", "lora", choices, rates)


ARMS = (
    Arm("full", "full fine-tuning", "full", rates=_times(1 / 4)),
    *(_lora(rank, targets) for rank in (16, _HIGH_RANK) for targets in ("all", "attention", "mlp")),
    Arm("sora-r64", "SoRA (r at most 64)", "sora", MethodChoices(rank=64, gate_lr=_GATE_LR)),
    Arm("adalora-r16", "AdaLoRA (mean r = 16)", "adalora", MethodChoices(rank=16), _times(4)),
    Arm("pissa-r16", "PiSSA r = 16", "pissa", MethodChoices(rank=16)),
    Arm("series-64", "series adapter (width 64)", "series", MethodChoices(bottleneck=64)),
)
"""Rank 16, width 64 and, at the start, SoRA's 64 have as many trained parameters or four times as many; rank 256 is
full for the attention of a model of width 256."""

QUICK_ARMS = tuple(Arm(arm.name, arm.title, arm.method, arm.choices, arm.rates[1:2]) for arm in ARMS if arm.name in (
    "full", "lora-r16-all", "series-64"))  # fmt: skip


def arm_named(name: str) -> Arm:
    """One of :data:`ARMS`.

    Parameters
    ----------
    name
        Of the arm.
    """
    return next(arm for arm in ARMS if arm.name == name)


def choices_of(arm: Arm, steps: int) -> MethodChoices:
    """The arm's choices for runs of so many steps.

    SoRA's gates start at one and shrink by rate x threshold a step: by 1.2 in all, in any number of steps, so that many
    close and some do not.

    Parameters
    ----------
    arm
        Of :data:`ARMS`.
    steps
        Of optimizer.
    """
    if arm.method != "sora":
        return arm.choices
    threshold = round(_SHRINKAGE / (_GATE_LR * steps), 4)
    return MethodChoices(rank=arm.choices.rank, gate_lr=_GATE_LR, threshold=threshold)
