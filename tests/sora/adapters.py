"""Small models with a SoRA adapter whose gates are partly zero, as training leaves them."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model

from rank_lab.sora import SoraConfig
from tests.peft_models import WIDTH, small

Model = Any

TARGETS = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj"],
    "bert": ["query", "value", "dense"],
}
TASKS = {"llama": "CAUSAL_LM", "gpt2": "CAUSAL_LM", "bert": "SEQ_CLS"}
KINDS = tuple(TARGETS)


def base_model(kind: str) -> Model:
    if kind != "bert":
        return small(kind)
    import transformers as hf

    torch.manual_seed(3)
    config = hf.BertConfig(
        vocab_size=60, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
    )
    return hf.BertForSequenceClassification(config)


def settings(kind: str, **options: Any) -> SoraConfig:
    given = {
        "r": 6,
        "lora_alpha": 12,
        "target_modules": TARGETS[kind],
        "task_type": TASKS[kind],
        "fan_in_fan_out": kind == "gpt2",
    }
    return SoraConfig(**given | options)


def patterns(kind: str) -> dict[str, Any]:
    """rsLoRA with another rank for some modules."""
    return {"use_rslora": True, "rank_pattern": {{"llama": "v_proj", "gpt2": "mlp.c_proj", "bert": "value"}[kind]: 3}}


def adapted(kind: str, **options: Any) -> Model:
    return get_peft_model(base_model(kind), settings(kind, **options)).eval()


def as_trained(model: Model, adapter: str = "default", *, shut: Sequence[str] = ()) -> Model:
    """Random factors and gates, of which every other is zero; all of the modules in ``shut``."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name and f".{adapter}" in name:
                value.copy_(0.3 * torch.randn(value.shape, generator=generator))
            if f"lora_gate.{adapter}" in name:
                value[1::2] = 0.0
                value.mul_(float(not any(part in name for part in shut)))
    return model


def tokens() -> torch.Tensor:
    return torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(6))


@torch.no_grad()
def logits(model: Model) -> torch.Tensor:
    return model.eval()(input_ids=tokens()).logits


def fresh_process(code: str, *arguments: object) -> str:
    """Run Python code in another process; what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
