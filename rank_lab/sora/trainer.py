"""SoRA with transformers' Trainer: the gates' own parameter group, the proximal step, the L1 term."""

from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import Trainer

from rank_lab.errors import RankLabError
from rank_lab.sora.callback import SoraCallback, active_adapter, sora_config_of
from rank_lab.sora.gates import gate_group, gate_parameters, gated_modules

__all__ = ["SoraTrainer", "SoraTrainerMixin"]

if TYPE_CHECKING:
    _Base: Any = Trainer
else:
    _Base = object


class SoraTrainerMixin(_Base):  # type: ignore[misc]
    """What a Trainer needs for SoRA; put it before the Trainer: ``class Mine(SoraTrainerMixin, SFTTrainer): ...``.

    Gates go into a parameter group of their own (no weight decay, the config's
    ``gate_lr``) before the learning-rate schedule and any saved state are loaded;
    a :class:`rank_lab.sora.SoraCallback` shrinks them, unless one was given;
    ``l1_weight`` of the config adds the published term to the training loss, and
    only to that; ``gate_clip`` clips the gates' gradient apart; logs hold the number of non-zero gates.

    Raises
    ------
    RankLabError
        If the model has no SoRA adapter, the optimizer is one that cannot be given
        the group, or ``gate_clip`` could not be carried out.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse the Trainer before the mixin: nothing of the mixin would run, and all gates would stay dense."""
        super().__init_subclass__(**kwargs)
        order = cls.__mro__
        if Trainer in order and order.index(Trainer) < order.index(SoraTrainerMixin):
            raise RankLabError(
                f"class {cls.__name__}: SoraTrainerMixin must come before the Trainer, or nothing of it runs; write"
                f" class {cls.__name__}(SoraTrainerMixin, {cls.__bases__[0].__name__})."
            )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if sora_config_of(self.model).gate_clip is not None:
            _refuse_unclipped(super(), self.args, self.is_fsdp_enabled)
        if not any(isinstance(callback, SoraCallback) for callback in self.callback_handler.callbacks):
            self.add_callback(SoraCallback())

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's optimizer with the gates in a group of their own; one that was given is left as it is."""
        given = self.optimizer is not None
        optimizer = super().create_optimizer(*args, **kwargs)
        model = args[0] if args else kwargs.get("model")
        if not given:
            _move_gates(optimizer, self.model if model is None else model, sora_config_of(self.model).gate_lr)
        return optimizer

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The loss, in training with ``l1_weight`` times the mean of all gates' absolute values."""
        result = super().compute_loss(model, inputs, *args, **kwargs)
        weight = sora_config_of(self.model).l1_weight
        if not weight or not model.training:
            return result
        gates = gate_parameters(model).values()
        penalty = weight * sum(gate.abs().sum() for gate in gates) / sum(gate.numel() for gate in gates)
        if self._is_summed_over_accumulation(kwargs.get("num_items_in_batch")):
            penalty = penalty / self.current_gradient_accumulation_steps
        return (result[0] + penalty, *result[1:]) if isinstance(result, tuple) else result + penalty

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """As the Trainer clips, and with ``gate_clip`` the gates apart; the norm of what is clipped together."""
        bound = sora_config_of(self.model).gate_clip
        if bound is None:
            return super()._clip_grad_norm(model)
        gates = list(gate_parameters(model).values())
        ours = {id(gate) for gate in gates}
        others = [value for value in model.parameters() if id(value) not in ours]
        norm = self.accelerator.clip_grad_norm_(others, self.args.max_grad_norm)  # unscales all gradients first
        nn.utils.clip_grad_norm_(gates, bound)
        return norm

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The Trainer's log with the number of gates that are not zero."""
        if "loss" in logs:
            modules = gated_modules(self.model, active_adapter(self.model))
            logs["nonzero_gates"] = sum(module.nonzero for module in modules)
        super().log(logs, *args, **kwargs)

    def _is_summed_over_accumulation(self, items: Any) -> bool:
        """Whether the Trainer adds up the losses of a step's batches as they are, instead of averaging them."""
        decided = getattr(self, "loss_is_scaled_for_ga", None)
        if decided is not None:
            return bool(decided)
        return (self.model_accepts_loss_kwargs and items is not None) or self.compute_loss_func is not None


class SoraTrainer(SoraTrainerMixin, Trainer):  # type: ignore[misc]
    """transformers' Trainer for a model with a SoRA adapter; see :class:`SoraTrainerMixin`."""


def _refuse_unclipped(trainer: Any, arguments: Any, is_sharded: bool) -> None:
    if not hasattr(trainer, "_clip_grad_norm"):
        raise RankLabError("gate_clip: this version of transformers clips in a way that it cannot enter; update it.")
    if not arguments.max_grad_norm or is_sharded:
        raise RankLabError(
            "gate_clip needs gradients that are clipped in one process, and max_grad_norm above 0; leave it out, or set"
            " max_grad_norm and train without FSDP."
        )


def _move_gates(optimizer: Any, model: nn.Module, gate_lr: float | None) -> None:
    gates = gate_parameters(model)
    ours = {id(gate) for gate in gates.values()}
    group = gate_group(gates, gate_lr)
    held = [id(value) for old in getattr(optimizer, "param_groups", []) for value in old["params"] if id(value) in ours]
    if sorted(held) != sorted(ours) or not hasattr(optimizer, "add_param_group"):
        raise RankLabError(
            f"{type(optimizer).__name__} holds {len(held)} of {len(ours)} gates; choose a plain torch optimizer"
            " (optim='adamw_torch'), or give your own made from rank_lab.sora.parameter_groups."
        )
    for old in optimizer.param_groups:
        old["params"] = [value for value in old["params"] if id(value) not in ours]
    optimizer.add_param_group(group)
