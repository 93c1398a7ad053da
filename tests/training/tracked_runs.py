"""Small models trained by transformers' own Trainer under a RankTracker."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from peft import AdaLoraConfig, IA3Config, LoraConfig, PromptTuningConfig, TaskType, VeraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from rank_lab.sora import SoraConfig, SoraTrainer
from rank_lab.training.rank_tracker import RankTracker, TrackerSettings
from tests.peft_models import TARGETS, small

Model = Any
STEPS = 8
POINTS = (1, 3, 5, 8)
AT_POINTS = TrackerSettings(points=POINTS)
ONLY_FILES = ["run", "method", "optimizer", "learning_rate", "content"]
"""Columns that differ between a report of the tracker and one of the files."""

_LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "task_type": TaskType.CAUSAL_LM}
CONFIGS: dict[str, Any] = {
    "lora": lambda: LoraConfig(**_LORA),
    "rslora": lambda: LoraConfig(**_LORA | {"use_rslora": True, "rank_pattern": {"v_proj": 2}}),
    "embeddings": lambda: LoraConfig(
        **_LORA | {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}
    ),
    "dora": lambda: LoraConfig(**_LORA | {"use_dora": True}),
    "sora": lambda: SoraConfig(**_LORA | {"threshold": 3.0}),
    "adalora": lambda: AdaLoraConfig(
        init_r=4, target_r=2, tinit=1, tfinal=3, deltaT=1, total_step=STEPS, **{**_LORA, "r": 8}
    ),
    "ia3": lambda: IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type=TaskType.CAUSAL_LM
    ),
    "vera": lambda: VeraConfig(r=4, target_modules=["q_proj", "o_proj"], task_type=TaskType.CAUSAL_LM),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM),
}


class Allocate(TrainerCallback):  # type: ignore[misc]
    """AdaLoRA's own call, where PEFT says that it belongs."""

    def on_optimizer_step(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        kwargs["model"].base_model.update_and_allocate(int(state.global_step))


class SaveAt(TrainerCallback):  # type: ignore[misc]
    """Checkpoints at these steps."""

    def __init__(self, steps: Sequence[int]) -> None:
        self.steps = steps

    def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> Any:
        control.should_save = state.global_step in self.steps
        return control


class KilledError(Exception):
    """What a test throws into a training."""


class KillAt(TrainerCallback):  # type: ignore[misc]
    """Ends the training in the middle, behind all that other callbacks did at that step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            raise KilledError


def data(rows: int = 64) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(8)
    found = torch.randint(0, 60, (rows, 8), generator=generator)
    return [{"input_ids": row, "labels": row} for row in found]


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    given = {
        "max_steps": STEPS, "per_device_train_batch_size": 2, "learning_rate": 0.02, "save_strategy": "no",
        "logging_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 5,
        "dataloader_pin_memory": False,
    }  # fmt: skip
    return TrainingArguments(str(folder), **given | options)


def model_of(kind: str) -> Model:
    model = small()
    torch.manual_seed(2)
    return model if kind == "full" else get_peft_model(model, CONFIGS[kind]())


def base_of(root: Path) -> Path:
    small().save_pretrained(root / "base")
    return root / "base"


def trainer_of(
    root: Path,
    kind: str,
    *,
    base: Path | None = None,
    settings: TrackerSettings = AT_POINTS,
    others: Sequence[TrainerCallback] = (),
    model: Model | None = None,
    **options: Any,
) -> tuple[Trainer, RankTracker]:
    tracker = RankTracker(root / "study", kind, base=base, settings=settings)
    callbacks = [tracker, *([Allocate()] if kind == "adalora" else []), *others]
    trained = model_of(kind) if model is None else model
    made = (SoraTrainer if kind == "sora" else Trainer)(
        trained, arguments(root / "out", **options), train_dataset=data(), callbacks=callbacks
    )
    return made, tracker


def assert_alike(found: pd.DataFrame, expected: pd.DataFrame, but: Sequence[str] = ()) -> None:
    """Equal to the last bit, whatever the order."""
    order = ["step", "delta", "module"]
    mine, its = (table.drop(columns=list(but)).sort_values(order).reset_index(drop=True) for table in (found, expected))
    pd.testing.assert_frame_equal(mine, its, check_exact=True)
