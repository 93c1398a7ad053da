"""What is learned and what is forgotten, by method, learning rate, seed and step, beside the rank of the change.

``python -m analyses.learning_vs_forgetting`` adapts the demo's base, a Llama of 0.9 M parameters that has read English
prose, to Python code: full fine-tuning, LoRA of two ranks and SoRA, three learning rates each, three seeds, checkpoints
on a logarithmic schedule. Learning is the loss on held-out code, forgetting that on held-out prose; both stand beside
the ranks of each checkpoint. The question is that of arXiv 2405.09673. Nothing is said of single points: only curves
over learning rates, with an interval over seeds.

A run that was stopped goes on; more seeds, steps, or a larger base by flags; several calls with a seed each may share a
study at the same time, and a last one with all seeds puts them together. Tables, data and the picture are kept in
``results/learning_vs_forgetting/``.
"""

import argparse
import json
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, TrainingArguments

from analyses.machine import about_machine
from analyses.trade_off_arms import Arm, arms, quick_arms
from analyses.trade_off_report import report
from rank_lab import MeasurementOptions, analyze
from rank_lab.demo import BASE
from rank_lab.demo.task_files import Texts, write_texts
from rank_lab.durable import write_whole
from rank_lab.evaluation.evaluate_choices import Choices
from rank_lab.evaluation.evaluate_command import evaluate_models
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.outcomes_export import export_outcomes
from rank_lab.plain_text import first_line
from rank_lab.score_table import SCORES_FILE, ScoreTable
from rank_lab.study_outcomes import study_outcomes
from rank_lab.tasks import Task, TaskData, encoded
from rank_lab.training.finetune import TrainingRun, finetune
from rank_lab.training.methods import METHODS

__all__ = ["main"]

CONTEXT, BATCH, STEPS, CHECKPOINTS = 128, 8, 100, 5
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
    finetune(TrainingRun(options.base, METHODS[arm.method], arm.choices, arguments, CHECKPOINTS), data, folder)


def score(options: argparse.Namespace, runs: Sequence[Path], name: str, texts: Texts) -> None:
    """Losses of every checkpoint of a run, or of the base, in a folder of their own: several may be at work.

    Parameters
    ----------
    options
        As parsed.
    runs
        One run's folder, or none for the base.
    name
        Of the folder of scores.
    texts
        What learning and forgetting are measured on.
    """
    choices = Choices(
        source_texts=(f"prose={texts.source}",),
        target_texts=(f"code={texts.target}",),
        kl=True,
        batch_size=4 * BATCH,
        max_length=CONTEXT,
    )
    loading = LoadOptions(base=str(options.base), device=options.device)
    found = evaluate_models([str(run) for run in runs], _scores(options, name), loading, choices, skip_base=bool(runs))
    if found.failures:
        sys.exit(f"{name}: not all could be measured: {'; '.join(found.failures)}; run the command again.")


def _scores(options: argparse.Namespace, name: str) -> Path:
    return Path(options.study / "scores" / name)


def make(options: argparse.Namespace, texts: Texts) -> None:
    """Train and measure what is not there yet, run by run.

    Parameters
    ----------
    options
        As parsed.
    texts
        To learn, and to measure on.
    """
    began = time.monotonic()
    score(options, (), "base", texts)
    todo = [setting for setting in _settings(options, options.arms) if not _report(options, setting[0]).is_dir()]
    if not todo:
        return
    tokenizer = AutoTokenizer.from_pretrained(options.base)
    data = encoded(_CODE, texts.folder, tokenizer, max_length=CONTEXT, packed=True)
    for name, arm, rate, seed in todo:
        print(f"{time.monotonic() - began:6.0f} s  {name}", file=sys.stderr, flush=True)
        folder = options.study / "runs" / name
        train(options, arm, data, folder, rate, seed)
        score(options, [folder], name, texts)
        report_of_run = analyze(folder, options.base, options=MeasurementOptions(cache=options.study / ".spectra"))
        report_of_run.save(_report(options, name))  # the last, so that what has one is done
    about = {"seconds": time.monotonic() - began, "machine": about_machine(_PACKAGES), "device": _device(options)}
    write_whole(options.study / "about.json", json.dumps(about))


_PACKAGES = ("rank-lab", "torch", "transformers", "peft")


def _report(options: argparse.Namespace, name: str) -> Path:
    return Path(options.study / f"{name}.rank")


def _device(options: argparse.Namespace) -> str:
    if options.device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    return str(torch.cuda.get_device_name())


def keep(options: argparse.Namespace, texts: Texts) -> None:
    """Tables, data and words for a reader.

    Parameters
    ----------
    options
        As parsed.
    texts
        For their hash.
    """
    table = ScoreTable()
    for name in ("base", *(name for name, *_ in _settings(options, options.arms))):
        table = table.merged(ScoreTable.load(_scores(options, name) / SCORES_FILE))
    table.save(options.study / SCORES_FILE)
    found = study_outcomes(options.study)
    options.out.mkdir(parents=True, exist_ok=True)
    export_outcomes(found, options.out, formats=["csv"])
    (options.out / "score_examples.csv").unlink()  # of every text, large, and made again by the study
    about: dict[str, Any] = json.loads((options.study / "about.json").read_text(encoding="utf-8"))
    about |= _stated(options, texts) | {"seeds": options.seeds}
    text = report(found, about)
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)
    if options.no_picture:
        return
    from analyses.trade_off_picture import draw  # plotly

    figure = draw(found)
    try:
        figure.write_image(options.out / "trade_off.png", scale=2)
        figure.write_image(options.out / "trade_off.svg")
    except (ImportError, RuntimeError, ValueError) as error:  # kaleido, or the browser that it drives, is missing
        sys.exit(f"no picture drawn: {first_line(error)}; the tables are in {options.out}, run this again once mended.")


def _stated(options: argparse.Namespace, texts: Texts) -> dict[str, Any]:
    """What all runs of a study share."""
    base = "the demo's base" if options.base == BASE else str(options.base)
    sizes = {"steps": options.steps, "batch": BATCH, "context": CONTEXT, "checkpoints": CHECKPOINTS}
    return {"base": base, "texts": texts.sha256, "arms": [repr(arm) for arm in options.arms], **sizes}


def _refuse_another(options: argparse.Namespace, texts: Texts) -> None:
    """A study of other settings is not gone on with."""
    file, now = options.study / "study.json", _stated(options, texts)
    if not file.is_file():
        write_whole(file, json.dumps(now, indent=1) + "\n")
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    different = [name for name in now if there.get(name) != now[name]]
    if different:
        sys.exit(f"{options.study}: holds a study with other {', '.join(different)}; give another folder with --study.")


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", default=BASE, help="folder or hub id of a causal model; default the demo's base")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="each repeats every run")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimizer steps of a run")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--study", type=Path, default=Path("trade-off-study"), help="where runs are and are gone on with"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps of two arms, to see that it runs")
    parser.add_argument("--no-picture", action="store_true", help="tables only: pictures need kaleido and a browser")
    parser.add_argument("--only-make", action="store_true", help="train and measure these seeds, and write no results")
    parser.add_argument("--out", type=Path, help="folder for the results")
    options = parser.parse_args()
    if options.quick:
        options.study, options.steps, options.seeds = options.study / "quick", 4, [0]
    options.out = options.out or (options.study / "results" if options.quick else _RESULTS)
    options.arms = (quick_arms if options.quick else arms)(options.steps)
    return options


def main() -> None:
    """Train, measure, keep."""
    options = _parsed()
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT asks by the older name
    little = {"pieces": 6, "documents": 40} if options.quick else {}
    texts = write_texts(options.study / "data", **little)
    _refuse_another(options, texts)
    make(options, texts)
    if not options.only_make:
        keep(options, texts)


if __name__ == "__main__":
    main()
