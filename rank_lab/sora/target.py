r"""Thresholds that are driven by a target: so many gates, or so many parameters, are to remain.

With gates that start at one nothing is pruned until all that was subtracted
nears one, and soon after everything is: which threshold leaves how many gates
cannot be said beforehand. Here the count is given, and the threshold follows.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import RankLabError
from rank_lab.sora.gates import GatedModule, gate_parameters, gated_layers
from rank_lab.sora.thresholds import check_threshold, is_whole

__all__ = ["TARGET_KINDS", "TargetThreshold", "gate_costs", "target_counts"]

TARGET_KINDS = ("rank", "parameters")
"""A mean number of non-zero gates per module, or an exact number of non-zero parameters."""

_MARK = 0.5  # share of the stage at which gates that nothing holds are gone
_DOUBLINGS = 8.0  # of the threshold until the mark
_HASTE = 4  # how much faster the threshold doubles after the mark
_MOVING = ("first_step", "start", "reached_step", "reached_threshold", "count")
_LARGEST = 1e30  # closes every gate in one step, and is finite in float32


class TargetThreshold:
    r"""The threshold of one stage, which rises until a target is reached and is zero from then on.

    The threshold doubles again and again, :math:`\lambda(t) = \lambda_0\,
    2^{(t - t_0)/D}`, in the units of the mode, until what remains is at or below
    the target. In that step it is lowered to the smallest value that does it: gates
    go in the order in which a rising threshold closes them, so that the target is
    hit exactly; it is missed, by less than one gate's cost, only where costs
    do not add up to it, and where gates are exactly equal. From then on the
    threshold is zero, zero gates stay zero, and the others train on.

    Nothing is left to tune. At the first step that can shrink, :math:`t_0`, the
    threshold :math:`\lambda_1` is found that would reach the target at once, and
    :math:`\lambda_0` is such that the sum of all shrinking until the mark,
    half of the stage, comes to the same, :math:`\sum_t \eta_t \lambda(t) =
    \eta_{t_0} \lambda_1`: gates that nothing holds are gone by the mark. Those that
    the loss holds need more: after the mark the threshold doubles four times as
    often, so that the rest of the stage is left for training. The mode ``constant``
    has no :math:`\eta`.

    Before the target is reached a gate that closed in this stage may open again if
    the step says so (``revive``); gates that were closed when the stage began do not.

    Parameters
    ----------
    target
        What may remain, in units of the costs; see :func:`target_counts`.
    costs
        What each gate of a vector costs; see :func:`gate_costs`.
    rates
        Learning rate of the gates in each step of the stage, as many as it may have at most.

    Raises
    ------
    RankLabError
        If the target is no such number, or there are no rates; while training, if
        gates are not those that costs were given for, or are spread over processes.

    Examples
    --------
    >>> from rank_lab.sora import ProximalStep
    >>> gate = nn.Parameter(torch.tensor([1.0, 0.5, 0.25, -0.75]))
    >>> optimizer = torch.optim.SGD([{"params": [gate], "sora_gate": True}], lr=0.1)
    >>> threshold = TargetThreshold(2, {gate: 1}, rates=[0.1] * 40)
    >>> step = ProximalStep(optimizer, threshold, mode="lr")
    >>> gate.grad = torch.zeros(4)
    >>> for _ in range(40):
    ...     optimizer.step()
    >>> threshold.reached, threshold(40), [round(value, 3) for value in gate.tolist()]
    (True, 0.0, [0.5, 0.0, 0.0, -0.25])
    """

    def __init__(self, target: int, costs: Mapping[Tensor, int], rates: Sequence[float]) -> None:
        if not is_whole(target) or target < 1:
            raise RankLabError(f"target {target!r}: expected a whole number of gates or parameters, 1 or more.")
        if not rates:
            raise RankLabError("a stage of 0 steps; expected a learning rate for each step.")
        self.target = target
        self.rates = tuple(check_threshold(rate, f"rate of step {step}") for step, rate in enumerate(rates))
        self._given = dict(costs)
        self.begin()

    def begin(self) -> None:
        """A stage begins: forget an earlier one."""
        self.first_step: int | None = None
        """The step in which the rise began."""
        self.start = 0.0
        """The threshold there."""
        self.reached_step: int | None = None
        """The step in which the target was reached."""
        self.reached_threshold = 0.0
        """The threshold there."""
        self.count: int | None = None
        """What remains: the cost of all non-zero gates after the last step."""
        self._closed: list[list[int]] | None = None
        self._costs: list[int] = []

    @property
    def steps(self) -> int:
        """How many steps the stage may have."""
        return len(self.rates)

    @property
    def reached(self) -> bool:
        """Whether the target was reached: before, a stage has not converged."""
        return self.reached_step is not None

    def __call__(self, step: int) -> float:
        """The threshold in force after that step; 0 before the rise, and after the target was reached."""
        if self.first_step is None or step < self.first_step:
            return 0.0
        if self.reached_step is not None and step >= self.reached_step:
            return self.reached_threshold if step == self.reached_step else 0.0
        rise, taken = self._rise(self.first_step), step - self.first_step
        doublings = (taken + (_HASTE - 1) * max(taken - rise, 0)) * _DOUBLINGS / rise
        return float(min(self.start * 2.0 ** min(doublings, 900.0), _LARGEST))

    def before_step(self, gates: Sequence[Tensor]) -> list[Tensor]:
        """Which gates stay zero: those that were when the stage began; once the target is reached, all that are."""
        if any(hasattr(gate, "to_local") for gate in gates):
            raise RankLabError(
                "a target with gates that are spread over processes (FSDP2): none sees how many remain; give"
                " thresholds, or train on one device or with DDP."
            )
        strange = sum(gate not in self._given for gate in gates)
        if strange or len(gates) != len(self._given):
            raise RankLabError(
                f"the optimizer shrinks {len(gates)} vectors of gates, {strange} of them unknown, where costs were"
                f" given for {len(self._given)}; give gate_costs of the model that is trained."
            )
        self._costs = [self._given[gate] for gate in gates]
        zero = [gate.detach() == 0 for gate in gates]
        if self._closed is None:
            self._closed = [torch.nonzero(each).flatten().tolist() for each in zero]
        return zero if self.reached else [_mask(each, closed) for each, closed in zip(zero, self._closed, strict=True)]

    def after_step(self, step: int, mode: str, shrunk: Callable[[float], list[Tensor]]) -> None:
        """Decide on this step's threshold, from what each would leave."""

        def count(threshold: float) -> int:
            left = [torch.count_nonzero(gates) for gates in shrunk(threshold)]
            counts = torch.stack([each.to(left[0].device) for each in left]).tolist()  # a device is asked once for all
            return sum(cost * int(gates) for cost, gates in zip(self._costs, counts, strict=True))

        if self.reached:
            self.count = count(0.0)
            return
        if self.first_step is None:
            self._begin_rise(step, mode, count)
        self.count = count(self(step))
        if self.count <= self.target:
            self.reached_threshold = _smallest(count, self.target, self(step))
            self.reached_step, self.count = step, count(self.reached_threshold)

    def _begin_rise(self, step: int, mode: str, count: Callable[[float], int]) -> None:
        """At the first step that can shrink: the start with which gates that nothing holds are gone by the mark."""
        if step >= self.steps or count(_LARGEST) > self.target:
            return
        weights = self.rates if mode != "constant" else (1.0,) * self.steps
        rise, at_once = self._rise(step), _smallest(count, self.target, _LARGEST)
        total = sum(weights[step + i] * 2.0 ** (i * _DOUBLINGS / rise) for i in range(rise))
        if weights[step] > 0 or not at_once:
            self.first_step, self.start = step, weights[step] * at_once / total if at_once else 0.0

    def _rise(self, first: int) -> int:
        """Steps until the mark."""
        return max(1, math.ceil(_MARK * (self.steps - first)))

    @property
    def _fixed(self) -> dict[str, Any]:
        return {"target": self.target, "steps": self.steps, "mark": _MARK, "doublings": _DOUBLINGS}

    def state_dict(self) -> dict[str, Any]:
        """All that the rest of the stage depends on, as plain values."""
        return self._fixed | {name: getattr(self, name) for name in _MOVING} | {"closed": self._closed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises
        ------
        RankLabError
            If it was saved with another target or another stage; the first difference is named.
        """
        for name, value in self._fixed.items():
            if state.get(name) != value:
                raise RankLabError(
                    f"the stage was saved with {name}={state.get(name)!r} and would go on with {value!r}; resume with"
                    " the same target, or start a new run from its adapter."
                )
        for name in _MOVING:
            setattr(self, name, state[name])
        self._closed = state["closed"]


def _mask(like: Tensor, places: list[int]) -> Tensor:
    mask = torch.zeros_like(like)
    mask[places] = True
    return mask


def _smallest(count: Callable[[float], int], target: int, high: float) -> float:
    """The smallest threshold that leaves no more than the target, by bisection to the last bit; ``high`` does."""
    if count(0.0) <= target:
        return 0.0
    low = 0.0
    while low < (middle := low + (high - low) / 2) < high:
        if count(middle) <= target:
            high = middle
        else:
            low = middle
    return high


def gate_costs(kind: str, model: nn.Module, adapter: str = "default") -> dict[Tensor, int]:
    r"""What one gate of each vector costs: 1, or :math:`\mathrm{in} + \mathrm{out}` of its module.

    Parameters
    ----------
    kind
        ``rank`` or ``parameters``.
    model
        With a SoRA adapter.
    adapter
        Its name.

    Raises
    ------
    RankLabError
        If there is no such kind, or a gate of the adapter is not trained.

    Examples
    --------
    >>> from peft import get_peft_model
    >>> from rank_lab.sora import SoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 3)), SoraConfig(r=2, target_modules=["0"]))
    >>> list(gate_costs("rank", model).values()), list(gate_costs("parameters", model).values())
    ([1], [7])
    """
    _check_kind(kind)
    trained = {id(gate) for gate in gate_parameters(model).values()}
    costs: dict[Tensor, int] = {}
    for name, layer in gated_layers(model, adapter):
        gate = layer.lora_gate[adapter]
        if id(gate) not in trained:
            raise RankLabError(
                f"{name}: its gate is not trained, so that no threshold can close it; set requires_grad, or leave the"
                " module out of target_modules."
            )
        size = layer.lora_A[adapter].weight.shape[1] + layer.lora_B[adapter].weight.shape[0]
        costs[gate] = 1 if kind == "rank" else int(size)
    return costs


def target_counts(kind: str, targets: Sequence[float], modules: Sequence[GatedModule]) -> tuple[int, ...]:
    """Whole numbers that a list of targets comes to: gates in all, or parameters.

    Parameters
    ----------
    kind
        ``rank``: each target is the mean number of non-zero gates per module; the
        number of gates is rounded down. ``parameters``: exact non-zero parameters.
    targets
        Decreasing.
    modules
        From :func:`rank_lab.sora.gated_modules`.

    Raises
    ------
    RankLabError
        If a target is no finite number, leaves less than one gate or is more than
        there is, or the list does not decrease.

    Examples
    --------
    >>> modules = [GatedModule("up", 12, 4, rank=8, nonzero=8), GatedModule("down", 4, 12, rank=8, nonzero=8)]
    >>> target_counts("rank", [4, 1.75], modules), target_counts("parameters", [128, 40], modules)
    ((8, 3), (128, 40))
    """
    _check_kind(kind)
    counts = [_count(kind, target, modules) for target in targets]
    for i in range(1, len(counts)):
        if counts[i] >= counts[i - 1]:
            unit = "gates" if kind == "rank" else "parameters"
            raise RankLabError(
                f"targets {targets[i - 1]!r}, {targets[i]!r} come to {counts[i - 1]} and {counts[i]} {unit}; expected"
                " each to be less than the one before."
            )
    return tuple(counts)


def _check_kind(kind: str) -> None:
    if kind not in TARGET_KINDS:
        raise RankLabError(f"target kind {kind!r}: expected one of {', '.join(TARGET_KINDS)}.")


def _count(kind: str, target: float, modules: Sequence[GatedModule]) -> int:
    number = isinstance(target, int | float) and not isinstance(target, bool) and math.isfinite(target)
    if not number or (kind == "parameters" and target != int(target)):
        expected = "a finite number" if kind == "rank" else "a whole number"
        raise RankLabError(f"target {kind} {target!r}: expected {expected} above 0.")
    sizes = [module.in_features + module.out_features for module in modules]
    if kind == "rank":
        count, least, most = math.floor(target * len(modules)), 1, sum(module.rank for module in modules)
    else:
        count, least = int(target), min(sizes)
        most = sum(size * module.rank for size, module in zip(sizes, modules, strict=True))
    if not least <= count <= most:
        unit = "gates" if kind == "rank" else "parameters"
        raise RankLabError(
            f"target {kind} {target!r} comes to {count} {unit} over {len(modules)} modules; expected {least} (one gate)"
            f" to {most} (all of them)."
        )
    return count
