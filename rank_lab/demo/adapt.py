"""Two adaptations of one base model to code: full fine-tuning and LoRA.

Both run the same loop over the same batches, so what differs between their updates is the
method alone. Each writes the folders that a training program of the usual kind writes, and
measures at every saved step what was learned (loss on held-out code) and what was forgotten
(loss on held-out prose).
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import torch
from torch import Tensor

from rank_lab.demo import text
from rank_lab.demo.training import BATCH, HeldOut, Losses, batch_loss, encode, sample_batches

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = ["BASE", "Adaptation", "adapt_full", "adapt_lora"]

BASE = Path(__file__).parent / "base"
"""The shipped base model, which has read prose only."""

WARMUP_STEPS = 10
HELD_OUT_WINDOWS = 128

STEPS = 200
SAVE_AT = (10, 30, 100, 200)
FULL_LR = 3e-4
LORA_LR = 2e-3
LORA_RANK = 8
LORA_ALPHA = 16
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

Method: TypeAlias = Literal["full", "lora"]
Progress: TypeAlias = Callable[[int, int], None]
_Model: TypeAlias = "PreTrainedModel | PeftModel"


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What one adaptation did, and where it lies.

    Parameters
    ----------
    method
        ``full`` or ``lora``.
    folder
        Holds one ``checkpoint-N`` per saved step.
    steps
        Optimizer steps taken.
    learning_rate
        Constant after `WARMUP_STEPS`.
    seed
        Of the order of the batches and of LoRA's A.
    text_sha256
        Of the code corpus, which depends on the Python version.
    losses
        On held-out text: first the base, then every saved step.
    """

    method: Method
    folder: Path
    steps: int
    learning_rate: float
    seed: int
    text_sha256: str
    losses: tuple[Losses, ...]

    @property
    def before(self) -> Losses:
        """Losses of the base."""
        return self.losses[0]

    @property
    def after(self) -> Losses:
        """Losses at the last saved step."""
        return self.losses[-1]


def adapt_full(
    base: Path,
    out: Path,
    *,
    steps: int = STEPS,
    save_at: Sequence[int] = SAVE_AT,
    lr: float = FULL_LR,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adaptation:
    """Train every weight of the base on code.

    Parameters
    ----------
    base
        Folder of the base model, with its ``tokenizer.json``.
    out
        Receives ``checkpoint-N`` folders with ``model.safetensors``, ``config.json`` and
        ``trainer_state.json``.
    steps
        Optimizer steps of `BATCH` windows of `SEQUENCE` tokens.
    save_at
        Steps to save and measure at, each between 1 and `steps`.
    lr
        Learning rate after the warm-up.
    seed
        Decides the batches.
    progress
        Called with (steps done, steps) after every step.

    Returns
    -------
    Adaptation
        Held-out losses before and at every saved step.
    """
    plan = _Plan("full", steps, tuple(sorted(set(save_at))), lr, seed)
    return _adapt(_load(base), base, out, plan, progress)


def adapt_lora(
    base: Path,
    out: Path,
    *,
    steps: int = STEPS,
    save_at: Sequence[int] = SAVE_AT,
    lr: float = LORA_LR,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adaptation:
    """Train a LoRA adapter of rank `LORA_RANK` on every linear layer, on code.

    Parameters
    ----------
    base
        Folder of the base model, with its ``tokenizer.json``.
    out
        Receives ``checkpoint-N`` folders with ``adapter_model.safetensors``,
        ``adapter_config.json`` and ``trainer_state.json``.
    steps
        Optimizer steps of `BATCH` windows of `SEQUENCE` tokens.
    save_at
        Steps to save and measure at, each between 1 and `steps`.
    lr
        Learning rate after the warm-up.
    seed
        Decides the batches, as in `adapt_full`, and the adapter's first A.
    progress
        Called with (steps done, steps) after every step.

    Returns
    -------
    Adaptation
        Held-out losses before and at every saved step.
    """
    from peft import LoraConfig, get_peft_model

    plan = _Plan("lora", steps, tuple(sorted(set(save_at))), lr, seed)
    config = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules=list(LORA_TARGETS), task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # PEFT asks transformers by a name that transformers has since deprecated.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        torch.manual_seed(seed)  # PEFT draws A from the global generator.
        model = get_peft_model(_load(base), config)
    return _adapt(model, base, out, plan, progress)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How to train: the part that both methods share."""

    method: Method
    steps: int
    save_at: tuple[int, ...]
    lr: float
    seed: int

    def __post_init__(self) -> None:
        if not self.save_at or self.save_at[0] < 1 or self.save_at[-1] > self.steps:
            raise ValueError(
                f"save_at is {list(self.save_at)}; expected at least one step between 1 and "
                f"steps, which is {self.steps}."
            )


def _load(base: Path) -> "PreTrainedModel":
    """Read the base in float32, ready to train."""
    from transformers import AutoModelForCausalLM

    with _without_progress_bars():
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
    model.train()
    return model


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Silence the bars that transformers draws for every file; the caller has `progress`."""
    from transformers.utils import logging

    were_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            logging.enable_progress_bar()


def _adapt(model: _Model, base: Path, out: Path, plan: _Plan, progress: Progress | None) -> Adaptation:
    """Train, save and measure by the plan."""
    tokenizer = base / "tokenizer.json"
    code = text.code()
    held_out = HeldOut(
        prose=encode(tokenizer, text.prose().held_out),
        code=encode(tokenizer, code.held_out),
        windows=HELD_OUT_WINDOWS,
    )
    losses = [held_out.losses(model, 0)]
    for step in _train(model, encode(tokenizer, code.training), plan):
        if progress is not None:
            progress(step, plan.steps)
        if step in plan.save_at:
            losses.append(held_out.losses(model, step))
            _save(model, out / f"checkpoint-{step}", plan, losses)
    return Adaptation(
        method=plan.method,
        folder=out,
        steps=plan.steps,
        learning_rate=plan.lr,
        seed=plan.seed,
        text_sha256=code.sha256,
        losses=tuple(losses),
    )


def _train(model: _Model, tokens: Tensor, plan: _Plan) -> Iterator[int]:
    """Take the plan's optimizer steps, giving the number of each once it is taken."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    # No weight decay: it would add a multiple of the base to the update, at full rank.
    optimizer = torch.optim.AdamW(trained, lr=plan.lr, weight_decay=0.0)
    # Constant after the warm-up, so that a checkpoint does not depend on the steps after it.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda taken: min(1.0, (taken + 1) / WARMUP_STEPS))
    batches = sample_batches(tokens, generator=torch.Generator().manual_seed(plan.seed))
    for step, batch in zip(range(1, plan.steps + 1), batches, strict=False):
        optimizer.zero_grad()
        batch_loss(model, batch).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        yield step


def _save(model: _Model, folder: Path, plan: _Plan, losses: Sequence[Losses]) -> None:
    """Write the weights and the state that training programs leave beside them."""
    with _without_progress_bars():
        model.save_pretrained(str(folder))
    state = {
        "global_step": losses[-1].step,
        "max_steps": plan.steps,
        "train_batch_size": BATCH,
        "log_history": [
            {"step": each.step, "eval_prose_loss": each.prose, "eval_code_loss": each.code} for each in losses
        ],
    }
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
