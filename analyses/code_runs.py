"""Trainings on Python code, with held-out code in two halves: one to choose a learning rate by, one to report."""

import argparse
import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainingArguments
from transformers.utils import logging

from analyses.pretrain_study_base import STUDY_BASE
from rank_lab.base_model import load_base
from rank_lab.demo import BASE
from rank_lab.demo.task_files import write_texts
from rank_lab.durable import held
from rank_lab.errors import RankLabError
from rank_lab.tasks import Task, TaskData, encoded
from rank_lab.training.finetune import Finetuned, TrainingRun, finetune
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from rank_lab.training.validation import TargetBatches, loss_over

__all__ = [
    "CodeData", "Recipe", "base_of", "base_record", "code_data", "quiet_peft", "reported_loss",
    "said_of_base", "trained",
]  # fmt: skip

_CODE = Task("code", "causal", ("text",), "", "token_accuracy")
_UNUSED = 8  # files that fill a block: a task has something to train on, also where nobody trains on it


@dataclass(frozen=True)
class CodeData:
    """Code to learn, and held-out code.

    Parameters
    ----------
    task
        To train on; its validation set is the half by which rates are chosen.
    reported
        The other half: no choice sees it.
    sha256
        Of the corpora, which depend on the version of Python.
    """

    task: TaskData
    reported: TaskData
    sha256: str


@dataclass(frozen=True)
class Recipe:
    """How a run is trained; the rate is constant.

    Parameters
    ----------
    steps, batch
        Optimizer steps, and blocks of tokens in each.
    learning_rate, seed
        Of the run; runs of one seed see the same batches.
    optimizer
        transformers' settings of it: ``optim``, ``optim_args``, ``adam_beta2`` and so on.
    save_at
        Steps of checkpoints beside the last.
    device
        cpu or cuda.
    """

    steps: int
    batch: int
    learning_rate: float
    seed: int
    optimizer: tuple[tuple[str, Any], ...] = (("optim", "adamw_torch"),)
    save_at: tuple[int, ...] = ()
    device: str = "cpu"


def base_record(folder: Path) -> dict[str, Any]:
    """What a base is, for the record of a study: its name, sizes, and the hash of its weights.

    Parameters
    ----------
    folder
        Of a model in one file.

    Raises
    ------
    RankLabError
        If there is none.

    Examples
    --------
    >>> from rank_lab.demo import BASE
    >>> found = base_record(BASE)
    >>> found["name"], found["hidden_size"], found["parameters"]
    ("the demo's base", 128, 935040)
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise RankLabError(
            f"{folder}: no model in one file (model.safetensors) is there; make the studies' base with python -m"
            f" analyses.pretrain_study_base --study {folder}, or give another folder with --base."
        )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    with safe_open(weights, framework="pt") as tensors:
        count = sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118
    ours = folder.resolve() == BASE.resolve()
    studies = f"the studies' base ({folder.name})" if STUDY_BASE.parent.name in folder.parts[:-1] else ""
    return (
        {"name": "the demo's base" if ours else studies or f"the model in {folder.name}"}
        | {"parameters": count, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
        | {size: config.get(size) for size in sizes}
    )


def said_of_base(base: Mapping[str, Any]) -> str:
    """The same in words.

    Parameters
    ----------
    base
        From :func:`base_record`.
    """
    return (
        f"{base['name']} ({base['parameters'] / 1e6:.2f} M parameters, {base['num_hidden_layers']} layers of width"
        f" {base['hidden_size']}, MLP {base['intermediate_size']}, weights {base['sha256'][:12]})"
    )


def code_data(folder: Path, base: Path | str, *, context: int, pieces: int, documents: int | None = None) -> CodeData:
    """The standard library's code, cut into blocks; held-out pieces go to either half in turn.

    Parameters
    ----------
    folder
        Receives the texts.
    base
        Whose tokenizer is used.
    context
        Tokens of a block.
    pieces
        Held-out texts of both halves together.
    documents
        Files of code to learn, the first so many; None for all.
    """
    logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with held(folder.parent / f".{folder.name}.lock"):  # processes of a study write the same files
        texts = write_texts(folder, pieces=pieces, documents=documents)
    learned, held_out = (_rows(texts.folder / f"{name}.jsonl") for name in ("train", "validation"))
    tokenizer = AutoTokenizer.from_pretrained(base)
    task, reported = (
        encoded(_CODE, {"train": train, "validation": half}, tokenizer, max_length=context, packed=True)
        for train, half in ((learned, held_out[::2]), (learned[:_UNUSED], held_out[1::2]))
    )
    return CodeData(task, reported, texts.sha256)


def trained(
    base: Path | str | Any, method: str, choices: MethodChoices, recipe: Recipe, data: CodeData, folder: Path
) -> Finetuned:
    """One run, or what is left of it.

    Parameters
    ----------
    base
        Folder, hub id, or the model itself, which is changed.
    method, choices
        Of the registry.
    recipe, data
        How, and on what.
    folder
        Of the run.
    """
    arguments = TrainingArguments(
        str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=recipe.batch,
        per_device_eval_batch_size=4 * recipe.batch,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",  # a checkpoint is then what a shorter run would have come to, from step 1 on
        weight_decay=0.0,
        seed=recipe.seed,
        use_cpu=recipe.device == "cpu",
        dataloader_pin_memory=False,
        report_to=[],
        **dict(recipe.optimizer),
    )
    save_at = recipe.save_at or (recipe.steps,)
    with quiet_peft():
        return finetune(TrainingRun(base, METHODS[method], choices, arguments, save_at), data.task, folder)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Without the warning that PEFT asks transformers by an older name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def reported_loss(model: Path, base: Path, data: CodeData, *, device: str = "cpu", batch: int = 32) -> float:
    """Mean loss on the half that no choice saw, nats a token.

    Parameters
    ----------
    model
        Folder of a whole model or of an adapter.
    base
        Folder of its base.
    data
        Of the study.
    device
        cpu or cuda.
    batch
        Blocks at a time.
    """
    whole = not (model / "adapter_config.json").is_file()
    found = load_base(model if whole else base, "causal", dtype="float32")
    if not whole:
        with quiet_peft():
            found = PeftModel.from_pretrained(found, model)
    batches = TargetBatches(data.reported.collator, data.reported.task.kind)
    loss, count = loss_over(found.to(device), data.reported.validation, batches, batch, (0, 1)).tolist()
    return float(loss / count)


def base_of(options: argparse.Namespace) -> Path:
    """The folder of a study's base: the one given, else the studies' own; of a quick one, a tiny one of random weights.

    Parameters
    ----------
    options
        With ``base``, ``quick`` and ``study``.
    """
    if options.quick and options.base is None:
        options.study.mkdir(parents=True, exist_ok=True)
        return _tiny(options.study / "tiny")
    return Path(options.base or STUDY_BASE)


def _tiny(folder: Path) -> Path:
    with held(folder.parent / f".{folder.name}.lock"):
        if not (folder / "model.safetensors").is_file():
            sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
                     "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = LlamaForCausalLM(LlamaConfig.from_pretrained(BASE, **sizes))
            AutoTokenizer.from_pretrained(BASE).save_pretrained(folder)
            model.save_pretrained(folder)
    return folder


def _rows(file: Path) -> Sequence[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
