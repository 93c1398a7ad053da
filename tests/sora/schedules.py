"""Small runs of Algorithm 1: a model, data that it can learn and half remember, a schedule of seconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM, TrainingArguments

from rank_lab.curve import Curve
from rank_lab.scores import SCORES
from rank_lab.sora import Schedule, SoraConfig, StopRule, run_schedule

KINDS = ("classification", "regression", "causal")
SCORE = {"classification": "accuracy", "regression": "pearson", "causal": "token_accuracy"}
WORDS, LENGTH = 20, 6
SIZES = {
    "vocab_size": WORDS, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip


def maker(kind: str = "classification", **options: Any) -> Callable[[], Any]:
    """What makes a model from the seed that was set; the base is the same for all seeds."""

    def make() -> Any:
        state = torch.random.get_rng_state()
        torch.manual_seed(3)
        if kind == "causal":
            base = LlamaForCausalLM(LlamaConfig(**SIZES, bos_token_id=0, eos_token_id=0, pad_token_id=0))
            places: dict[str, Any] = {"target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"}
        else:
            labels = 1 if kind == "regression" else 3
            base = BertForSequenceClassification(BertConfig(**SIZES, num_labels=labels, max_position_embeddings=8))
            places = {"target_modules": ["query", "value", "intermediate.dense"], "task_type": "SEQ_CLS"}
        torch.random.set_rng_state(state)
        given = {"r": 4, "lora_alpha": 16, "lora_dropout": 0.1, "gate_init": "normal"} | places | options
        return get_peft_model(base, SoraConfig(**given))

    return make


def rows(kind: str = "classification", count: int = 40, seed: int = 8) -> Dataset:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, WORDS, (count, LENGTH), generator=generator)
    labels: Any = ids.tolist()
    if kind == "classification":
        labels = (ids[:, 0] % 3).tolist()
    if kind == "regression":
        labels = (ids[:, 0] / WORDS).tolist()
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": labels})


def arguments(**options: Any) -> TrainingArguments:
    given = {
        "per_device_train_batch_size": 4, "per_device_eval_batch_size": 16, "learning_rate": 0.02, "weight_decay": 0.1,
        "warmup_steps": 2, "lr_scheduler_type": "constant_with_warmup", "report_to": [], "use_cpu": True,
    }  # fmt: skip
    return TrainingArguments("unused", **given | options)


def plan(**options: Any) -> Schedule:
    given = {
        "thresholds": (0.0, 1.0, 2.0), "controls": (), "subset": 30, "resamples": 50,
        "stop": StopRule(min_steps=8, max_steps=16, check_steps=4, patience=2, tolerance=0.0),
    }  # fmt: skip
    return Schedule(**given | options)


def run(out: Path, kind: str = "classification", schedule: Schedule | None = None, **options: Any) -> Curve:
    given: dict[str, Any] = {
        "make_model": maker(kind), "train": rows(kind), "validation": rows(kind, 24, 9), "out": out,
        "schedule": plan() if schedule is None else schedule, "score": SCORES[SCORE[kind]],
        "names": {"model": "tiny", "task": kind},
    }  # fmt: skip
    if "arguments" not in options:
        given["arguments"] = arguments()
    return run_schedule(**given | options)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of a stage."""
    return load_file(folder / "adapter_model.safetensors")


def timeless(curve: Curve) -> list[dict[str, Any]]:
    """All rows without what a clock says."""
    return [{name: value for name, value in vars(row).items() if name != "seconds"} for row in curve.records]
