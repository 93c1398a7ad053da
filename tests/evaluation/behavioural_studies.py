"""Runs of the demo's base that have learned some texts, for behavioural ranks with known answers."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from rank_lab.demo import BASE
from rank_lab.evaluation.text_sets import TextSet
from tests.checkpoints import rank_lab
from tests.evaluation.models import demo_base, demo_tokenizer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
TASK = {"task_type": "CAUSAL_LM", "target_modules": LINEAR}
LEARNT = tuple(
    f"item {number}: {' '.join(str((number * step) % 7) for step in range(1, 18))}; end of item {number}"
    for number in range(12)
)
KNOWN = tuple(
    f"{who} {what} the house and looked at the {where} again."
    for who in ("He", "She", "The old man") for what in ("left", "saw", "found") for where in ("moon", "sea")
)  # fmt: skip
SETS = (TextSet("items", LEARNT, "made up", "target"), TextSet("prose", KNOWN, "made up", "source"))


def padded() -> Any:
    tokenizer = demo_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def trained(rank: int, steps: int = 30) -> Any:
    """A LoRA of that rank in every matrix of the base that has learned the texts; the model in memory."""
    torch.manual_seed(0)
    model = get_peft_model(demo_base(), LoraConfig(r=rank, lora_alpha=2 * rank, **TASK))
    found = padded()(list(LEARNT), padding=True, padding_side="right", return_tensors="pt")
    labels = found["input_ids"].masked_fill(found["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=found["input_ids"], attention_mask=found["attention_mask"], labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def text_files(folder: Path) -> dict[str, Path]:
    """Both sets as files, by name."""
    files = {}
    for each in SETS:
        files[each.name] = folder / f"{each.name}.jsonl"
        files[each.name].write_text("".join(json.dumps({"text": text}) + "\n" for text in each.texts))
    return files


def made(home: Path) -> Path:
    """A study with the behavioural rank of a LoRA of rank 4, by the command line."""
    trained(4, steps=12).save_pretrained(home / "lora")
    files, study = text_files(home), home / "study"
    done = rank_lab(
        "behavioural", home / "lora", "--base", BASE, "--target", f"items={files['items']}", "--source",
        f"prose={files['prose']}", "--batch-size", 32, "-o", study,
    )  # fmt: skip
    assert done.code == 0, done.err
    return study
