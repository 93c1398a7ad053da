"""What AdaLoRA needs around PEFT's: its allocator called, its state kept with each checkpoint, its penalty once a step.

PEFT leaves it to the training loop to call the allocator, which otherwise never acts. What it knows, the moving
averages of importance and the directions that it has cut, is in no checkpoint, and a checkpoint holds only the
directions that are left, which do not fit the model that training goes on with. So all of it is written beside the
adapter, in :data:`ALLOCATOR_FILE`, and read from there.
"""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from transformers import TrainerCallback

from rank_lab.durable import write_whole
from rank_lab.errors import CheckpointError, RankLabError

__all__ = [
    "ALLOCATOR_FILE",
    "AllocatorCallback",
    "adalora_config_of",
    "load_allocator",
    "penalty_times",
    "save_allocator",
    "saved_as_it_is",
]

ALLOCATOR_FILE = "adalora_state.safetensors"
"""``trained.NAME``: each trained tensor, none of its directions left out; ``sensitivity.NAME``, ``uncertainty.NAME``:
the allocator's moving averages; metadata ``rank_pattern``: as PEFT's config has it, JSON."""

_TRAINED, _SENSITIVITY, _UNCERTAINTY, _PATTERN = "trained.", "sensitivity.", "uncertainty.", "rank_pattern"


def adalora_config_of(model: nn.Module) -> AdaLoraConfig | None:
    """The model's AdaLoRA config, None where it has none.

    Parameters
    ----------
    model
        Any.
    """
    configs: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    return next((config for config in configs.values() if isinstance(config, AdaLoraConfig)), None)


class AllocatorCallback(TrainerCallback):  # type: ignore[misc]
    """Calls AdaLoRA's allocator after each step of the optimizer, while the gradients are still there.

    PEFT counts steps from its caller; here they are from 1, so that the last cut, at ``total_step - tfinal``, is made
    whatever ``tfinal`` is.
    """

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Refuse a schedule that is not this training's."""
        config = adalora_config_of(kwargs["model"])
        if config is None or config.total_step != state.max_steps:
            planned = None if config is None else config.total_step
            raise RankLabError(
                f"AdaLoRA's budget is planned for {planned} steps, and training takes {state.max_steps}; give the"
                " method the steps of the training (MethodChoices.steps)."
            )

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Let it weigh what the step did, and cut directions where its schedule says so."""
        kwargs["model"].base_model.update_and_allocate(state.global_step + 1)

    def on_save(self, args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Write what resuming needs."""
        if state.is_world_process_zero:
            save_allocator(kwargs["model"], Path(args.output_dir) / f"checkpoint-{state.global_step}")


def save_allocator(model: nn.Module, checkpoint: Path) -> None:
    """Write :data:`ALLOCATOR_FILE`.

    Parameters
    ----------
    model
        With an AdaLoRA adapter.
    checkpoint
        Folder that exists.
    """
    allocator, config = _allocator(model), adalora_config_of(model)
    tensors = {_TRAINED + name: value for name, value in model.named_parameters() if value.requires_grad}
    tensors |= {_SENSITIVITY + name: value for name, value in allocator.exp_avg_ipt.items()}
    tensors |= {_UNCERTAINTY + name: value for name, value in allocator.exp_avg_unc.items()}
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    pattern = json.dumps(None if config is None else config.rank_pattern)
    write_whole(checkpoint / ALLOCATOR_FILE, save(plain, {_PATTERN: pattern}))


def load_allocator(model: nn.Module, checkpoint: Path) -> None:
    """Bring model and allocator to the state in which they were saved.

    Parameters
    ----------
    model
        With the AdaLoRA adapter that training began with.
    checkpoint
        A complete one.

    Raises
    ------
    CheckpointError
        If its file is gone, or is of another adapter.
    """
    file = checkpoint / ALLOCATOR_FILE
    try:
        with safe_open(file, "pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118  it is no mapping
            pattern = json.loads((stream.metadata() or {})[_PATTERN])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({error}), and AdaLoRA cannot go on without it; train in a new folder."
        ) from error
    saved = _starting_with(_TRAINED, tensors)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if {name: value.shape for name, value in trained.items()} != {name: value.shape for name, value in saved.items()}:
        raise CheckpointError(f"{file}: is of another adapter; train with the same choices, or in a new folder.")
    with torch.no_grad():
        for name, value in trained.items():
            value.copy_(saved[name])
    device = next(iter(trained.values())).device
    allocator, config = _allocator(model), adalora_config_of(model)
    allocator.exp_avg_ipt = {name: each.to(device) for name, each in _starting_with(_SENSITIVITY, tensors).items()}
    allocator.exp_avg_unc = {name: each.to(device) for name, each in _starting_with(_UNCERTAINTY, tensors).items()}
    allocator.ipt = {name: torch.zeros_like(each) for name, each in allocator.exp_avg_ipt.items()}  # filled anew
    if config is not None:
        config.rank_pattern = pattern


@contextmanager
def saved_as_it_is(model: nn.Module) -> Iterator[None]:
    """While this lasts, PEFT leaves out only directions that were cut and are zero now.

    Left alone it leaves out all that were zero at the last cut, though the optimizer has moved some since.

    Parameters
    ----------
    model
        With an AdaLoRA adapter.
    """
    config = adalora_config_of(model)
    if config is None or config.rank_pattern is None:
        yield
        return
    before, inner = config.rank_pattern, _inner(model)
    cut = {_plain_name(name): kept for name, kept in before.items()}
    config.rank_pattern = {
        name: [bool(now) or kept for now, kept in zip(value.view(-1).tolist(), cut[_plain_name(name)], strict=True)]
        for name, value in inner.named_parameters()
        if ".lora_E." in name
    }
    try:
        with warnings.catch_warnings():  # a matrix of which nothing is left is saved as one of rank 0, and read as such
            warnings.filterwarnings("ignore", r"Adapter .* LoRA tensor\(s\) have invalid shape")
            yield
    finally:
        config.rank_pattern = before


def penalty_times(trainer: Any, items: Any) -> int:
    """How often the Trainer would count AdaLoRA's penalty in one step of the optimizer.

    It is added to the loss of each batch as it is, while the loss itself is already divided by all target tokens of the
    step, those of other batches and other processes among them.

    Parameters
    ----------
    trainer
        transformers' Trainer.
    items
        Target tokens of the step, as the Trainer passes them; None where it averages batches.
    """
    if not trainer.model_accepts_loss_kwargs or items is None:
        return 1
    processes = trainer.accelerator.num_processes if trainer.args.average_tokens_across_devices else 1
    return int(trainer.current_gradient_accumulation_steps) * int(processes)


def _allocator(model: nn.Module) -> Any:
    return model.get_submodule("base_model").rankallocator


def _inner(model: nn.Module) -> nn.Module:
    return model.get_submodule("base_model").get_submodule("model")


def _plain_name(name: str) -> str:
    """Without the adapter's name, which PEFT takes off when it saves."""
    return name[: name.rindex(".lora_E") + len(".lora_E")]


def _starting_with(start: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
