"""What hooks the proximal step into transformers' Trainer, and stops a run in which it could not act."""

import json
from pathlib import Path
from typing import Any

from torch import nn
from transformers import TrainerCallback

from rank_lab.errors import RankLabError
from rank_lab.sora.config import SoraConfig
from rank_lab.sora.gates import gated_modules
from rank_lab.sora.live import leave_out_zeros
from rank_lab.sora.proximal import ProximalStep, Threshold

__all__ = ["STATE_FILE", "SoraCallback", "sora_config_of"]

STATE_FILE = "sora_state.json"
"""In each checkpoint, beside the adapter: how its gates were shrunk, and how many remain."""


class SoraCallback(TrainerCallback):  # type: ignore[misc]
    """Shrinks the gates once per optimizer step of a Trainer, by the model's ``SoraConfig``.

    :class:`rank_lab.sora.SoraTrainerMixin` adds it by itself. Add it by hand
    where the optimizer is your own, made from :func:`rank_lab.sora.parameter_groups`.

    Parameters
    ----------
    threshold
        Where the config has none: a number, which the config then records, or a function of the global step.

    Raises
    ------
    RankLabError
        At the start of training, or at the step where it shows: if no group is
        flagged, DeepSpeed steps the gates, no threshold was given, or the hook
        was not called exactly once for each step of the optimizer.

    Examples
    --------
    >>> SoraCallback(threshold=lambda step: 0.5 if step >= 100 else 0.0).proximal is None
    True
    """

    def __init__(self, threshold: Threshold | None = None) -> None:
        self.threshold = threshold
        self.proximal: ProximalStep | None = None
        """While training, and after it, what shrinks the gates."""
        self._steps = 0

    def on_train_begin(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Hook into the optimizer, or refuse."""
        _refuse_deepspeed(args)
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        config = sora_config_of(model)
        threshold = _threshold(config, self.threshold)
        if config.threshold_mode == "adam" and not config.adam_rms and config.prox_start_step == 0:
            raise RankLabError(
                "threshold_mode 'adam' from step 0 shuts gates that have hardly seen a gradient yet (B starts at zero);"
                " set prox_start_step, e.g. to the end of warm-up, or adam_rms=True."
            )
        self.proximal = ProximalStep(
            optimizer,
            threshold,
            config.threshold_mode,
            config.operator,
            prox_start_step=config.prox_start_step,
            adam_rms=config.adam_rms,
            revive=config.revive,
        )
        self.proximal.step_of = lambda: int(state.global_step)
        self._resume(Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE_FILE)
        self._steps = self.proximal.calls + self.proximal.skipped
        _look(model)

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        """Count the steps that the hook must have seen."""
        self._steps += not getattr(kwargs.get("optimizer"), "step_was_skipped", False)

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Stop where the hook was not called, or too often."""
        seen = 0 if self.proximal is None else self.proximal.calls + self.proximal.skipped
        if seen != self._steps:
            raise RankLabError(
                f"step {state.global_step}: the optimizer took {self._steps} steps but gates were shrunk in {seen} of"
                " them; is the optimizer replaced or wrapped after the start of training?"
            )

    def on_log(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        """Look which directions may be left out: a log waits for the device anyway."""
        if self.proximal is not None:
            _look(kwargs["model"])

    def on_save(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Write how gates were shrunk and how many remain, beside the adapter."""
        if self.proximal is None:
            return
        modules = gated_modules(kwargs["model"], active_adapter(kwargs["model"]))
        content = self.proximal.state_dict() | {"nonzero": {module.module: module.nonzero for module in modules}}
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            (folder / STATE_FILE).write_text(json.dumps(content, indent=1) + "\n")
        _look(kwargs["model"])

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """Let go of the optimizer."""
        if self.proximal is not None:
            self.proximal.detach()

    def _resume(self, file: Path) -> None:
        if self.proximal is None or not file.is_file():
            return
        saved = json.loads(file.read_text())
        self.proximal.load_state_dict(saved)
        now = self.proximal.threshold_at(max(self.proximal.step - 1, 0))
        if saved.get("threshold") != now:
            raise RankLabError(
                f"{file}: saved with threshold {saved.get('threshold')!r} at this step, but it would go on with"
                f" {now!r}; resume with the same threshold, or start a new run from the adapter."
            )


def sora_config_of(model: nn.Module) -> Any:
    """The config of the model's active SoRA adapter.

    Raises
    ------
    RankLabError
        If it has none, or several are active.
    """
    configs = getattr(model, "peft_config", None) or {}
    config = configs.get(active_adapter(model)) if configs else None
    if not isinstance(config, SoraConfig):
        raise RankLabError(
            f"{type(model).__name__} has no active SoRA adapter; make it with get_peft_model(model, SoraConfig(...))."
        )
    return config


def active_adapter(model: nn.Module) -> str:
    """Name of the one active adapter; ``default`` where the model has none."""
    active: Any = getattr(model, "active_adapters", ["default"])
    names = list(active() if callable(active) else active)
    if len(names) != 1:
        raise RankLabError(f"adapters {names} are active; activate the one that is trained by set_adapter.")
    return str(names[0])


def _look(model: nn.Module) -> None:
    if sora_config_of(model).leave_out_zeros:
        leave_out_zeros(model)


def _threshold(config: Any, given: Threshold | None) -> Threshold:
    """The one threshold, of the config or of the callback; a number is recorded with the adapter."""
    if given is None and config.threshold is None:
        raise RankLabError(
            "no threshold: SoraConfig(threshold=...) or SoraCallback(threshold=...) must say how strongly gates are"
            " shrunk; 0 for a dense run."
        )
    if given is None:
        return float(config.threshold)
    if config.threshold is not None and config.threshold != given:
        raise RankLabError(
            f"two thresholds: SoraConfig(threshold={config.threshold:g}), which is recorded with the adapter, and that"
            " of SoraCallback; give one of them."
        )
    if not callable(given):
        config.threshold = given
    return given


def _refuse_deepspeed(args: Any) -> None:
    kind = str(getattr(getattr(args, "distributed_state", None), "distributed_type", ""))
    if getattr(args, "deepspeed", None) or kind.endswith("DEEPSPEED"):
        raise RankLabError(
            "DeepSpeed steps flattened copies of the gates, or an optimizer of its own config, which the proximal step"
            " does not reach; train SoRA with DDP or FSDP2."
        )
