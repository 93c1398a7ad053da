"""The proximal step: after each step of the optimizer, gates are shrunk and small ones become zero."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.optim import Optimizer

from rank_lab.errors import RankLabError
from rank_lab.sora.adam_metric import denominators_of
from rank_lab.sora.gates import GATE_FLAG, SHRUNK, local
from rank_lab.sora.live import carry, seen_and_unchanged
from rank_lab.sora.thresholds import MODES, OPERATORS, check_threshold

__all__ = ["GateController", "ProximalStep", "innermost_optimizer"]

Threshold = float | Callable[[int], float]
_Gates = Sequence[tuple[dict[str, Any], Tensor]]
_CONTROLLER = "controller"
_RECORDED = ("mode", "operator", "prox_start_step", "adam_rms", "revive")


@runtime_checkable
class GateController(Protocol):
    """A threshold that goes by the gates; all that it goes by is in its state.

    See :class:`rank_lab.sora.target.TargetThreshold`.
    """

    def __call__(self, step: int) -> float:
        """The threshold in force after that step."""
        ...

    def begin(self) -> None:
        """Training begins: forget an earlier one."""
        ...

    def before_step(self, gates: Sequence[Tensor]) -> list[Tensor]:
        """Which values of each vector of gates stay zero in this step."""
        ...

    def after_step(self, step: int, mode: str, shrunk: Callable[[float], list[Tensor]]) -> None:
        """Decide on this step's threshold; ``shrunk`` tells what gates would be with one."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        ...


class ProximalStep:
    r"""Shrinks the gates of an optimizer's flagged group, exactly once per real step of it.

    It hooks itself into the innermost torch optimizer: steps that gradient
    accumulation or a loss scaler leaves out are left out here too. With
    :math:`\lambda` from ``threshold`` and the step's learning rate :math:`\eta`,
    a gate is shrunk by

    - ``"lr"``: :math:`\eta\lambda`, the paper's formula;
    - ``"adam"``: :math:`\eta\lambda / (\sqrt{\hat v} + \epsilon)`, the proximal
      step in Adam's own metric: :math:`\lambda` is in units of the loss's
      gradient, and what remains does not depend on the length of training;
    - ``"constant"``: :math:`\lambda`, as published: with a falling learning rate
      it has no point of rest, and what remains is a function of the run's length.

    In the mode ``adam`` a gate whose gradient was zero in all steps so far has no
    metric yet and is left as it is (B starts at zero: so are all gates in the
    first step); while gradients are still tiny the threshold is large, so that
    training from the usual start needs ``prox_start_step`` (the end of warm-up)
    or ``adam_rms``.

    Parameters
    ----------
    optimizer
        Any torch optimizer, or a wrapper around one, with a group from
        :func:`rank_lab.sora.parameter_groups`.
    threshold
        :math:`\lambda`: a number, or a function of the step (from 0), which must
        depend on nothing else: that is what makes a resumed run the same run. Or a
        :class:`GateController`, whose state is saved and loaded with this one's.
    mode, operator
        See above, and :mod:`rank_lab.sora.thresholds`.
    prox_start_step
        First step after which gates are shrunk.
    adam_rms
        Mode ``adam``: the root mean square of each module's
        :math:`\sqrt{\hat v}` in place of each gate's own.
    revive
        Whether a gate that was zero before a step may be other than zero after it.

    Raises
    ------
    RankLabError
        If there is no flagged group, its values are not gates in float32 or
        wider, the optimizer has no second moments that mode ``adam`` needs, or a
        threshold is negative or no number.

    Examples
    --------
    >>> gate = torch.nn.Parameter(torch.tensor([1.0, 0.05]))
    >>> optimizer = torch.optim.SGD([{"params": [gate], "sora_gate": True}], lr=0.1)
    >>> step = ProximalStep(optimizer, threshold=1.0, mode="lr")
    >>> gate.grad = torch.zeros(2)
    >>> optimizer.step()
    >>> gate.data, step.calls
    (tensor([0.9000, 0.0000]), 1)
    """

    def __init__(
        self,
        optimizer: Any,
        threshold: Threshold,
        mode: str = "lr",
        operator: str = "soft",
        *,
        prox_start_step: int = 0,
        adam_rms: bool = False,
        revive: bool = True,
    ) -> None:
        if mode not in MODES:
            raise RankLabError(f"mode {mode!r}: expected one of {', '.join(MODES)}.")
        if operator not in OPERATORS:
            raise RankLabError(f"operator {operator!r}: expected one of {', '.join(OPERATORS)}.")
        if not callable(threshold):
            check_threshold(threshold, "threshold")
        self.optimizer = innermost_optimizer(optimizer)
        self.threshold = threshold
        self.mode, self.operator = mode, operator
        self.prox_start_step, self.adam_rms, self.revive = prox_start_step, adam_rms, revive
        self.calls = 0
        """Steps of the optimizer that it has seen, this run and those that it was resumed from."""
        self.skipped = 0
        """Calls in which a fused optimizer left its values as they were, because gradients overflowed."""
        self.step_of: Callable[[], int] | None = None
        """Where the number of the step comes from; None for the number of calls so far."""
        self._closed: list[Tensor] = []
        self._looked_at: list[Tensor] = []
        self._controller = threshold if isinstance(threshold, GateController) else None
        if self._controller is not None:
            self._controller.begin()
        _check_gates(list(self._gates()))
        for _, gate in self._gates():
            setattr(gate, SHRUNK, True)
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before),
            self.optimizer.register_step_post_hook(self._after),
        ]

    def detach(self) -> None:
        """Take the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()

    def threshold_at(self, step: int) -> float:
        r""":math:`\lambda` in force after that step.

        Raises
        ------
        RankLabError
            If the function that was given returns what is no threshold.
        """
        value = self.threshold(step) if callable(self.threshold) else self.threshold
        return check_threshold(value, f"threshold at step {step}")

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs and what a reader of the run wants to know, as plain values."""
        step = self.step
        last = self.threshold_at(max(step - 1, 0))  # a function may end with the run
        state = {"calls": self.calls, "step": step, "threshold": last} | self.settings()
        return state if self._controller is None else state | {_CONTROLLER: self._controller.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from there.

        Raises
        ------
        RankLabError
            If it was saved with other settings; the first difference is named.
        """
        for name, value in self.settings().items():
            if name in state and state[name] != value:
                raise RankLabError(
                    f"the run was saved with {name}={state[name]!r} and would go on with {value!r}; resume with the"
                    " same settings, or start a new run from its adapter."
                )
        if "calls" not in state:
            raise RankLabError(f"a state of {sorted(state)} is not one of ProximalStep; expected its state_dict().")
        if (_CONTROLLER in state) != (self._controller is not None):
            raise RankLabError(
                "the run was saved with a threshold that goes by the gates and would go on without, or the other way"
                " round; resume with the same kind of threshold, or start a new run from its adapter."
            )
        if self._controller is not None:
            self._controller.load_state_dict(state[_CONTROLLER])
        self.calls = int(state["calls"])

    def settings(self) -> dict[str, Any]:
        """How thresholds follow from the numbers; without the numbers themselves."""
        return {name: getattr(self, name) for name in _RECORDED}

    @property
    def step(self) -> int:
        """Number of the step that comes next, or that is being taken: from 0."""
        return self.calls if self.step_of is None else self.step_of()

    def _gates(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.optimizer.param_groups:
            if group.get(GATE_FLAG):
                for gate in group["params"]:
                    yield group, gate

    def _before(self, *_: Any) -> None:
        gates = list(self._gates())
        vectors = [gate for _, gate in gates]
        self._closed = [] if self.revive else _joint(gates, lambda _group, _places, values: values == 0)
        self._looked_at = [] if self.revive else seen_and_unchanged(vectors)
        if self._controller is not None and gates:
            held = self._controller.before_step(vectors)
            self._closed = [a | b for a, b in zip(self._closed, held, strict=True)] if self._closed else held

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        gates = list(self._gates())
        if not gates:  # one of several groups that a wrapper steps one by one
            return
        overflowed = getattr(self.optimizer, "found_inf", None)  # a loss scaler leaves skipping to a fused optimizer
        if overflowed is not None and float(overflowed) > 0:
            self.skipped += 1
            carry(self._looked_at)
            return
        vectors = [local(gate) for _, gate in gates]
        if self._closed:
            torch._foreach_copy_(vectors, _joint(gates, self._shut))
        step = self.step
        acts = step >= self.prox_start_step
        if self._controller is not None and acts:
            self._controller.after_step(step, self.mode, lambda strength: self._shrunk(gates, strength))
        strength = self.threshold_at(step)
        if acts:
            torch._foreach_copy_(vectors, self._shrunk(gates, strength))
        carry(self._looked_at)
        self.calls += 1

    def _shut(self, _group: dict[str, Any], places: list[int], values: Tensor) -> Tensor:
        return values.masked_fill(torch.cat([self._closed[place] for place in places]), 0.0)

    def _shrunk(self, gates: _Gates, strength: float) -> list[Tensor]:
        def shrink(group: dict[str, Any], places: list[int], values: Tensor) -> Tensor:
            held = [gates[place][1] for place in places]
            return OPERATORS[self.operator](values, self._threshold_of(held, group, strength))

        return _joint(gates, shrink)

    def _threshold_of(self, gates: list[Tensor], group: dict[str, Any], strength: float) -> float | Tensor:
        if self.mode == "constant":
            return strength
        size = strength * float(group["lr"])
        if self.mode == "lr":
            return size
        return size / denominators_of(self.optimizer, gates, group, adam_rms=self.adam_rms)


def _joint(gates: _Gates, function: Callable[[dict[str, Any], list[int], Tensor], Tensor]) -> list[Tensor]:
    """A function of all gates of one group, device and type at once, in parts: a pass for each gate is far slower."""
    alike: dict[Any, list[int]] = {}
    for place, (group, gate) in enumerate(gates):
        alike.setdefault((id(group), gate.device, gate.dtype), []).append(place)
    found: dict[int, Tensor] = {}
    for places in alike.values():
        parts = [local(gates[place][1]) for place in places]
        values = function(gates[places[0]][0], places, torch.cat(parts))
        found.update(zip(places, values.split([len(part) for part in parts]), strict=True))
    return [found[place] for place in range(len(gates))]


def innermost_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside of wrappers.

    Raises
    ------
    RankLabError
        If there is none to hook into.
    """
    while not (isinstance(optimizer, Optimizer) and hasattr(optimizer, "_optimizer_step_post_hooks")):
        inner = getattr(optimizer, "optimizer", None)
        if inner is None or inner is optimizer:
            raise RankLabError(
                f"{type(optimizer).__name__} is no torch optimizer and holds none; give the optimizer that steps the"
                " gates (one that DeepSpeed defines in its own config cannot be used)."
            )
        optimizer = inner
    return optimizer


def _check_gates(gates: list[tuple[dict[str, Any], Tensor]]) -> None:
    if not gates:
        raise RankLabError(
            f"no parameter group of the optimizer is flagged {GATE_FLAG!r}: gates would stay dense; build it with"
            " rank_lab.sora.parameter_groups(model), or train with SoraTrainer."
        )
    for group, gate in gates:
        if type(gate).__name__ == "FlatParameter" or gate.ndim != 1:
            raise RankLabError(
                f"the flagged group holds a tensor of shape {list(gate.shape)} ({type(gate).__name__}); expected gates,"
                " one vector per module: FSDP2 (fully_shard) keeps them, flattening wrappers do not."
            )
        if gate.dtype not in (torch.float32, torch.float64):
            raise RankLabError(
                f"a gate is {gate.dtype}: steps of 1e-4 vanish in it; keep gates in float32 (do not cast the adapted"
                " model; cast the base before get_peft_model)."
            )
        if group.get("weight_decay"):
            raise RankLabError(
                f"the gates have weight_decay {group['weight_decay']:g}, which shrinks them beside the threshold; give"
                " their group weight_decay 0."
            )
