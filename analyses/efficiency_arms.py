"""What :mod:`analyses.parameter_efficiency` compares: methods in sizes, each at the same number of learning rates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS

__all__ = [
    "ADAPTER_RATES",
    "FULL_RATES",
    "KEPT",
    "WARMUP",
    "Arm",
    "arms",
    "more_arms",
    "quick_arms",
    "stated",
    "titles",
    "warmed_linear",
]

FULL_RATES = (1e-5, 4e-5, 1.6e-4, 6.4e-4)
ADAPTER_RATES = (2e-4, 8e-4, 3.2e-3, 1.28e-2)
"""Each method's rate in the registry is among them; the others are factors of four apart."""

KEPT = 0.7
"""Share of its parameters that SoRA may keep: the published claim's."""

WARMUP = 0.06
_GATE_TRAVEL = 2.0
"""How far Adam can move a gate over a run, so that some can fall from their start, one, to zero while others grow. At
the rate of all others short runs leave all gates nearly alike, and what shuts some of them all but shuts the others."""


@dataclass(frozen=True)
class Arm:
    """One method in one size, at every learning rate.

    Parameters
    ----------
    name
        Start of the names of its runs.
    title
        What tables and figures call it.
    method
        Of the registry.
    choices
        Of the method.
    learning_rates
        Ascending; as many for every arm.
    keep
        SoRA: share of the parameters at which its threshold stops to rise; None where the threshold is a number.
    """

    name: str
    title: str
    method: str
    choices: MethodChoices
    learning_rates: tuple[float, ...] = ADAPTER_RATES
    keep: float | None = None

    @property
    def default_rate(self) -> float:
        """Where the registry would begin to search."""
        return METHODS[self.method].learning_rate


def arms(steps: int) -> tuple[Arm, ...]:
    """The arms of the default study, those that are compared first."""
    return (
        _lora(8), _sora(8, steps),
        Arm("full", "full fine-tuning", "full", MethodChoices(), FULL_RATES),
        _lora(4),
        Arm("adalora-r6", "AdaLoRA, mean r = 6", "adalora", MethodChoices(rank=6)),
        _sora(4, steps), _lora(2),
        Arm("bitfit", "BitFit", "bitfit", MethodChoices()),
    )  # fmt: skip


def more_arms(steps: int) -> tuple[Arm, ...]:
    """The arms of the full size.

    Parameters
    ----------
    steps
        Of the optimizer, in a run.
    """
    return (
        *arms(steps), _lora(16), _sora(16, steps), _sora(2, steps),
        Arm("sora-fixed-r8", "SoRA, r at most 8, fixed λ", "sora", _fixed(steps, 8)),
        Arm("series-b16", "series adapter, 16 wide", "series", MethodChoices(bottleneck=16)),
    )  # fmt: skip


def quick_arms(steps: int) -> tuple[Arm, ...]:
    """LoRA and SoRA at two rates, to see that everything runs."""
    return tuple(
        Arm(arm.name, arm.title, arm.method, arm.choices, arm.learning_rates[1:3], arm.keep) for arm in arms(steps)[:2]
    )


def _lora(rank: int) -> Arm:
    return Arm(f"lora-r{rank}", f"LoRA, r = {rank}", "lora", MethodChoices(rank=rank))


def _sora(rank: int, steps: int) -> Arm:
    title = f"SoRA, r at most {rank}, {KEPT:.0%} kept"
    return Arm(f"sora-r{rank}", title, "sora", MethodChoices(rank=rank, gate_lr=gate_rate(steps)), keep=KEPT)


def _fixed(steps: int, rank: int) -> MethodChoices:
    """The threshold with which a gate that nothing holds closes with the last step; how many do is left to the data.

    Gates start at one, and a step shrinks them by their rate times the threshold.
    """
    rate = gate_rate(steps)
    return MethodChoices(rank=rank, gate_lr=rate, threshold=round(1.0 / (rate * sum(warmed_linear(steps))), 4))


def gate_rate(steps: int) -> float:
    """The rate of SoRA's gates, by the length of a run alone.

    Parameters
    ----------
    steps
        Of the optimizer, in a run.
    """
    return float(f"{_GATE_TRAVEL / sum(warmed_linear(steps)):.2g}")


def warmed_linear(steps: int, warmup: float = WARMUP) -> list[float]:
    """Share of the largest rate in each step: linear up over the warm-up, linear down to zero, as transformers has it.

    Parameters
    ----------
    steps
        Of the optimizer.
    warmup
        Share of them.

    Examples
    --------
    >>> warmed_linear(6, 1 / 3)
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """
    rising = -(-steps * warmup // 1)
    return [min(step / rising if rising else 1.0, (steps - step) / max(1.0, steps - rising)) for step in range(steps)]


def titles() -> dict[str, str]:
    """Arm to what tables call it."""
    return {arm.name: arm.title for arm in more_arms(100)}


def stated(chosen: Sequence[Arm]) -> list[dict[str, Any]]:
    """The arms as plain values, for a study's settings.

    Parameters
    ----------
    chosen
        Of the study.
    """
    return [
        {
            "name": arm.name, "method": arm.method, "rank": arm.choices.rank, "bottleneck": arm.choices.bottleneck,
            "threshold": arm.choices.threshold, "gate_lr": arm.choices.gate_lr, "keep": arm.keep,
            "learning_rates": list(arm.learning_rates),
        }
        for arm in chosen
    ]  # fmt: skip
