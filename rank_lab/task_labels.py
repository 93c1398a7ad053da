"""From the labels of a file to the numbers that a model is trained on, by a stated order."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rank_lab.errors import DataError
from rank_lab.glue import OWN_LABEL, Task
from rank_lab.plain_text import plain
from rank_lab.task_rows import Rows

__all__ = ["Labels", "labels_of"]


@dataclass(frozen=True)
class Labels:
    """Labels of both sets as numbers.

    Parameters
    ----------
    train, validation
        A number a row; empty where texts are their own labels.
    classes
        How many; None but for classification.
    names
        Of the classes, in the order of their numbers; empty where they have none.
    order
        Where that order comes from, in words.
    """

    train: tuple[float | int, ...]
    validation: tuple[float | int, ...]
    classes: int | None = None
    names: tuple[str, ...] = ()
    order: str = ""


def labels_of(task: Task, train: Rows, validation: Rows) -> Labels:
    """Labels of both sets as numbers; strings become classes in the order of the task's names, else sorted.

    Parameters
    ----------
    task
        What kind of label is expected.
    train, validation
        As read.

    Raises
    ------
    DataError
        If a label is missing, no number or no class of the task, if numbers
        leave a class out, or the validation set has a class that no training
        example has; the message names file and line.

    Examples
    --------
    >>> task = Task("tone", "classification", ("message",), "tone", "accuracy")
    >>> rows = Rows("rows", (("a",), ("b",)), ("warm", "cold"), (1, 2), ())
    >>> labels = labels_of(task, rows, rows)
    >>> labels.train, labels.names, labels.order
    ((1, 0), ('cold', 'warm'), 'sorted')
    """
    if task.kind in OWN_LABEL:
        return Labels((), ())
    if task.kind == "regression":
        return Labels(_values(task, train), _values(task, validation))
    kinds = {type(label) for label in train.labels}
    if kinds == {str}:
        return _named_classes(task, train, validation)
    classes = task.classes or _counted_classes(task, train)
    numbers = [_class_numbers(task, rows, classes) for rows in (train, validation)]
    _refuse_unseen(numbers[0], numbers[1], validation)
    return Labels(numbers[0], numbers[1], classes, task.label_names, "numbers as given")


def _wrong(task: Task, rows: Rows, row: int, expected: str) -> DataError:
    value = plain(repr(rows.labels[row]), limit=80)
    return DataError(
        f"{rows.where(row)}: column {task.label_column!r} holds {value}, expected {expected}; correct or remove the row"
        f" (is it of the task {task.name!r}?)."
    )


def _values(task: Task, rows: Rows) -> tuple[float, ...]:
    low, high = task.label_range or (-math.inf, math.inf)
    expected = f"a number from {low:g} to {high:g}" if task.label_range else "a finite number"
    for row, label in enumerate(rows.labels):
        number = isinstance(label, int | float) and not isinstance(label, bool) and math.isfinite(label)
        if not number or not low <= label <= high:
            raise _wrong(task, rows, row, expected)
    return tuple(float(label) for label in rows.labels)


def _counted_classes(task: Task, train: Rows) -> int:
    for row, label in enumerate(train.labels):
        if not _is_class(label):
            raise _wrong(task, train, row, "the number of a class from 0, or its name in every row")
    found = sorted(set(train.labels))
    if found != list(range(len(found))) or len(found) < 2:
        raise DataError(
            plain(
                f"{train.source}: column {task.label_column!r} holds the classes {found}; expected two or more,"
                " numbered from 0 without a gap: number them so, write names instead, or give the number of classes.",
                limit=600,
            )
        )
    return len(found)


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and label >= 0


def _class_numbers(task: Task, rows: Rows, classes: int) -> tuple[int, ...]:
    for row, label in enumerate(rows.labels):
        if not _is_class(label) or label >= classes:
            raise _wrong(task, rows, row, f"the number of a class from 0 to {classes - 1}")
    return tuple(rows.labels)


def _named_classes(task: Task, train: Rows, validation: Rows) -> Labels:
    names = task.label_names or tuple(sorted(set(train.labels)))
    if len(names) < 2 or len(names) != (task.classes or len(names)):
        raise DataError(
            plain(
                f"{train.source}: column {task.label_column!r} holds {len(names)} different names"
                f" ({', '.join(names[:5])}); expected {task.classes or 'two or more'} classes.",
                limit=600,
            )
        )
    numbers = {name: number for number, name in enumerate(names)}
    both = []
    for rows in (train, validation):
        for row, label in enumerate(rows.labels):
            if not isinstance(label, str) or label not in numbers:
                raise _wrong(task, rows, row, f"a class that the training set has: {', '.join(names[:8])}")
        both.append(tuple(numbers[label] for label in rows.labels))
    _refuse_unseen(both[0], both[1], validation)
    return Labels(both[0], both[1], len(names), names, "the task's" if task.label_names else "sorted")


def _refuse_unseen(train: Sequence[int], validation: Sequence[int], rows: Rows) -> None:
    unseen = set(validation) - set(train)
    if unseen:
        row = next(row for row, label in enumerate(validation) if label in unseen)
        raise DataError(
            f"{rows.where(row)}: class {plain(repr(rows.labels[row]), limit=80)} has no training example; add some, or"
            " take the class out."
        )
