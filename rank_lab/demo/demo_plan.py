"""What the demonstration makes: six runs, a sweep of thresholds, and the settings that a folder was begun with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rank_lab.durable import write_whole
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.plain_file import json_object
from rank_lab.training.method import MethodChoices

__all__ = ["SETTINGS_FILE", "DemoPlan", "DemoRun", "Sweep", "begin_folder"]

SETTINGS_FILE = "demo.json"
"""Marks a folder as a demo's, and says what it was begun with."""

_VERSION = 2  # before, a demo had two runs and could not be gone on with
_GATE_RATE = 0.1


@dataclass(frozen=True)
class DemoRun:
    """One fine-tuning.

    Parameters
    ----------
    name
        Of its folder and report.
    title
        Of its method, as a sentence has it.
    method, choices
        Of the registry.
    learning_rate
        Constant after the warm-up.
    """

    name: str
    title: str
    method: str
    choices: MethodChoices
    learning_rate: float


@dataclass(frozen=True)
class Sweep:
    """Algorithm 1 in short.

    Parameters
    ----------
    thresholds
        A stage each.
    dense_steps, stage_steps
        Of stage 0 and of each other one.
    check_steps
        From check to check.
    blocks, subset
        Blocks of code that are trained on, and how many of them memorization is of.
    rank, gate_rate, learning_rate
        Of the adapter.
    """

    thresholds: tuple[float, ...]
    dense_steps: int
    stage_steps: int
    check_steps: int
    blocks: int
    subset: int
    rank: int = 8
    gate_rate: float = 0.01
    learning_rate: float = 2e-3


@dataclass(frozen=True)
class DemoPlan:
    """Sizes of a demo; the defaults are those of the command line.

    Parameters
    ----------
    steps
        Optimizer steps of each fine-tuning; the sweep's are in proportion.
    checkpoints
        Of each, spaced by the logarithm of the step.
    pieces
        Held-out texts of code and of prose that scores are of.
    documents
        Files of code to learn; None for all.
    blocks
        Of code that the sweep learns, few enough to be memorised; memorization is of half of them.

    Raises
    ------
    RankLabError
        If a number is below 1.
    """

    steps: int = 100
    checkpoints: int = 5
    pieces: int = 24
    documents: int | None = None
    blocks: int = 128

    def __post_init__(self) -> None:
        """Refuse what would train or measure nothing."""
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise RankLabError(f"{name} {value}: expected 1 or more.")

    @property
    def runs(self) -> tuple[DemoRun, ...]:
        """Three methods, each at two learning rates, the lower first.

        Examples
        --------
        >>> [run.name for run in DemoPlan().runs]
        ['full-1e-4', 'full-4e-4', 'lora-5e-4', 'lora-2e-3', 'sora-5e-4', 'sora-2e-3']
        """
        # Gates start at one and shrink by rate x threshold a step: 1.2 in all, so that many close and some do not.
        threshold = round(1.2 / (_GATE_RATE * self.steps), 6)
        sora = MethodChoices(rank=16, gate_lr=_GATE_RATE, threshold=threshold)
        methods = (
            ("full", "full fine-tuning", MethodChoices(), ("1e-4", "4e-4")),
            ("lora", "LoRA (r = 8)", MethodChoices(rank=8), ("5e-4", "2e-3")),
            ("sora", "SoRA (r at most 16)", sora, ("5e-4", "2e-3")),
        )
        return tuple(
            DemoRun(f"{method}-{rate}", title, method, choices, float(rate))
            for method, title, choices, rates in methods
            for rate in rates
        )

    @property
    def compared(self) -> tuple[DemoRun, DemoRun]:
        """Whose subspaces are compared: full fine-tuning and LoRA, both at their lower rate."""
        return self.runs[0], self.runs[2]

    @property
    def sweep(self) -> Sweep:
        """Thresholds that close gates as far in a short sweep as in a long one.

        Examples
        --------
        >>> DemoPlan().sweep.thresholds, DemoPlan().sweep.stage_steps
        ((0.0, 1.0, 2.0, 2.5, 3.0, 3.5), 30)
        """
        check = max(1, round(self.steps / 10))
        stage = 3 * check
        thresholds = tuple(each * 30 / stage for each in (0.0, 1.0, 2.0, 2.5, 3.0, 3.5))
        return Sweep(thresholds, 4 * stage, stage, check, self.blocks, max(1, self.blocks // 2))


def begin_folder(study: Path, plan: DemoPlan, texts_sha256: str) -> None:
    """Mark a new folder as this demo's, or see that it is one to go on with.

    Parameters
    ----------
    study
        Of the demo.
    plan
        What is to be made.
    texts_sha256
        Of the text, which depends on the version of Python.

    Raises
    ------
    RankLabError
        If the folder holds something else, or a demo with other settings.
    """
    now = {"version": _VERSION, "plan": asdict(plan), "texts_sha256": texts_sha256}
    if study.is_file():
        raise RankLabError(f"{study}: is a file; -o names the folder of the demo.")
    file = study / SETTINGS_FILE
    if not file.is_file():
        if study.exists() and any(study.iterdir()):
            raise RankLabError(f"{study}: holds something else than an earlier demo; give an empty folder with -o.")
        study.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(now, indent=1) + "\n")
        return
    there = json_object(file) or {}
    if there.get("version") != _VERSION:
        raise SchemaError(f"{study}: holds a demo of another version of rank_lab; give another folder with -o.")
    _refuse_others(study, there, now)


def _refuse_others(study: Path, there: dict[str, Any], now: dict[str, Any]) -> None:
    before, plan = there.get("plan"), now["plan"]
    if not isinstance(before, dict) or before != plan:
        others = before if isinstance(before, dict) else {}
        name = next(name for name in plan if others.get(name) != plan[name])
        raise RankLabError(
            f"{study}: holds a demo of {name} {others.get(name)}, not {plan[name]}; go on with it by --steps"
            f" {others.get('steps')}, or give another folder with -o."
        )
    if there.get("texts_sha256") != now["texts_sha256"]:
        raise RankLabError(
            f"{study}: was begun with the text of another Python; go on with that one, or give another folder with -o."
        )
