"""The proximal step: after each step of the optimizer, gates are shrunk and small ones become zero."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from rank_lab.errors import RankLabError
from rank_lab.sora.gates import GATE_FLAG, whole
from rank_lab.sora.live import carry, seen_and_unchanged
from rank_lab.sora.thresholds import MODES, OPERATORS, check_threshold

__all__ = ["ProximalStep", "innermost_optimizer"]

Threshold = float | Callable[[int], float]
_RECORDED = ("mode", "operator", "prox_start_step", "adam_rms", "revive")


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
        depend on nothing else: that is what makes a resumed run the same run.
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
        _check_gates(list(self._gates()))
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
        return {"calls": self.calls, "step": step, "threshold": last} | self.settings()

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
        self._closed, self._looked_at = [], []
        if not self.revive:
            self._closed = [torch.cat([_local(gate) for gate in gates]) == 0 for _, gates in self._alike()]
            self._looked_at = seen_and_unchanged(gate for _, gate in self._gates())

    @torch.no_grad()
    def _after(self, *_: Any) -> None:
        alike = self._alike()
        if not alike:  # one of several groups that a wrapper steps one by one
            return
        overflowed = getattr(self.optimizer, "found_inf", None)  # a loss scaler leaves skipping to a fused optimizer
        if overflowed is not None and float(overflowed) > 0:
            self.skipped += 1
            carry(self._looked_at)
            return
        step = self.step
        strength = self.threshold_at(step)
        shrinks = step >= self.prox_start_step
        for number, (group, gates) in enumerate(alike if shrinks or self._closed else []):
            parts = [_local(gate) for gate in gates]
            values = torch.cat(parts)
            if shrinks:
                values = OPERATORS[self.operator](values, self._threshold_of(gates, group, strength))
            if self._closed:
                values = values.masked_fill(self._closed[number], 0.0)
            torch._foreach_copy_(parts, values.split([len(part) for part in parts]))
        carry(self._looked_at)
        self.calls += 1

    def _alike(self) -> list[tuple[dict[str, Any], list[Tensor]]]:
        """Gates that one pass can shrink: of one group, on one device, in one type. A pass for each is far slower."""
        found: dict[Any, tuple[dict[str, Any], list[Tensor]]] = {}
        for group, gate in self._gates():
            found.setdefault((id(group), gate.device, gate.dtype), (group, []))[1].append(gate)
        return list(found.values())

    def _threshold_of(self, gates: list[Tensor], group: dict[str, Any], strength: float) -> float | Tensor:
        if self.mode == "constant":
            return strength
        size = strength * float(group["lr"])
        return size if self.mode == "lr" else self._in_adams_metric(gates, group, size)

    def _in_adams_metric(self, gates: list[Tensor], group: dict[str, Any], size: float) -> Tensor:
        moments, steps = zip(*(self._second_moment(gate) for gate in gates), strict=True)
        taken = torch.stack([step.to(steps[0].device) for step in steps]).tolist()  # a device is asked once for all
        corrections = [1 - group["betas"][1] ** step for step in taken]
        if len(set(corrections)) == 1:
            own = torch.cat(moments) / corrections[0]
        else:
            own = torch.cat([moment / by for moment, by in zip(moments, corrections, strict=True)])
        return torch.where(own > 0, size / (own.sqrt() + group["eps"]), 0.0)

    def _second_moment(self, gate: Tensor) -> tuple[Tensor, Tensor]:
        """Of a gate's gradients, and over how many steps."""
        state = self.optimizer.state.get(gate, {})
        moment = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
        if moment is None or "step" not in state:
            if gate.grad is None:  # the optimizer passed it over
                return torch.zeros_like(_local(gate)), torch.ones(())
            raise RankLabError(
                f"mode 'adam' with {type(self.optimizer).__name__}, which keeps no second moments (exp_avg_sq); use"
                " torch.optim.AdamW, or mode 'lr'."
            )
        own = whole(moment).mean().expand_as(_local(gate)) if self.adam_rms else _local(moment)
        return own, torch.as_tensor(state["step"])


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


def _local(values: Tensor) -> Tensor:
    """The part that this process holds of a tensor that may be spread over several, sharing its memory."""
    local = getattr(values, "to_local", None)
    part: Tensor = values if local is None else local()
    return part.detach()
