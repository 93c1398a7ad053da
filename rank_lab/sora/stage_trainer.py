"""The Trainer of one stage: it carries moments over, stops by the stage's rule, and stops at once where it diverges."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from rank_lab.durable import append_line, write_whole
from rank_lab.errors import CheckpointError, NonFiniteError
from rank_lab.sora.callback import SoraCallback
from rank_lab.sora.divergence import Divergence
from rank_lab.sora.gates import gate_parameters
from rank_lab.sora.stage_checkpoints import log_of, mark_whole, remove_older, seconds_of
from rank_lab.sora.stage_progress import progress_line
from rank_lab.sora.stop_rule import StopRule, checks_of, stopped
from rank_lab.sora.target import TargetThreshold
from rank_lab.sora.trainer import SoraTrainer

__all__ = ["StageCallback", "StageTrainer"]


class StageCallback(TrainerCallback):  # type: ignore[misc]
    """Ends a stage by its rule, keeps its last whole checkpoint, and follows learning rates and progress.

    Parameters
    ----------
    rule
        Of the stage.
    where
        What errors call it: seed, stage and threshold.
    progress
        The file of a line per check.
    resumed
        The checkpoint that training goes on from, or None.
    watch
        Called with a sentence at each check.
    """

    def __init__(
        self,
        rule: StopRule,
        where: str,
        progress: Path,
        resumed: Path | None,
        watch: Callable[[str], None] | None = None,
    ) -> None:
        self.rule, self.where, self.progress, self.watch = rule, where, progress, watch
        self._before = seconds_of(resumed)
        self._start = time.perf_counter()
        last = checks_of(log_of(resumed))[-1] if resumed is not None else {}
        self.rates = {name: last[name] for name in ("lr_start", "lr_peak", "lr_end") if name in last}
        """The first, the largest and the last learning rate of the stage so far."""
        self._divergence = Divergence()

    def note_loss(self, step: int, loss: Tensor) -> None:
        """Refuse a loss that is not finite: on a CPU at once, else at the next check, lest each step wait for it.

        Parameters
        ----------
        step, loss
            Of one batch; the loss is a scalar.

        Raises
        ------
        NonFiniteError
            Naming the first such step.
        """
        if self._divergence.note(step, loss):
            self._refuse_diverged()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock, and the file of progress from where training goes on."""
        self._start = time.perf_counter()
        write_whole(self.progress, "".join(progress_line(entry) + "\n" for entry in checks_of(state.log_history)))

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        """Note the learning rate of the step that was just taken."""
        rate = float(kwargs["optimizer"].param_groups[0]["lr"])
        self.rates = {
            "lr_start": self.rates.get("lr_start", rate),
            "lr_peak": max(self.rates.get("lr_peak", rate), rate),
            "lr_end": rate,
        }

    def on_log(self, _args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look for values that are not finite, write the check down, and end the stage where its rule says so."""
        if "loss" not in (logs or {}):
            return
        self._refuse_diverged()
        self._refuse_non_finite(kwargs["model"], state.global_step)
        append_line(self.progress, progress_line(state.log_history[-1]))
        if self.watch is not None:
            self.watch(
                f"{self.where}: step {state.global_step}: loss {logs['loss']:.4g}, {logs['nonzero_gates']} gates"
            )
        if stopped(self.rule, state.log_history) is not None:
            control.should_training_stop = control.should_save = True

    def on_save(self, args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Mark the checkpoint, to which all others have added theirs, as whole."""
        self._refuse_diverged()
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        mark_whole(checkpoint, self._before + time.perf_counter() - self._start)
        remove_older(checkpoint)

    def on_train_end(self, _args: Any, _state: Any, _control: Any, **_: Any) -> None:
        """See that nothing went wrong after the last check."""
        self._refuse_diverged()

    def _refuse_diverged(self) -> None:
        found = self._divergence.first
        if found is not None:
            self._refuse(found[0], "the training loss", found[1])

    def _refuse(self, step: int, what: str, value: float) -> None:
        raise NonFiniteError(
            f"{self.where}: step {step}: {what} is {value}: training diverges; what was done before is kept: lower the"
            " learning rate (or max_grad_norm, or the threshold) and run in a new folder."
        )

    def _refuse_non_finite(self, model: nn.Module, step: int) -> None:
        for name, value in model.named_parameters():
            if value.requires_grad and not bool(torch.isfinite(value).all()):
                wrong = value.detach()[~torch.isfinite(value)]
                self._refuse(step, f"a value of {name!r}", float(wrong.reshape(-1)[0]))


class StageTrainer(SoraTrainer):
    """A :class:`rank_lab.sora.SoraTrainer` for one stage.

    Parameters
    ----------
    stage
        Its callback.
    moments
        State of the optimizer at the end of the stage before, or None for moments of zero.
    target
        What drives the threshold; None where the adapter's config has it.
    kwargs
        Of transformers' Trainer.
    """

    def __init__(
        self, *, stage: StageCallback, moments: Path | None, target: TargetThreshold | None, **kwargs: Any
    ) -> None:
        super().__init__(callbacks=[SoraCallback(target)], **kwargs)
        self.stage, self.moments = stage, moments
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        self.add_callback(stage)  # the last one: its mark says that all others have written

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """A new optimizer with its own learning rates, and with the moments of the stage before."""
        new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if new and self.moments is not None:
            _carry_moments(optimizer, self.moments)
        return optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """A step of training; a loss that is not finite ends the stage."""
        loss = super().training_step(*args, **kwargs)
        self.stage.note_loss(self.state.global_step, loss)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """The log of a check with the learning rates, gates and threshold so far, all that a stage's row needs."""
        if "loss" in logs:
            logs.update(self.stage.rates)
            logs["gate_sum"] = math.fsum(
                float(gate.detach().abs().sum()) for gate in gate_parameters(self.model).values()
            )
            logs.update(self._threshold())
        super().log(logs, *args, **kwargs)

    def _threshold(self) -> dict[str, Any]:
        """What is in force after the last step, and whether a target was reached."""
        found = next(each for each in self.callback_handler.callbacks if isinstance(each, SoraCallback)).proximal
        if found is None:
            return {}
        logged: dict[str, Any] = {"threshold": found.threshold_at(max(self.state.global_step - 1, 0))}
        if isinstance(found.threshold, TargetThreshold):
            logged["target_reached"] = found.threshold.reached
        return logged


def _carry_moments(optimizer: Any, file: Path) -> None:
    saved, now = torch.load(file, map_location="cpu", weights_only=True), optimizer.state_dict()
    groups = [[group["params"] for group in state["param_groups"]] for state in (saved, now)]
    if groups[0] != groups[1]:
        raise CheckpointError(
            f"{file}: its parameter groups are not those of this stage's optimizer; run the schedule in a new folder,"
            " or with keep_moments=False."
        )
    optimizer.load_state_dict({"state": saved["state"], "param_groups": now["param_groups"]})
