"""Small runs of the trainer: the demo's base, sentences that it can learn, four steps."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, TrainingArguments

from rank_lab.demo import BASE
from rank_lab.sora import SoraConfig
from rank_lab.tasks import Task, TaskData, encoded
from rank_lab.training.finetune import Finetuned, TrainingRun, Watching, finetune
from rank_lab.training.loss_rows import LossRow
from rank_lab.training.method import Method, MethodChoices

TEXT = Task("text", "causal", ("said",), "", "token_accuracy")
STEPS = 6
_TARGETS = ["q_proj", "v_proj", "down_proj"]


def _lora(model: Any, choices: MethodChoices, kind: str) -> Any:
    config = LoraConfig(r=choices.rank, lora_alpha=8, lora_dropout=0.1, target_modules=_TARGETS, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def _adalora(model: Any, choices: MethodChoices, kind: str) -> Any:
    config = AdaLoraConfig(
        target_r=2, init_r=4, lora_alpha=8, lora_dropout=0.1, tinit=1, tfinal=choices.steps // 3, deltaT=2,
        total_step=choices.steps, target_modules=_TARGETS, task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, config)


def _sora(model: Any, choices: MethodChoices, kind: str) -> Any:
    config = SoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=_TARGETS, task_type="CAUSAL_LM", gate_lr=0.1,
        threshold=choices.threshold, l1_weight=0.1,
    )  # fmt: skip
    return get_peft_model(model, config)


LOCAL: Mapping[str, Method] = {
    "full": Method("full", "full fine-tuning", "", 3e-4, lambda model, choices, kind: model),
    "lora": Method("lora", "LoRA", "", 3e-3, _lora),
    "adalora": Method("adalora", "AdaLoRA", "", 3e-3, _adalora),
    "sora": Method("sora", "SoRA", "", 3e-3, _sora),
}
"""As small as they can be, with dropout, so that random numbers matter."""


def without_dropout(name: str) -> Method:
    """The same method, in which nothing random is left but the start."""
    method = LOCAL[name]

    def adapt(model: Any, choices: MethodChoices, kind: str) -> Any:
        adapted = method.adapt(model, choices, kind)
        for module in adapted.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return adapted

    return replace(method, adapt=adapt)


def sentences(count: int, start: int = 0) -> list[dict[str, str]]:
    """Of different lengths."""
    return [{"said": f"number {n} is {'even' if n % 2 == 0 else 'odd'}" + " indeed" * (n % 3)} for n in
            range(start, start + count)]  # fmt: skip


@cache
def text_data() -> TaskData:
    """Ten training examples: an epoch ends within a run, with a batch that is not full."""
    rows = {"train": sentences(10), "validation": sentences(6, 100)}
    return encoded(TEXT, rows, AutoTokenizer.from_pretrained(BASE))


def arguments(**options: Any) -> TrainingArguments:
    given = {
        "max_steps": STEPS, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 2e-3,
        "lr_scheduler_type": "cosine", "warmup_steps": 2, "seed": 5, "use_cpu": True, "dataloader_pin_memory": False,
        "report_to": [],
    }  # fmt: skip
    return TrainingArguments("unused", **given | options)


def run(out: Path, method: Method | str = "lora", **options: Any) -> Finetuned:
    """A run; options of arguments, and any of choices, data, base, save_at, resume, watching."""
    own: dict[str, Any] = {
        name: options.pop(name) for name in ("choices", "data", "base", "save_at", "resume", "watching")
        if name in options
    }  # fmt: skip
    given = TrainingRun(
        base=own.get("base", BASE),
        method=LOCAL[method] if isinstance(method, str) else method,
        choices=own.get("choices", MethodChoices(rank=4, threshold=0.5)),
        arguments=arguments(**options),
        save_at=own.get("save_at", (1, 3, 4)),
    )
    data = own.get("data") or text_data()
    return finetune(given, data, out, resume=own.get("resume", True), watching=own.get("watching") or Watching())


def timeless(rows: tuple[LossRow, ...]) -> list[dict[str, Any]]:
    """Rows without what a clock says."""
    return [{name: value for name, value in vars(row).items() if name != "seconds"} for row in rows]


def tensors(checkpoint: Path) -> dict[str, Tensor]:
    """All that a checkpoint holds of a model, its optimizer and its allocator."""
    found: dict[str, Tensor] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        found |= {f"{file.name} {name}": value for name, value in load_file(file).items()}
    state = torch.load(checkpoint / "optimizer.pt", weights_only=True)["state"]
    for number, entry in state.items():
        found |= {f"optimizer {number} {name}": torch.as_tensor(value) for name, value in entry.items()}
    return found


def assert_same(first: Path, second: Path) -> None:
    """Bit for bit."""
    one, two = tensors(first), tensors(second)
    assert one.keys() == two.keys()
    different = [name for name in one if not torch.equal(one[name], two[name])]
    assert not different, different[:3]
