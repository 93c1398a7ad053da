"""What the verb ``finetune`` was asked for, as typed; checked when it is carried out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_lab.base_model import load_tokenizer
from rank_lab.errors import DataError, RankLabError
from rank_lab.plain_text import first_line
from rank_lab.tasks import GLUE, HubData, Subset, Task, TaskData, encoded, task_named
from rank_lab.training.method import KINDS, MethodChoices
from rank_lab.training_options import refuse_below_one, refuse_device, refuse_negative, refuse_rate

__all__ = ["Adaptation", "DataChoices", "TrainingChoices", "steps_named"]

_SCORES = {
    "classification": "accuracy",
    "regression": "pearson",
    "causal": "token_accuracy",
    "masked": "masked_accuracy",
}
_SCHEDULERS = (
    "cosine",
    "linear",
    "constant_with_warmup",
    "constant",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
)


@dataclass(frozen=True)
class DataChoices:
    """What is learned, as typed.

    Parameters
    ----------
    model
        Folder or hub id of the base.
    task
        One of GLUE's names; empty, or a name of the user's own, where the columns or their defaults say what is read.
    data
        Folder of ``train.jsonl`` and ``validation.jsonl``.
    dataset, dataset_config, train_split, validation_split, revision
        Or a data set on the hub, its configuration, its splits (``train[:90%]`` for a part), and a branch, tag or
        commit. Neither for GLUE on the hub.
    text_columns
        A text, or a prompt and its completion, or a pair of texts; ``text`` where none is given.
    label_column
        Of a classification or regression.
    kind
        One of :data:`rank_lab.training.method.KINDS`; by default a classification where there is a label, else causal.
    max_length
        Tokens of the longest example or, with `packing`, of each block.
    packing
        Whether causal texts are joined and cut into blocks.
    train_limit, validation_limit, subset_seed
        Examples that are used, a fixed choice by a seed; None for all.
    """

    model: str
    task: str = ""
    data: Path | None = None
    dataset: str = ""
    dataset_config: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    revision: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str = ""
    kind: str | None = None
    max_length: int | None = None
    packing: bool = False
    train_limit: int | None = None
    validation_limit: int | None = None
    subset_seed: int = 42

    def encoded(self) -> TaskData:
        """Both sets, tokenised by the model's own tokenizer.

        Raises
        ------
        RankLabError
            If the task is not known, or its data cannot be read.
        """
        task, place = self.asked(), self._place()
        tokenizer = load_tokenizer(self.model, "training begins with a model that has none")
        subset = Subset(train=self.train_limit, validation=self.validation_limit, seed=self.subset_seed)
        return encoded(
            task, place, tokenizer, max_length=self.max_length, subset=subset, revision=self.revision,
            packed=self.packing,
        )  # fmt: skip

    def asked(self) -> Task:
        """The task that these choices describe.

        Raises
        ------
        DataError
            If they contradict each other.

        Examples
        --------
        >>> DataChoices("base", data=Path("code")).asked().kind
        'causal'
        >>> DataChoices("base", task="tone", text_columns=("said",), label_column="tone").asked().score
        'accuracy'
        """
        own = self.text_columns or self.label_column or self.kind
        if self.task in GLUE:
            if own:
                raise DataError(
                    f"--task {self.task} is GLUE's, whose columns are known; give a task of your own another name, or"
                    " leave out --text-column, --label-column and --kind."
                )
            return task_named(self.task)
        if not own and self.data is None and not self.dataset:
            if self.task:
                return task_named(self.task)  # refuses it, and offers the nearest names
            raise DataError("no task and no data: give --task for one of GLUE's, --data FOLDER or --dataset ORG/NAME.")
        kind = self.kind or ("classification" if self.label_column else "causal")
        if kind not in KINDS:
            raise DataError(f"--kind {kind}: expected one of {', '.join(KINDS)}.")
        return Task(self._name(), kind, self.text_columns or ("text",), self.label_column, _SCORES[kind])

    def _name(self) -> str:
        return self.task or (self.data.resolve().name if self.data else self.dataset.rpartition("/")[2]) or "text"

    def _place(self) -> Path | HubData | None:
        if self.data is not None and self.dataset:
            raise DataError(f"--data {self.data} and --dataset {self.dataset}: give one of them.")
        if not self.dataset:
            for name in ("dataset_config", "train_split", "validation_split"):
                if getattr(self, name) != DataChoices.__dataclass_fields__[name].default:
                    option = f"--{name.replace('_', '-')}"
                    raise DataError(f"{option} without --dataset: it is of a data set on the hub.")
            return self.data
        return HubData(self.dataset, self.dataset_config, self.train_split, self.validation_split)


@dataclass(frozen=True)
class Adaptation:
    """By which method, as typed; see :class:`rank_lab.training.method.MethodChoices`.

    Parameters
    ----------
    method
        A name of the registry.
    targets, embeddings, head, rank, alpha, dropout, bottleneck, place, prompt_tokens, threshold, gate_lr
        None for the default; a method refuses what it does not read.
    """

    method: str
    targets: str | None = None
    embeddings: bool = False
    head: bool = False
    rank: int | None = None
    alpha: float | None = None
    dropout: float | None = None
    bottleneck: int | None = None
    place: str | None = None
    prompt_tokens: int | None = None
    threshold: float | None = None
    gate_lr: float | None = None

    def choices(self) -> MethodChoices:
        """As a method takes them.

        Examples
        --------
        >>> Adaptation("lora", rank=4).choices().rank, Adaptation("lora").choices().rank
        (4, 16)
        """
        given = {name: value for name, value in vars(self).items() if name != "method" and value is not None}
        if not 0 <= given.get("dropout", 0.0) < 1:
            raise RankLabError(f"--dropout {self.dropout!r}: expected a share from 0 to below 1.")
        return MethodChoices(**given)


@dataclass(frozen=True)
class TrainingChoices:
    """How it is trained, as typed; see transformers' ``TrainingArguments``.

    Parameters
    ----------
    learning_rate
        None for the rate at which a search for the method's would begin.
    steps, epochs
        One of them; 1000 steps where neither is given.
    optimizer
        By transformers' name.
    scheduler, warmup, weight_decay, clip
        Warm-up as a share of the steps.
    batch_size, accumulation, evaluation_batch_size
        Examples at a time in each process, how often for one step of the optimizer, and for validation.
    checkpoints, save_at
        How many, spaced by the logarithm of the step from the first that changes something (with a warm-up the
        second), or the steps themselves, with commas between.
    seed
        Of everything random.
    bf16, gradient_checkpointing
        Mixed precision, and computing activations again to save memory.
    device
        ``cpu`` or ``cuda``.
    """

    learning_rate: float | None = None
    steps: int | None = None
    epochs: float | None = None
    optimizer: str = "adamw_torch"
    scheduler: str = "cosine"
    warmup: float = 0.06
    weight_decay: float = 0.0
    clip: float = 1.0
    batch_size: int = 16
    accumulation: int = 1
    evaluation_batch_size: int = 16
    checkpoints: int = 8
    save_at: str = ""
    seed: int = 0
    bf16: bool = False
    gradient_checkpointing: bool = False
    device: str = "cpu"

    def arguments(self, out: Path, learning_rate: float, examples: int) -> Any:
        """The template that :func:`rank_lab.training.finetune.finetune` takes.

        Parameters
        ----------
        out
            Folder of the run.
        learning_rate
            The method's own, used where none was given.
        examples
            Of the training set, for the steps of an epoch.

        Raises
        ------
        RankLabError
            If transformers refuses a value, or the device is not there.
        """
        refuse_device(self.device)
        self._refuse_numbers()
        try:
            return self._template(out, learning_rate, examples)
        except ValueError as error:  # transformers': an unknown optimizer, bf16 where it cannot be
            if isinstance(error, RankLabError):
                raise
            raise RankLabError(f"training options: {first_line(error)}") from error

    def wanted(self) -> int | tuple[int, ...]:
        """How many checkpoints, or after which steps.

        Examples
        --------
        >>> TrainingChoices(save_at="10,100").wanted(), TrainingChoices().wanted()
        ((10, 100), 8)
        """
        return steps_named("--save-at", self.save_at) or self.checkpoints

    def _refuse_numbers(self) -> None:
        counts = ("batch_size", "accumulation", "evaluation_batch_size", "checkpoints", "steps")
        refuse_below_one({name: getattr(self, name) for name in counts})
        refuse_rate("--lr", self.learning_rate)
        refuse_rate("--epochs", self.epochs)
        refuse_negative({"--weight-decay": self.weight_decay, "--clip": self.clip})
        if not 0 <= self.warmup < 1:
            raise RankLabError(f"--warmup {self.warmup:g}: expected a share of the steps, from 0 to below 1.")
        if self.scheduler not in _SCHEDULERS:
            raise RankLabError(f"--scheduler {self.scheduler}: expected one of {', '.join(_SCHEDULERS)}.")
        if self.steps is not None and self.epochs is not None:
            raise RankLabError(f"--steps {self.steps} and --epochs {self.epochs:g}: give one of them.")

    def _template(self, out: Path, learning_rate: float, examples: int) -> Any:
        from transformers import TrainingArguments

        template = TrainingArguments(
            str(out), learning_rate=learning_rate if self.learning_rate is None else self.learning_rate,
            max_steps=self.steps or 1000, optim=self.optimizer, lr_scheduler_type=self.scheduler,
            warmup_steps=self.warmup, weight_decay=self.weight_decay, max_grad_norm=self.clip,
            per_device_train_batch_size=self.batch_size, gradient_accumulation_steps=self.accumulation,
            per_device_eval_batch_size=self.evaluation_batch_size, seed=self.seed, bf16=self.bf16,
            activation_checkpointing=self.gradient_checkpointing, use_cpu=self.device == "cpu",
            dataloader_pin_memory=self.device != "cpu", report_to=[],
        )  # fmt: skip
        if self.epochs is not None:
            batch = self.batch_size * self.accumulation * template.world_size
            template.max_steps = max(1, round(self.epochs * (examples // batch)))
        return template


def steps_named(option: str, text: str) -> tuple[int, ...] | None:
    """Steps with commas between, as typed; None where nothing was.

    Raises
    ------
    RankLabError
        If they are no numbers, or one is below 1.

    Examples
    --------
    >>> steps_named("--save-at", "1,10,100"), steps_named("--save-at", "")
    ((1, 10, 100), None)
    """
    if not text:
        return None
    try:
        steps = tuple(int(part) for part in text.split(","))
    except ValueError:
        steps = ()
    if not steps or min(steps) < 1:
        raise RankLabError(f"{option} {text}: expected steps of 1 or more with commas between, e.g. 1,10,100.")
    return steps
