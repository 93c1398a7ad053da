"""A task's two sets as a model takes them, with a record of where they come from and what was cut or left out."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rank_lab.encoding import (
    IGNORED,
    Encoded,
    encode_completions,
    encode_texts,
    longest_allowed,
    padded_tokenizer,
    special_ids,
)
from rank_lab.errors import DataError
from rank_lab.glue import GLUE, Task, task_named
from rank_lab.task_labels import Labels, labels_of
from rank_lab.task_rows import HUB, Data, Rows, hub_commit, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["GLUE", "Subset", "Task", "TaskData", "encoded", "task_named"]


@dataclass(frozen=True)
class Subset:
    """How much of each set is used: a fixed, seeded choice in the file's order.

    Parameters
    ----------
    train, validation
        Examples; None for all.
    seed
        Of the choice.
    """

    train: int | None = None
    validation: int | None = None
    seed: int = 42


@dataclass(frozen=True)
class TaskData:
    """Both sets of a task, tokenised.

    Parameters
    ----------
    task
        Which.
    train, validation
        ``datasets.Dataset`` of what the model takes, with ``labels``.
    collator
        Makes padded batches.
    classes
        How many; None but for classification.
    source
        Where the rows come from, their hashes and counts, what was cut or left
        out, and warnings: plain values, for the record.
    """

    task: Task
    train: "Dataset"
    validation: "Dataset"
    collator: Any
    classes: int | None
    source: dict[str, Any]


def encoded(
    task: Task | str,
    data: Data | None,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    subset: Subset | None = None,
    revision: str | None = None,
) -> TaskData:
    """Read, check and tokenise a task.

    Parameters
    ----------
    task
        A task, or the name of one of GLUE's.
    data
        A folder of ``train.jsonl`` and ``validation.jsonl`` (or ``.jsonl.gz``), the
        rows of both by these names, or None for GLUE on the hub.
    tokenizer
        One of transformers'; left as it is.
    max_length
        Tokens of the longest example; longer ones are cut and counted. None for
        the tokenizer's limit.
    subset
        How much of each set; None for all.
    revision
        Branch, tag or commit of GLUE on the hub; the commit is recorded.

    Returns
    -------
    TaskData
        With dynamic padding by its collator.

    Raises
    ------
    DataError
        If anything is missing, no text, no label of the task, or left out
        altogether; the message names file, line and column.

    Examples
    --------
    >>> from transformers import AutoTokenizer
    >>> from rank_lab.demo.adapt import BASE
    >>> rows = [{"said": "what a day", "tone": "warm"}, {"said": "no", "tone": "cold"}]
    >>> task = Task("tone", "classification", ("said",), "tone", "accuracy")
    >>> found = encoded(task, {"train": rows, "validation": rows}, AutoTokenizer.from_pretrained(BASE))
    >>> found.train["labels"][:], found.source["label_names"], found.source["warnings"]
    ([1, 0], ['cold', 'warm'], ['2 of 2 validation examples have the texts of a training example'])
    """
    chosen, part = task_named(task) if isinstance(task, str) else task, subset or Subset()
    commit = hub_commit(chosen, revision) if data is None and GLUE.get(chosen.name) == chosen else None
    if data is not None and revision is not None:
        raise DataError(f"revision {revision!r}: is of the hub, and the data are given; leave one of them out.")
    train, validation = (read_rows(chosen, data, name, commit=commit) for name in ("train", "validation"))
    labels = labels_of(chosen, train, validation)
    own, padding = padded_tokenizer(tokenizer)
    length = longest_allowed(own, max_length, least=_special_tokens(chosen, own))
    sets = [
        _set(chosen, rows, numbers, own, length, _choice(rows, limit, part.seed, name))
        for rows, numbers, limit, name in (
            (train, labels.train, part.train, "train"),
            (validation, labels.validation, part.validation, "validation"),
        )
    ]
    source = {
        "task": chosen.name,
        "from": _origin(chosen, data),
        "revision": commit,
        "columns": list(chosen.columns),
        "label_names": list(labels.names),
        "label_order": labels.order,
        "max_length": length,
        "tokenizer": _tokenizer_record(chosen, own, padding),
        "subset_seed": part.seed,
        "train": sets[0].record,
        "validation": sets[1].record,
        "warnings": _warnings(sets[0], sets[1], labels),
    }
    return TaskData(chosen, sets[0].dataset(), sets[1].dataset(), _collator(chosen, own), labels.classes, source)


@dataclass(frozen=True)
class _Set:
    columns: dict[str, list[Any]]
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[float | int, ...]
    record: dict[str, Any]

    def dataset(self) -> "Dataset":
        from datasets import Dataset

        return Dataset.from_dict(self.columns)


def _origin(task: Task, data: Data | None) -> str:
    if data is None:
        return f"{HUB} {task.name}"
    return str(data) if isinstance(data, str | Path) else "rows given"


def _choice(rows: Rows, limit: int | None, seed: int, name: str) -> tuple[int, ...]:
    total = len(rows.texts)
    if limit is None:
        return tuple(range(total))
    if not 1 <= limit <= total:
        raise DataError(f"{rows.source}: {limit} {name} examples asked for; it has {total}, give 1 to {total} or none.")
    import numpy as np

    return tuple(sorted(np.random.default_rng(seed).permutation(total)[:limit].tolist()))


def _set(
    task: Task, rows: Rows, labels: tuple[float | int, ...], tokenizer: Any, length: int | None, choice: tuple[int, ...]
) -> _Set:
    texts = [rows.texts[row] for row in choice]
    found = (encode_completions if task.kind == "causal" else encode_texts)(tokenizer, texts, length)
    kept = tuple(choice[row] for row in found.kept)
    if not kept:
        raise DataError(
            f"{rows.source}: none of {len(texts)} examples has a token to predict within {length} tokens; give a larger"
            " max_length, or texts that are not empty."
        )
    numbers = tuple(labels[row] for row in kept) if labels else ()
    columns = found.columns | ({"labels": list(numbers)} if labels else {})
    return _Set(columns, tuple(rows.texts[row] for row in kept), numbers, _record(rows, found, kept))


def _record(rows: Rows, found: Encoded, kept: tuple[int, ...]) -> dict[str, Any]:
    return {
        "source": rows.source,
        "rows": len(rows.texts),
        "sha256": rows.sha256(),
        "columns_unused": list(rows.unused),
        "indices": list(kept) if len(kept) < len(rows.texts) else None,
        **found.record(),
    }


def _special_tokens(task: Task, tokenizer: Any) -> int:
    if task.kind == "causal":
        return sum(map(len, special_ids(tokenizer)))
    return int(tokenizer.num_special_tokens_to_add(pair=len(task.text_columns) == 2))


def _tokenizer_record(task: Task, tokenizer: Any, padding: str) -> dict[str, Any]:
    record = {
        "name": str(tokenizer.name_or_path),
        "vocabulary_sha256": _vocabulary(tokenizer),
        "pad_token": tokenizer.pad_token,
        "pad_token_id": tokenizer.pad_token_id,
        "padding_is": padding,
    }
    if task.kind == "causal":
        begin, end = special_ids(tokenizer)
        record |= {"begins_with": begin, "ends_with": end}
    return record


def _vocabulary(tokenizer: Any) -> str:
    entries = sorted(tokenizer.get_vocab().items())
    return hashlib.sha256(repr(entries).encode()).hexdigest()


def _collator(task: Task, tokenizer: Any) -> Any:
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    if task.kind == "causal":  # the library's collator that pads labels, too; nothing in it is of two sequences
        return DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    return DataCollatorWithPadding(tokenizer)


def _warnings(train: _Set, validation: _Set, labels: Labels) -> list[str]:
    found = []
    seen = set(train.texts)
    shared = sum(texts in seen for texts in validation.texts)
    if shared:
        found.append(f"{shared} of {len(validation.texts)} validation examples have the texts of a training example")
    for name, each in (("training", train), ("validation", validation)):
        repeats = len(each.texts) - len(set(each.texts))
        if repeats:
            found.append(f"{repeats} {name} examples repeat the texts of another{_contradictions(each)}")
        if each.record["truncated"]:
            found.append(
                f"{each.record['truncated']} of {len(each.texts)} {name} examples are cut to the longest length"
            )
        missing = set(range(labels.classes or 0)) - set(each.labels)
        if missing:
            found.append(f"no {name} example is of class {', '.join(map(str, sorted(missing)))}")
        if each.record["dropped"]:
            found.append(f"{each.record['dropped']} {name} examples have no token to predict and were left out")
    return found


def _contradictions(each: _Set) -> str:
    different = Counter(texts for texts, _ in {*zip(each.texts, each.labels, strict=False)})
    count = sum(times > 1 for times in different.values())
    return f", {count} of these texts with different labels" if count else ""
