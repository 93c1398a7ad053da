"""What a step of LoRA and of full fine-tuning costs at the shape of a Llama of 1 B parameters: memory and time.

``python -m analyses.llama_step_cost --device cuda`` takes two minutes of an H100 and 60 GB of its memory. Weights are
random: costs do not depend on their values. The arms are those that :mod:`analyses.lora_rank_choice` times, and take
turns. ``--quick`` takes a narrow model and needs no GPU.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from transformers import LlamaConfig

from analyses.kept_results import Kept, keep, kept, told_origin
from analyses.lora_rank_arms import NORMAL, QUICK, Arm
from analyses.lora_rank_cost import memory_row, step_ratios
from analyses.machine import table
from analyses.study_options import run_study, study_parser

__all__ = ["main", "make", "page", "tell"]

_NAME = "llama_step_cost"
_LLAMA_1B = {
    "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
}  # fmt: skip
"""Of Llama-3.2-1B, whose input and output embeddings are one."""
_NARROW = _LLAMA_1B | {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2,
                       "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    batch = {"batch": 2, "context": 16, "rounds": 2} if options.quick else {"batch": 4, "context": 512, "rounds": 16}
    return batch | {"shape": _NARROW if options.quick else _LLAMA_1B, "dtype": "float32"}


def _arms(options: argparse.Namespace) -> Sequence[Arm]:
    return (QUICK if options.quick else NORMAL).timed()


def make(options: argparse.Namespace) -> None:
    """Measure, and keep the tables.

    Parameters
    ----------
    options
        Of the command line.
    """
    settings, arms = _settings(options), _arms(options)
    shape = LlamaConfig(**settings["shape"], tie_word_embeddings=True, dtype=settings["dtype"])
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(shape.vocab_size, (settings["batch"], settings["context"]), generator=drawn)
    batch = {name: ids.to(options.device) for name in ("input_ids", "labels")}
    memory = [{"arm": arm.name, **memory_row(shape, arm, batch), **_peak(options.device)} for arm in arms]
    speed = step_ratios(shape, arms, batch, settings["rounds"])
    seconds = sum(row["seconds"] for row in speed)
    keep(options.out, settings, {"memory": pd.DataFrame(memory), "speed": pd.DataFrame(speed)}, seconds)


def _peak(device: str) -> Mapping[str, int]:
    """Of the step that was just taken; a GPU alone knows."""
    if device == "cpu":
        return {}
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_bytes": peak}


def page(found: Kept) -> str:
    """The page.

    Parameters
    ----------
    found
        What was kept.
    """
    settings, memory, speed = found.about["settings"], found.tables["memory"], found.tables["speed"]
    full = memory[memory["arm"] == "full"].iloc[0]
    columns = [name for name in ("weight_bytes", "gradient_bytes", "state_bytes", "peak_bytes") if name in memory]
    rows = []
    for own in memory.to_dict("records"):
        times = speed[speed["arm"] == own["arm"]]
        low, middle, high = times["ratio"].quantile([0.25, 0.5, 0.75])
        rows.append(
            (own["arm"], f"{own['trained_parameters']:,}", *(f"{own[name] / 1e9:.3f}" for name in columns),
             f"{own[columns[-1]] / full[columns[-1]]:.0%}", f"{times['seconds'].median() * 1e3:.0f} ms",
             f"{middle:.2f} ({low:.2f} to {high:.2f})")
        )  # fmt: skip
    titles = {"weight_bytes": "weights", "gradient_bytes": "gradients", "state_bytes": "state of AdamW",
              "peak_bytes": "peak of a step"}  # fmt: skip
    named = [titles[name] for name in columns]
    shape = settings["shape"]
    return "\n\n".join((
        "# What a step of LoRA and of full fine-tuning costs at the shape of Llama-3.2-1B",
        (
            f"A Llama of {shape['num_hidden_layers']} layers of width {shape['hidden_size']}, MLP"
            f" {shape['intermediate_size']}, {shape['vocab_size']:,} tokens, random weights, {settings['dtype']},"
            f" AdamW; {settings['batch']} x {settings['context']} tokens a step, activations kept. GB of tensors"
            " after a step, and the most that was allocated in it. Times: each arm takes a step in each of"
            f" {speed['round'].nunique()} rounds, in random order; ratios are taken round by round, then their median"
            " and quartiles."
        ),
        table(("arm", "trained parameters", *(f"{name} (GB)" for name in named), f"{named[-1]}, of full fine-tuning's",
               "step, median", "of full fine-tuning's"), rows),
        told_origin(found.about),
    )) + "\n"  # fmt: skip


def tell(folder: Path, _pictures: bool) -> None:
    """Write README.md; there is no picture.

    Parameters
    ----------
    folder
        Of the kept results.
    """
    (folder / "README.md").write_text(page(kept(folder)), encoding="utf-8")


def main() -> None:
    """Measure, keep, tell."""
    options = study_parser(__doc__ or "", _NAME).parse_args()
    options.workers = 1
    run_study(_NAME, options, lambda _: None, make, tell)


if __name__ == "__main__":
    main()
