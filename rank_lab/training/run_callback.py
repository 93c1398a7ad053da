"""What a run writes while it trains: losses at each checkpoint, and a mark on each checkpoint that is whole."""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rank_lab.errors import NonFiniteError
from rank_lab.sora.divergence import Divergence
from rank_lab.sora.stage_checkpoints import mark_whole
from rank_lab.training.loss_rows import LossRow, append_row

__all__ = ["RunCallback"]


class RunCallback(TrainerCallback):  # type: ignore[misc]
    """Saves at the steps that were asked for, and writes a row of losses at each.

    Parameters
    ----------
    folder
        Of the run.
    save_at
        Steps.
    resumed
        The row of the checkpoint that training goes on from, or None.
    watch
        Called with each new row.
    progress
        Called with steps taken and steps in all after each.
    """

    def __init__(
        self,
        folder: Path,
        save_at: Collection[int],
        resumed: LossRow | None,
        watch: Callable[[LossRow], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.folder, self.save_at, self.watch, self.progress = folder, frozenset(save_at), watch, progress
        self.trainer: Any = None
        self._before = resumed
        self._start = time.perf_counter()
        self._divergence = Divergence()
        self._tokens: Tensor | None = None  # of this process, since the start or the checkpoint that was resumed
        self._train_loss: float | None = None
        self._rate: float | None = None

    def note_tokens(self, inputs: Mapping[str, Any]) -> None:
        """Count the tokens of one batch, without padding.

        Parameters
        ----------
        inputs
            Of the model.
        """
        mask = inputs["attention_mask"] if "attention_mask" in inputs else torch.ones_like(inputs["input_ids"])
        count = mask.sum()
        self._tokens = count if self._tokens is None else self._tokens + count

    def note_loss(self, step: int, loss: Tensor) -> None:
        """Refuse a loss that is not finite: on a CPU at once, else at the next checkpoint.

        Parameters
        ----------
        step, loss
            Of one batch.

        Raises
        ------
        NonFiniteError
            Naming the first such step.
        """
        if self._divergence.note(step, loss):
            self._refuse_diverged()

    def diverged(self, step: int, what: str, value: float) -> str:
        """What is said of a value that is not finite.

        Parameters
        ----------
        step, what, value
            Where and what it is.
        """
        return (
            f"{self.folder}: step {step}: {what} is {value}: training diverges; checkpoints before it are kept: lower"
            " the learning rate (or --clip) and train in a new folder."
        )

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Start the clock, and measure the model as it is before training."""
        self._start = time.perf_counter()
        if not state.global_step:
            self.trainer.evaluate()

    def on_epoch_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Tell the collator, which may hide other tokens in each epoch."""
        self.trainer.batches.begin_epoch(int(state.global_step) // self.trainer.steps_per_epoch)

    def on_optimizer_step(self, _args: Any, _state: Any, _control: Any, **kwargs: Any) -> None:
        """Note the learning rate of the step that was just taken."""
        self._rate = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask for a checkpoint where one is due."""
        if state.global_step in self.save_at:
            control.should_log = control.should_evaluate = control.should_save = True
        if self.progress is not None and state.is_world_process_zero:
            self.progress(int(state.global_step), int(state.max_steps))

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Note the mean loss of the steps since the last checkpoint."""
        if "loss" in (logs or {}):
            self._refuse_diverged()
            self._train_loss = float(logs["loss"])

    def on_evaluate(self, args: Any, state: Any, _control: Any, metrics: Any = None, **_: Any) -> None:
        """Write the row of a checkpoint, which is saved after it; what others evaluate in between has none."""
        if state.global_step and state.global_step not in self.save_at:
            return
        row = LossRow(
            step=int(state.global_step),
            train_loss=self._train_loss,
            validation_loss=float(metrics["eval_loss"]),
            learning_rate=self._rate,
            seconds=self._seconds(),
            tokens=self._all_tokens(args.device),
        )
        if state.is_world_process_zero:
            append_row(self.folder, row)
            if self.watch is not None:
                self.watch(row)

    def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Mark the checkpoint, to which all others have added theirs, as whole."""
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            mark_whole(self.folder / f"checkpoint-{state.global_step}", self._seconds())

    def _seconds(self) -> float:
        return (0.0 if self._before is None else self._before.seconds) + time.perf_counter() - self._start

    def _all_tokens(self, device: torch.device) -> int:
        mine = torch.zeros((), dtype=torch.int64) if self._tokens is None else self._tokens
        seen = self.trainer.accelerator.reduce(mine.to(device), "sum")
        return (0 if self._before is None else self._before.tokens) + int(seen)

    def _refuse_diverged(self) -> None:
        found = self._divergence.first
        if found is not None:
            raise NonFiniteError(self.diverged(found[0], "the training loss", found[1]))
