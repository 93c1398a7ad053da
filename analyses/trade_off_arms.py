"""What :mod:`analyses.learning_vs_forgetting` compares: methods with their learning rates."""

from dataclasses import dataclass

from rank_lab.training.method import MethodChoices

__all__ = ["Arm", "arms", "quick_arms"]


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
        Of the method.
    learning_rates
        Ascending.
    """

    name: str
    title: str
    method: str
    choices: MethodChoices
    learning_rates: tuple[float, ...]


def _sora(steps: int) -> MethodChoices:
    """Gates start at one and shrink by rate x threshold a step: 1.2 in all, so that many close and some do not."""
    gate_lr = 0.1
    return MethodChoices(rank=32, gate_lr=gate_lr, threshold=round(1.2 / (gate_lr * steps), 4))


def arms(steps: int) -> tuple[Arm, ...]:
    """All arms for runs of so many steps."""
    adapters = (5e-4, 2e-3, 8e-3)
    return (
        Arm("full", "full fine-tuning", "full", MethodChoices(), (1e-4, 4e-4, 1.6e-3)),
        Arm("lora-r4", "LoRA, r = 4", "lora", MethodChoices(rank=4), adapters),
        Arm("lora-r32", "LoRA, r = 32", "lora", MethodChoices(rank=32), adapters),
        Arm("sora-r32", "SoRA, r at most 32", "sora", _sora(steps), adapters),
    )


def quick_arms(steps: int) -> tuple[Arm, ...]:
    """Two arms of one rate, to see that everything runs."""
    full, lora = arms(steps)[:2]
    return tuple(Arm(arm.name, arm.title, arm.method, arm.choices, arm.learning_rates[1:2]) for arm in (full, lora))
