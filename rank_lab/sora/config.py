"""SoRA's configuration: LoRA's, the gate's start, and how the gate is made sparse."""

from dataclasses import dataclass, field
from typing import Any

from peft import LoraConfig

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.peft_types import peft_type
from rank_lab.sora.thresholds import MODES, OPERATORS, check_threshold

__all__ = ["GATE_STARTS", "SoraConfig"]

GATE_STARTS = ("ones", "normal")
"""How gates may start."""

_STARTS_OF_FACTORS = (True, False, "gaussian", "orthogonal")

# Settings of LoRA that make the update something else than s B diag(g) A, or that only another of its layers honours.
_OTHER_METHODS = (
    "use_dora", "alora_invocation_tokens", "use_qalora", "velora_config", "monteclora_config", "use_bdlora",
    "arrow_config", "kasa_config", "lora_bias", "target_parameters", "layer_replication", "eva_config", "corda_config",
    "lora_ga_config", "loftq_config", "megatron_config", "ensure_weight_tying",
)  # fmt: skip


@dataclass
class SoraConfig(LoraConfig):  # type: ignore[misc]
    r"""What ``get_peft_model`` needs to make a SoRA adapter: :math:`\Delta W = s\, B\, \mathrm{diag}(g)\, A`.

    All of ``LoraConfig`` holds: ``r`` is the largest rank, ``lora_alpha / r`` the
    scaling for good (``use_rslora``: ``lora_alpha / sqrt(r)``), ``rank_pattern``
    and ``alpha_pattern`` its exceptions. What is said here of the threshold is
    carried out by the trainer (:class:`rank_lab.sora.SoraTrainerMixin`) and
    recorded in every ``adapter_config.json``; your own loop gives the same
    values to :class:`rank_lab.sora.ProximalStep`.

    Parameters
    ----------
    gate_init
        ``"ones"``, or ``"normal"`` as the authors' code has it (which gates
        survive then depends on their first values).
    threshold
        :math:`\lambda` (or the threshold itself in the mode ``constant``); None
        leaves it to the trainer's arguments.
    threshold_mode
        ``"lr"``: the learning rate times :math:`\lambda`, the paper's formula;
        ``"adam"``: :math:`\lambda` in units of the loss's gradient;
        ``"constant"``: as published.
    operator
        ``"soft"``: the paper's; ``"gapped"``: what the published code computes.
    gate_lr
        Learning rate of the gates; None for that of all others.
    gate_clip
        Largest norm of the gates' gradient, where it is to be clipped apart from
        that of all others; None to clip all together by ``max_grad_norm``.
    l1_weight
        Weight of the mean of :math:`|g|` in the training loss, as published; never in the evaluation loss.
    prox_start_step
        First step (from 0) after which gates are shrunk.
    adam_rms
        Mode ``adam``: one root mean square per module for the denominator.
    revive
        Whether a gate that was zero may come back; without, it has no gradient.
    leave_out_zeros
        Whether the forward pass leaves out directions whose gates were zero when
        last looked at, where that saves time (:func:`rank_lab.sora.leave_out_zeros`).
        Needs ``revive=False``, under which training is the same with and without
        it. Not carried out under ``torch.compile``.

    Raises
    ------
    RankLabError
        If a value is none of those.
    UnsupportedUpdateError
        If a setting of LoRA is on that a gate cannot be combined with.

    Examples
    --------
    >>> config = SoraConfig(r=8, lora_alpha=16, threshold=0.5)
    >>> config.peft_type.value, config.gate_init, config.threshold_mode
    ('SORA', 'ones', 'lr')
    """

    gate_init: str = field(default="ones", metadata={"help": "How gates start: ones or normal."})
    threshold: float | None = field(default=None, metadata={"help": "Strength of the sparsity."})
    threshold_mode: str = field(default="lr", metadata={"help": "lr, adam or constant."})
    operator: str = field(default="soft", metadata={"help": "soft or gapped."})
    gate_lr: float | None = field(default=None, metadata={"help": "Learning rate of the gates."})
    gate_clip: float | None = field(default=None, metadata={"help": "Largest norm of the gates' own gradient."})
    l1_weight: float = field(default=0.0, metadata={"help": "Weight of the mean of |gate| in the training loss."})
    prox_start_step: int = field(default=0, metadata={"help": "First step after which gates are shrunk."})
    adam_rms: bool = field(default=False, metadata={"help": "Mode adam: one denominator per module."})
    revive: bool = field(default=True, metadata={"help": "Whether a zero gate may come back."})
    leave_out_zeros: bool = field(default=False, metadata={"help": "Leave out zero directions in the forward pass."})

    def __post_init__(self) -> None:
        """Check all values, and take the method's own type."""
        super().__post_init__()
        self.peft_type = peft_type("SORA")
        _among("gate_init", self.gate_init, GATE_STARTS)
        _among("threshold_mode", self.threshold_mode, MODES)
        _among("operator", self.operator, tuple(OPERATORS))
        if self.threshold is not None:
            check_threshold(self.threshold, "threshold")
        check_threshold(self.l1_weight, "l1_weight")
        if self.gate_lr is not None:
            check_threshold(self.gate_lr, "gate_lr")
        if self.gate_clip is not None and not check_threshold(self.gate_clip, "gate_clip"):
            raise RankLabError("gate_clip 0: no gate would ever move; give a number above 0, or None.")
        if self.prox_start_step < 0:
            raise RankLabError(f"prox_start_step {self.prox_start_step}: expected the number of a step, 0 or more.")
        if self.leave_out_zeros and self.revive:
            raise RankLabError(
                "leave_out_zeros=True with revive=True: a direction that is left out has no gradient by which its gate"
                " could come back; set revive=False, or compute all directions."
            )
        _refuse_other_methods(self)


def _among(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise RankLabError(f"{name} {value!r}: expected one of {', '.join(allowed)}.")


def _refuse_other_methods(config: Any) -> None:
    given = [name for name in _OTHER_METHODS if getattr(config, name, None) not in (None, False, [], {}, ())]
    if given:
        raise UnsupportedUpdateError(
            f"SoraConfig({given[0]}={getattr(config, given[0])!r}): not combined with SoRA's gate; leave it out, or use"
            " LoraConfig for it."
        )
    if config.init_lora_weights not in _STARTS_OF_FACTORS:
        raise UnsupportedUpdateError(
            f"SoraConfig(init_lora_weights={config.init_lora_weights!r}): changes the base weights or needs data;"
            f" SoRA starts from one of {_STARTS_OF_FACTORS}."
        )
