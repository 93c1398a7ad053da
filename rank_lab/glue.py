"""What a task asks: its columns, its labels, its score; and the tasks of GLUE."""

from collections.abc import Mapping
from dataclasses import dataclass

from rank_lab.errors import DataError
from rank_lab.scores import KINDS, nearest, score_named

__all__ = ["GLUE", "OWN_LABEL", "Task", "task_named"]

OWN_LABEL = ("causal", "masked")
"""Kinds of tasks whose texts are their own labels."""


@dataclass(frozen=True)
class Task:
    """What is read, predicted and scored; of any data set with named columns.

    Parameters
    ----------
    name
        What tables call it.
    kind
        ``"classification"``, ``"regression"``, ``"causal"`` or ``"masked"``.
    text_columns
        One column or two. Causal: a text whose every token is learned, or a
        prompt and its completion, of which only the completion is. Masked: one.
    label_column
        Where the label is; empty where the text is its own label (causal, masked).
    score
        The task's score, one of :data:`rank_lab.scores.SCORES` and of the same kind.
    classes
        How many; None for other kinds, and where the training set says it.
    other_scores
        What else the task's authors report.
    label_names
        Names of the classes in the order of their numbers; labels may be either.
    label_range
        Smallest and largest value of a regression's label, where it is known.

    Raises
    ------
    DataError
        If these do not go together.

    Examples
    --------
    >>> Task("tone", "classification", ("message",), "tone", "accuracy").text_columns
    ('message',)
    """

    name: str
    kind: str
    text_columns: tuple[str, ...]
    label_column: str
    score: str
    classes: int | None = None
    other_scores: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    label_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be a task."""
        for wrong, message in _mistakes(self):
            if wrong:
                raise DataError(f"task {self.name!r}: {message}.")
        for score in (self.score, *self.other_scores):
            score_named(score, kind=self.kind)

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*self.text_columns, self.label_column) if self.label_column else self.text_columns


def _mistakes(task: Task) -> list[tuple[bool, str]]:
    own_label = task.kind in OWN_LABEL
    return [
        (task.kind not in KINDS, f"kind {task.kind!r}, expected one of {', '.join(KINDS)}"),
        (
            len(task.text_columns) not in (1, 2) or not all(task.text_columns),
            f"{len(task.text_columns)} text columns {task.text_columns}, expected one or two names",
        ),
        (len(set(task.columns)) < len(task.columns), f"columns {task.columns}, expected each once"),
        (
            own_label and bool(task.label_column),
            f"label column {task.label_column!r}; of kind {task.kind} the text is the label",
        ),
        (task.kind == "masked" and len(task.text_columns) != 1, f"text columns {task.text_columns}, expected one"),
        (not own_label and not task.label_column, f"no label column; a task of kind {task.kind} has one"),
        (
            task.classes is not None and (task.kind != "classification" or task.classes < 2),
            f"{task.classes} classes; expected at least 2, and only for classification",
        ),
        (
            bool(task.label_names) and len(set(task.label_names)) != task.classes,
            f"{len(set(task.label_names))} different label names for {task.classes} classes",
        ),
    ]


def _pairs(name: str, first: str, second: str, score: str, labels: tuple[str, ...], *others: str) -> Task:
    return Task(name, "classification", (first, second), "label", score, len(labels), others, labels)


_ENTAILMENT = ("entailment", "not_entailment")

GLUE: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cola", "classification", ("sentence",), "label", "matthews_correlation", 2,
            label_names=("unacceptable", "acceptable"),
        ),
        Task("sst2", "classification", ("sentence",), "label", "accuracy", 2, (), ("negative", "positive")),
        _pairs("mrpc", "sentence1", "sentence2", "f1", ("not_equivalent", "equivalent"), "accuracy"),
        _pairs("qqp", "question1", "question2", "f1", ("not_duplicate", "duplicate"), "accuracy"),
        Task(
            "stsb", "regression", ("sentence1", "sentence2"), "label", "pearson",
            other_scores=("spearman",), label_range=(0.0, 5.0),
        ),
        _pairs("mnli", "premise", "hypothesis", "accuracy", ("entailment", "neutral", "contradiction")),
        _pairs("qnli", "question", "sentence", "accuracy", _ENTAILMENT),
        _pairs("rte", "sentence1", "sentence2", "accuracy", _ENTAILMENT),
        _pairs("wnli", "sentence1", "sentence2", "accuracy", ("not_entailment", "entailment")),
    )
}  # fmt: skip
"""GLUE's tasks but its diagnostic set, with its columns, classes and scores [1]_; of MNLI the matched validation set.

.. [1] Wang et al. (2019), GLUE, https://arxiv.org/abs/1804.07461, table 1.
"""


def task_named(name: str) -> Task:
    """The task of GLUE of that name.

    Raises
    ------
    DataError
        If there is none; the nearest names are given.

    Examples
    --------
    >>> task_named("cola").score
    'matthews_correlation'
    """
    if name not in GLUE:
        raise DataError(
            f"task {name!r} is not one of GLUE's. Nearest: {nearest(name, GLUE)}. Of your own data set give columns,"
            " kind and score."
        )
    return GLUE[name]
