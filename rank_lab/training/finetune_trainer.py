"""transformers' Trainer with what each method needs in it: exact validation, a stop at divergence, SoRA, AdaLoRA."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import RandomSampler
from transformers import PrinterCallback, ProgressCallback, Trainer

from rank_lab.errors import NonFiniteError
from rank_lab.sora.config import SoraConfig
from rank_lab.sora.trainer import SoraTrainerMixin
from rank_lab.training.adalora import (
    AllocatorCallback,
    adalora_config_of,
    load_allocator,
    penalty_times,
    saved_as_it_is,
)
from rank_lab.training.lion import Lion, is_own_lion
from rank_lab.training.run_callback import RunCallback
from rank_lab.training.validation import TargetBatches, loss_over

__all__ = ["FinetuneTrainer", "trainer_class"]


class FinetuneTrainer(Trainer):  # type: ignore[misc]
    """A Trainer for one run.

    Parameters
    ----------
    run_callback
        The run's; it comes last, after all others have written what is theirs.
    batches
        The collator.
    kwargs
        Of transformers' Trainer.
    """

    def __init__(self, *, run_callback: RunCallback, batches: TargetBatches, **kwargs: Any) -> None:
        super().__init__(data_collator=batches, **kwargs)
        self.run, self.batches = run_callback, batches
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        run_callback.trainer = self
        self.add_callback(run_callback)

    def _get_train_sampler(self, train_dataset: Any = None) -> RandomSampler:
        """All examples in a new order each epoch, less those that would not fill an optimizer step's batch.

        A batch is then of one size at each step, over however many processes and accumulated batches it is spread;
        which examples are left out is different in each epoch.
        """
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return RandomSampler(dataset, num_samples=self.steps_per_epoch * self._batch)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps whose batches are full."""
        return len(self.train_dataset) // self._batch

    @property
    def _batch(self) -> int:
        args = self.args
        return int(args.train_batch_size * args.gradient_accumulation_steps * args.world_size)

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: Any, model: Any = None) -> tuple[Any, Any]:
        """The choice of transformers', and Lion without bitsandbytes."""
        if is_own_lion(str(getattr(args.optim, "value", args.optim))):
            return Lion, {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2)}
        chosen: tuple[Any, Any] = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return chosen

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """A step of training; its tokens are counted, and a loss that is not finite ends the run."""
        self.run.note_tokens(inputs)
        loss = super().training_step(model, inputs, *args, **kwargs)
        self.run.note_loss(self.state.global_step + 1, loss)
        return loss

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The exact mean loss over the validation set; nothing random in training is moved by it."""
        share = (self.args.process_index, self.args.world_size)
        with torch.random.fork_rng(devices=[]), without_penalty(self.model), self.compute_loss_context_manager():
            total = loss_over(self.model, self.eval_dataset, self.batches, self.args.per_device_eval_batch_size, share)
        loss, count = self.accelerator.reduce(total, "sum").tolist()
        metrics = {"eval_loss": loss / count if count else float("nan")}
        if not torch.isfinite(torch.tensor(metrics["eval_loss"])):
            raise NonFiniteError(self.run.diverged(self.state.global_step, "the validation loss", metrics["eval_loss"]))
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class AdaLoraTrainer(FinetuneTrainer):
    """The same for AdaLoRA, whose allocator is called, saved and restored."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "callbacks": [*(kwargs.get("callbacks") or ()), AllocatorCallback()]})

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """The loss with the penalty once a step, over however many batches and processes it is spread."""
        config = adalora_config_of(self.model)
        if config is None:
            return super().compute_loss(*args, **kwargs)
        weight = config.orth_reg_weight
        config.orth_reg_weight = weight / penalty_times(self, kwargs.get("num_items_in_batch"))
        try:
            return super().compute_loss(*args, **kwargs)
        finally:
            config.orth_reg_weight = weight

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with saved_as_it_is(self.model):
            super()._save(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_allocator(self.model if model is None else model, Path(resume_from_checkpoint))


class _SoraFinetuneTrainer(SoraTrainerMixin, FinetuneTrainer):
    """The same for SoRA; the mixin adds its callback after the run's, which must be the last."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.remove_callback(self.run)
        self.add_callback(self.run)


@contextmanager
def without_penalty(model: nn.Module) -> Iterator[None]:
    """While this lasts, AdaLoRA adds no penalty to losses.

    Parameters
    ----------
    model
        Any.
    """
    config = adalora_config_of(model)
    if config is None:
        yield
        return
    weight, config.orth_reg_weight = config.orth_reg_weight, 0.0
    try:
        yield
    finally:
        config.orth_reg_weight = weight


def trainer_class(model: nn.Module) -> type[FinetuneTrainer]:
    """The Trainer that a model's adapter needs.

    Parameters
    ----------
    model
        Adapted.
    """
    if adalora_config_of(model) is not None:
        return AdaLoraTrainer
    configs = getattr(model, "peft_config", None) or {}
    if any(isinstance(config, SoraConfig) for config in configs.values()):
        return _SoraFinetuneTrainer
    return FinetuneTrainer
