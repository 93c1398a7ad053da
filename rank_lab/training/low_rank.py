"""Methods whose trained tensors belong to linear layers: the LoRA family, AdaLoRA, SoRA, VeRA and IA3."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from peft import AdaLoraConfig, IA3Config, LoraConfig, VeraConfig
from torch import nn

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.sora import SoraConfig
from rank_lab.training.heads import new_heads, task_type
from rank_lab.training.loftq import LoftqAdapterConfig
from rank_lab.training.method import MethodChoices
from rank_lab.training.targets import PLACES, Target, adapt_exactly, chosen_targets

__all__ = ["adapt_adalora", "adapt_ia3", "adapt_loftq", "adapt_sora", "adapt_vera", "lora_adapter"]

_RANK_AT_START = 1.5  # AdaLoRA's, of the mean rank in the end: PEFT's defaults are 12 for 8
_WARMUP, _COOLDOWN = 0.10, 0.35  # of AdaLoRA's steps, before and after its budget falls
_SCALED_OUTPUT = frozenset({"k", "v", "kv", "qkv"})  # IA3's in attention; a fused layer is scaled whole
_SCALED_INPUT = frozenset({"down"})  # IA3's in feed-forward blocks: what the activation gives


def lora_adapter(**settings: Any) -> Callable[[Any, MethodChoices, str], nn.Module]:
    """Of ``LoraConfig``'s own settings, how such a method adapts a model.

    Parameters
    ----------
    settings
        What the method sets beside rank, alpha, dropout and targets.

    Examples
    --------
    >>> callable(lora_adapter(use_rslora=True))
    True
    """

    def adapt(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
        targets = _chosen(model, choices)
        if settings.get("init_lora_weights") == "pissa":
            _check_directions(model, targets, choices.rank)
        _check_low(model, targets, choices.rank)
        config = LoraConfig(**_shared(model, targets, kind), **_size(choices), **settings)
        return adapt_exactly(model, config, [target.name for target in targets])

    return adapt


def adapt_loftq(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """LoftQ of :mod:`rank_lab.training.loftq`: the base is rounded to NF4 and kept in its type.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    targets = _chosen(model, choices)
    _check_low(model, targets, choices.rank)
    config = LoftqAdapterConfig(**_shared(model, targets, kind), **_size(choices))
    return adapt_exactly(model, config, [target.name for target in targets])


def adapt_adalora(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """AdaLoRA: mean rank ``choices.rank`` in the end, half as much again at the start.

    The budget falls from 10 % of the steps to 65 %, as in settings for SST-2 with the published code.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    targets = _chosen(model, choices)
    _check_size(choices)
    _check_low(model, targets, choices.rank)
    if choices.steps < 1:
        raise RankLabError(f"steps {choices.steps}: expected 1 or more, as AdaLoRA's budget falls over the training.")
    config = AdaLoraConfig(
        **_shared(model, targets, kind),
        target_r=choices.rank,
        init_r=math.ceil(_RANK_AT_START * choices.rank),
        lora_alpha=_alpha(choices),
        lora_dropout=choices.dropout,
        tinit=int(_WARMUP * choices.steps),
        tfinal=int(_COOLDOWN * choices.steps),
        deltaT=max(1, choices.steps // 1000),
        total_step=choices.steps,
    )
    return adapt_exactly(model, config, [target.name for target in targets])


def adapt_sora(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """SoRA of :mod:`rank_lab.sora`: the largest rank is ``choices.rank``.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    targets = _chosen(model, choices)
    _check_low(model, targets, choices.rank)
    config = SoraConfig(
        **_shared(model, targets, kind), **_size(choices), threshold=choices.threshold, gate_lr=choices.gate_lr
    )
    return adapt_exactly(model, config, [target.name for target in targets])


def adapt_vera(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """VeRA: two vectors a module between random matrices that all share, saved with them.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    targets = _chosen(model, choices)
    _check_size(choices)
    config = VeraConfig(
        **_shared(model, targets, kind), r=choices.rank, vera_dropout=choices.dropout, save_projection=True
    )
    return adapt_exactly(model, config, [target.name for target in targets])


def adapt_ia3(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
    """IA3: one vector a module. Keys and values by their outputs, the feed-forward by its down projection's input.

    Where queries, keys and values are one fused layer, its whole output is scaled, as PEFT does by default.

    Parameters
    ----------
    model, choices, kind
        As of :class:`rank_lab.training.method.Method`.
    """
    targets = chosen_targets(model, choices.targets)
    if choices.targets in PLACES:
        targets = [target for target in targets if target.kind in _SCALED_OUTPUT | _SCALED_INPUT]
    inputs = [target.name for target in targets if target.kind in _SCALED_INPUT]
    config = IA3Config(**_shared(model, targets, kind), feedforward_modules=inputs)
    return adapt_exactly(model, config, [target.name for target in targets])


def _check_directions(model: nn.Module, targets: Sequence[Target], rank: int) -> None:
    """Refuse a rank that PiSSA has no singular values for: PEFT would make smaller factors than it then reads."""
    for target in targets:
        weight: Any = model.get_submodule(target.name).weight
        if target.stored != "embedding" and rank > min(weight.shape):
            raise RankLabError(
                f"rank {rank}: PiSSA takes as many singular values of each weight, and {target.name!r} has"
                f" {min(weight.shape)}; choose a smaller rank or fewer targets."
            )


def _check_low(model: nn.Module, targets: Sequence[Target], rank: int) -> None:
    """Refuse a rank that is low for no target, and warn of one that is not for some.

    VeRA is not asked: its matrices are not trained, and a rank costs it one number a module.
    """
    smaller = {target.name: _smaller_side(model.get_submodule(target.name)) for target in targets}
    over = [name for name, side in smaller.items() if rank > side]
    if not over:
        return
    largest = max(smaller.values())
    if len(over) == len(smaller):
        raise RankLabError(
            f"rank {rank}: is above the smaller side of every target ({largest} at most), so that nothing is of low"
            f" rank; choose {largest} or less, or train with the method full."
        )
    warnings.warn(
        f"rank {rank} is above the smaller side of {len(over)} of {len(smaller)} targets, the first {over[0]!r} with"
        f" {smaller[over[0]]}: their updates may be of full rank",
        stacklevel=2,
    )


def _smaller_side(module: Any) -> int:
    """By what the layer says of itself where it can: quantised weights are stored in another shape."""
    if hasattr(module, "in_features") and hasattr(module, "out_features"):
        return min(int(module.in_features), int(module.out_features))
    return min(int(side) for side in module.weight.shape)


def _chosen(model: Any, choices: MethodChoices) -> list[Target]:
    return chosen_targets(model, choices.targets, embeddings=choices.embeddings, head=choices.head)


def _size(choices: MethodChoices) -> dict[str, Any]:
    _check_size(choices)
    return {"r": choices.rank, "lora_alpha": _alpha(choices), "lora_dropout": choices.dropout}


def _alpha(choices: MethodChoices) -> float:
    alpha = 2.0 * choices.rank if choices.alpha is None else choices.alpha
    if not 0 < alpha < math.inf:
        raise RankLabError(f"alpha {choices.alpha}: expected a number above 0; leave it out for twice the rank.")
    return int(alpha) if alpha == int(alpha) else alpha


def _check_size(choices: MethodChoices) -> None:
    if choices.rank < 1:
        raise RankLabError(f"rank {choices.rank}: expected 1 or more.")
    if not 0 <= choices.dropout < 1:
        raise RankLabError(f"dropout {choices.dropout}: expected a share from 0 to below 1.")


def _shared(model: Any, targets: Sequence[Target], kind: str) -> dict[str, Any]:
    """What every config of PEFT's says alike: task, new heads, targets and how these are stored."""
    stored = {target.stored for target in targets} - {"embedding"}
    if len(stored) > 1:
        first = next(target.name for target in targets if target.stored == "conv1d")
        raise UnsupportedUpdateError(
            f"targets: {first!r} stores its weight transposed (Conv1D) and others do not, which one adapter's config"
            " cannot say; train two adapters, or leave one kind out."
        )
    return {
        "task_type": task_type(kind),
        "target_modules": [target.name for target in targets],
        "modules_to_save": new_heads(model, kind) or None,
        "fan_in_fan_out": stored == {"conv1d"},
    }
