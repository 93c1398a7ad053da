"""What is learned and what is forgotten, by method, learning rate, seed and step, beside the rank of the change.

``python -m analyses.learning_vs_forgetting`` adapts the demo's base, a Llama of 0.9 M parameters that has read English
prose, to Python code: full fine-tuning, LoRA of two ranks and SoRA, three learning rates each, two seeds, checkpoints
on a logarithmic schedule. Learning is the loss on held-out code, forgetting that on held-out prose; both stand beside
the ranks of each checkpoint. The question is that of arXiv 2405.09673. Nothing is said of single points: only curves
over learning rates, with an interval over seeds.

A run that was stopped goes on; more seeds, steps, or a larger base by flags. Tables, data and the picture are kept in
``results/learning_vs_forgetting/``.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, TrainingArguments

from analyses.machine import about_machine
from analyses.trade_off_arms import Arm, Texts, arms, quick_arms, texts_of
from analyses.trade_off_report import draw, report
from rank_lab import MeasurementOptions, analyze
from rank_lab.demo.adapt import BASE
from rank_lab.evaluation.evaluate_choices import Choices
from rank_lab.evaluation.evaluate_command import evaluate_and_print
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.outcomes_export import export_outcomes
from rank_lab.plain_text import first_line
from rank_lab.study_outcomes import study_outcomes
from rank_lab.tasks import Task, TaskData, encoded
from rank_lab.training.finetune import TrainingRun, finetune
from rank_lab.training.methods import METHODS

__all__ = ["main"]

CONTEXT, BATCH, STEPS, CHECKPOINTS = 128, 8, 240, 7
_RESULTS = Path(__file__).parent / "results" / "learning_vs_forgetting"
_CODE = Task("code", "causal", ("text",), "", "token_accuracy")


def _settings(options: argparse.Namespace, chosen: Sequence[Arm]) -> Iterator[tuple[str, Arm, float, int]]:
    for seed in options.seeds:
        for arm in chosen:
            for rate in arm.learning_rates:
                yield f"{arm.name}_lr{rate:g}_seed{seed}", arm, rate, seed


def train(options: argparse.Namespace, arm: Arm, data: TaskData, folder: Path, rate: float, seed: int) -> None:
    """One run, or what is left of it.

    Parameters
    ----------
    options
        As parsed.
    arm, rate, seed
        What is trained, and how.
    data
        Code.
    folder
        Receives its checkpoints.
    """
    arguments = TrainingArguments(
        str(folder),
        max_steps=options.steps,
        per_device_train_batch_size=BATCH,
        per_device_eval_batch_size=4 * BATCH,
        learning_rate=rate,
        lr_scheduler_type="constant_with_warmup",  # a checkpoint is then what a shorter run would have come to
        warmup_steps=options.steps // 20,
        weight_decay=0.0,
        seed=seed,
        use_cpu=options.device == "cpu",
        dataloader_pin_memory=False,
        report_to=[],
    )
    run = TrainingRun(options.base, METHODS[arm.method], arm.choices, arguments, CHECKPOINTS)
    finetune(run, data, folder)


def measure(options: argparse.Namespace, runs: Sequence[Path], texts: Texts) -> None:
    """Ranks and scores of every checkpoint of all runs, and the scores of the base.

    Parameters
    ----------
    options
        As parsed.
    runs
        Their folders.
    texts
        What learning and forgetting are measured on.
    """
    for folder in runs:
        there = options.study / f"{folder.name}.rank"
        if not (there / "report.json").is_file():
            kept = MeasurementOptions(device=options.device, cache=options.study / ".spectra")
            analyze(folder, options.base, options=kept).save(there)
    choices = Choices(
        source_texts=(f"prose={texts.source}",),
        target_texts=(f"code={texts.target}",),
        kl=True,
        batch_size=4 * BATCH,
        max_length=CONTEXT,
    )
    loading = LoadOptions(base=str(options.base), device=options.device)
    if evaluate_and_print([str(run) for run in runs], options.study, loading, choices):
        sys.exit("not all could be measured, see above; run the command again.")


def keep(options: argparse.Namespace, texts: Texts, seconds: float) -> None:
    """Tables, data and words for a reader.

    Parameters
    ----------
    options
        As parsed.
    texts
        For their hash.
    seconds
        That this call took.
    """
    found = study_outcomes(options.study)
    options.out.mkdir(parents=True, exist_ok=True)
    export_outcomes(found, options.out, formats=["csv"])
    about: dict[str, Any] = {
        "base": "the demo's base" if options.base == BASE else str(options.base),
        "steps": options.steps,
        "batch": BATCH,
        "context": CONTEXT,
        "seeds": options.seeds,
        "texts": texts.sha256,
        "seconds": seconds,
        "device": options.device,
        "machine": about_machine(["rank-lab", "torch", "transformers", "peft"]),
    }
    text = report(found, about)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)
    if options.no_picture:
        return
    figure = draw(found)
    try:
        figure.write_image(options.out / "trade_off.png", scale=2)
        figure.write_image(options.out / "trade_off.svg")
    except (ImportError, RuntimeError, ValueError) as error:  # kaleido, or the browser that it drives, is missing
        sys.exit(f"no picture drawn: {first_line(error)}; the tables are in {options.out}, run this again once mended.")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BASE, help="folder or hub id of a causal model; default the demo's base")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="each repeats every run")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--study", type=Path, default=Path("trade-off-study"), help="where runs are and are gone on with"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of two arms, to see that it runs")
    parser.add_argument("--no-picture", action="store_true", help="tables only: pictures need kaleido and a browser")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    if options.quick:
        options.study, options.steps, options.seeds = options.study / "quick", 4, [0, 1]
    options.out = options.out or (options.study / "results" if options.quick else _RESULTS)
    return options


def main() -> None:
    """Train, measure, keep."""
    options = _parsed()
    began = time.monotonic()
    texts = texts_of(options.study / "data", quick=options.quick)
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    data = encoded(_CODE, texts.folder, tokenizer, max_length=CONTEXT, packed=True)
    runs = []
    for name, arm, rate, seed in _settings(options, (quick_arms if options.quick else arms)(options.steps)):
        print(f"{time.monotonic() - began:6.0f} s  {name}", file=sys.stderr, flush=True)
        runs.append(options.study / "runs" / name)
        train(options, arm, data, runs[-1], rate, seed)
    measure(options, runs, texts)
    keep(options, texts, time.monotonic() - began)


if __name__ == "__main__":
    main()
