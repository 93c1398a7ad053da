"""The trainings in which :mod:`analyses.tracking_cost` looks at what following ranks costs, built alike."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from analyses.storage_formats import encoder_folder

__all__ = ["Case", "Trained", "train"]

_DEMO = Path(__file__).parents[1] / "rank_lab" / "demo" / "base"
_ROWS = 256


@dataclass(frozen=True)
class Case:
    """One training.

    Parameters
    ----------
    model
        ``demo``, ``minilm``, or ``llama``: a random one.
    method
        ``full``, ``lora`` or ``sora``.
    batch, length
        Rows and tokens of a step.
    rank
        Of the adapter.
    device, dtype
        Of the weights.
    spectra_on
        Device on which spectra are computed; empty for the tracker's default.
    hidden, layers, vocabulary
        Of the random Llama.
    """

    model: str
    method: str
    batch: int
    length: int
    rank: int = 8
    device: str = "cpu"
    dtype: str = "float32"
    spectra_on: str = ""
    hidden: int = 2048
    layers: int = 4
    vocabulary: int = 32_000


@dataclass(frozen=True)
class Trained:
    """What one training took.

    Parameters
    ----------
    step_seconds
        Of each step, without what was tracked.
    elapsed
        Seconds of ``train()``.
    tracking
        What the tracker's report says of its points and time; None without a point.
    point_seconds
        Of each point.
    trained, weights
        Parameters that are trained, and all.
    expected
        Seconds that the tracker's rule expects: ``step``, ``point``, ``once``.
    """

    step_seconds: list[float]
    elapsed: float
    tracking: dict[str, Any] | None
    point_seconds: list[float]
    trained: int
    weights: int
    expected: dict[str, float]


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Seconds of each step, taken before any other callback hears of its end."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = self._now()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(self._now() - self._begun)

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()


def _base(case: Case) -> tuple[Any, Path | None]:
    """The model, and the files of its weights where there are any."""
    import transformers as hf

    dtype = getattr(torch, case.dtype)
    if case.model == "demo":
        return hf.AutoModelForCausalLM.from_pretrained(_DEMO, dtype=dtype), _DEMO
    if case.model == "minilm":
        files = encoder_folder()
        return hf.AutoModelForMaskedLM.from_pretrained(files, dtype=dtype), files
    torch.manual_seed(0)
    wide = case.hidden * 43 // 16 // 8 * 8
    config = hf.LlamaConfig(
        hidden_size=case.hidden, intermediate_size=wide, num_hidden_layers=case.layers, vocab_size=case.vocabulary,
        num_attention_heads=max(case.hidden // 128, 2), num_key_value_heads=max(case.hidden // 512, 1),
    )  # fmt: skip
    with torch.device(case.device):
        model = hf.LlamaForCausalLM(config).to(dtype)  # without files: the tracker keeps a copy on the CPU
    return model, None


def _adapted(case: Case, model: Any) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    from rank_lab.sora import SoraConfig

    if case.method == "full":
        return model
    task = TaskType.CAUSAL_LM if case.model != "minilm" else None
    shared = {"r": case.rank, "lora_alpha": 2 * case.rank, "target_modules": "all-linear", "task_type": task}
    config = SoraConfig(threshold=0.01, **shared) if case.method == "sora" else LoraConfig(**shared)
    return get_peft_model(model, config)


def _rows(case: Case, vocabulary: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, vocabulary, (_ROWS, case.length), generator=generator)
    return [{"input_ids": row, "labels": row} for row in drawn]


def train(case: Case, steps: int, *, tracked: bool, points: Sequence[int] | None = None) -> Trained:
    """Train so many steps, with or without a tracker.

    Parameters
    ----------
    case
        What is trained.
    steps
        Of the optimizer.
    tracked
        Whether ranks are followed.
    points
        At which steps; None for the tracker's default.
    """
    from transformers import Trainer, TrainingArguments

    from rank_lab.sora import SoraTrainer
    from rank_lab.training.rank_tracker import RankTracker, TrackerSettings

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, files = _base(case)
        vocabulary = int(model.config.vocab_size)
        model = _adapted(case, model)
        clock = _Clock(case.device)
        tracker = RankTracker(
            folder, "run", base=files, settings=TrackerSettings(points=points, device=case.spectra_on)
        )
        arguments = TrainingArguments(
            str(folder / "out"), max_steps=steps, per_device_train_batch_size=case.batch, learning_rate=1e-4,
            report_to=[], use_cpu=case.device == "cpu", disable_tqdm=True, save_strategy="no", logging_strategy="no",
            seed=0, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = (SoraTrainer if case.method == "sora" else Trainer)(
            model, arguments, train_dataset=_rows(case, vocabulary), callbacks=[clock, *([tracker] if tracked else [])]
        )
        begun = time.perf_counter()
        trainer.train()
        elapsed = time.perf_counter() - begun
        looked = (folder / "run.rank" / "report.json").is_file()
        tracking, seconds = _told(folder) if looked else (None, [])
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    expected = {} if tracker.cost is None else dict(vars(tracker.cost))
    return Trained(
        clock.seconds, elapsed, tracking, seconds, trained, sum(v.numel() for v in model.parameters()), expected
    )


def _told(study: Path) -> tuple[dict[str, Any], list[float]]:
    from rank_lab import RankReport
    from rank_lab.training.point_journal import PointJournal

    folder = study / "run.rank"
    tracking = dict(RankReport.load(folder).provenance["tracking"])
    return tracking, list(PointJournal(folder).point_seconds)
