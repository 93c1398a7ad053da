"""A real evaluation by lm-eval, of a model that guesses, on two small local tasks, and the files that it leaves."""

import json
from pathlib import Path
from typing import Any

QUESTIONS = [{"text": f"What is {i} + {i}?", "choices": [str(2 * i), str(i), "none"][: 2 + i % 2]} for i in range(12)]

_CHOICE = {
    "task": "sums",
    "output_type": "multiple_choice",
    "doc_to_text": "{{text}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": 0,
    "num_fewshot": 0,
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
_TEXT = {
    "task": "text",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}],
}


def evaluated(folder: Path, *, seed: int = 1, limit: int | None = None) -> tuple[Path, dict[str, Any]]:
    """The results file of a run, with its samples beside it, and what lm-eval returned."""
    import random

    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.dummy import DummyLM
    from lm_eval.tasks import TaskManager

    class Guessing(DummyLM):
        tokenizer = None  # lm-eval's own would be asked of the hub, for 47 seconds where there is none

    tasks = folder / "tasks"
    tasks.mkdir(parents=True, exist_ok=True)
    (tasks / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    for task in (_CHOICE, _TEXT):
        content = {
            **task, "dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0},
            "dataset_kwargs": {"data_files": {"test": str(tasks / "data.jsonl")}},
        }  # fmt: skip
        (tasks / f"{task['task']}.yaml").write_text(json.dumps(content))
    random.seed(seed)
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    results = simple_evaluate(
        model=Guessing(), tasks=["sums", "text"], limit=limit, bootstrap_iters=10, random_seed=seed,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False), evaluation_tracker=tracker,
    )  # fmt: skip
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for name, rows in samples.items():
        tracker.save_results_samples(task_name=name, samples=rows)
    (file,) = (folder / "out").rglob("results_*.json")
    return file, results | {"samples": samples}
