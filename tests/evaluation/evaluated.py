"""Evaluations as the verb makes them."""

from pathlib import Path
from typing import Any

from peft import LoraConfig

from rank_lab.demo import BASE
from rank_lab.evaluation.evaluate_choices import Choices
from rank_lab.evaluation.evaluate_command import evaluate_and_print
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.score_table import ScoreTable

LORA = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")


def evaluate(sources: list[Path], study: Path, choices: Choices, base: str = str(BASE), **given: Any) -> bool:
    return evaluate_and_print([str(source) for source in sources], study, LoadOptions(base=base), choices, **given)


def table(study: Path) -> ScoreTable:
    return ScoreTable.load(study / "scores.parquet")
