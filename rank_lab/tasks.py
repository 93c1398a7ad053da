"""A task's two sets as a model takes them, with a record of where they come from and what was cut or left out."""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rank_lab.encoding import (
    IGNORED,
    Encoded,
    encode_completions,
    encode_masked,
    encode_packed,
    encode_texts,
    longest_allowed,
    padded_tokenizer,
    special_ids,
)
from rank_lab.errors import DataError
from rank_lab.glue import GLUE, Task, task_named
from rank_lab.masking import MASKED_SHARE, MaskingCollator
from rank_lab.task_labels import Labels, labels_of
from rank_lab.task_rows import HUB, Data, HubData, Rows, hub_commit, read_rows

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["GLUE", "HubData", "Subset", "Task", "TaskData", "encoded", "task_named"]


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
        ``datasets.Dataset`` of what the model takes, with ``labels``. Masked: the training set has none, which the
        collator gives it anew each epoch; the validation set's are fixed.
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
    packed: bool = False,
) -> TaskData:
    """Read, check and tokenise a task.

    Parameters
    ----------
    task
        A task, or the name of one of GLUE's.
    data
        A folder of ``train.jsonl`` and ``validation.jsonl`` (or ``.jsonl.gz``), the
        rows of both by these names, a data set on the hub, or None for GLUE there.
    tokenizer
        One of transformers'; left as it is.
    max_length
        Tokens of the longest example; longer ones are cut and counted. None for
        the tokenizer's limit.
    subset
        How much of each set; None for all.
    revision
        Branch, tag or commit of a data set on the hub; the commit is recorded.
    packed
        Causal texts: joined, with the end of text after each, and cut into blocks of `max_length` tokens.

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
    >>> from rank_lab.demo import BASE
    >>> rows = [{"said": "what a day", "tone": "warm"}, {"said": "no", "tone": "cold"}]
    >>> task = Task("tone", "classification", ("said",), "tone", "accuracy")
    >>> found = encoded(task, {"train": rows, "validation": rows}, AutoTokenizer.from_pretrained(BASE))
    >>> found.train["labels"][:], found.source["label_names"], found.source["warnings"]
    ([1, 0], ['cold', 'warm'], ['2 of 2 validation examples have the texts of a training example'])
    """
    chosen, part = task_named(task) if isinstance(task, str) else task, subset or Subset()
    on_hub = isinstance(data, HubData) or (data is None and GLUE.get(chosen.name) == chosen)
    commit = hub_commit(data if isinstance(data, HubData) else chosen, revision) if on_hub else None
    if data is not None and not on_hub and revision is not None:
        raise DataError(f"revision {revision!r}: is of the hub, and the data are given; leave one of them out.")
    train, validation = (read_rows(chosen, data, name, commit=commit) for name in ("train", "validation"))
    labels = labels_of(chosen, train, validation)
    own, padding = padded_tokenizer(tokenizer)
    length = longest_allowed(own, max_length, least=_special_tokens(chosen, own))
    if packed:
        _refuse_unpackable(chosen, own, length)
    encode = encode_packed if packed else _ENCODE.get(chosen.kind, encode_texts)
    sets = [
        _set(rows, numbers, encode, own, length, _choice(rows, limit, part.seed, name))
        for rows, numbers, limit, name in (
            (train, labels.train, part.train, "train"),
            (validation, labels.validation, part.validation, "validation"),
        )
    ]
    collator = _collator(chosen, own, part.seed)
    if isinstance(collator, MaskingCollator):
        sets = [_numbered(sets[0]), _hidden(_numbered(sets[1]), collator)]
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
        **_ways(chosen, packed, part.seed),
        "warnings": _warnings(sets[0], sets[1], labels),
    }
    return TaskData(chosen, sets[0].dataset(), sets[1].dataset(), collator, labels.classes, source)


_Encode: TypeAlias = Callable[[Any, Sequence[tuple[str, ...]], Any], Encoded]
_ENCODE: Mapping[str, _Encode] = {"causal": encode_completions, "masked": encode_masked}


def _ways(task: Task, packed: bool, seed: int) -> dict[str, Any]:
    """What is recorded of how texts become examples, where that is not a text an example."""
    found: dict[str, Any] = {"packed": True} if packed else {}
    return found | ({"masked_share": MASKED_SHARE, "validation_mask_seed": seed} if task.kind == "masked" else {})


def _refuse_unpackable(task: Task, tokenizer: Any, length: int | None) -> None:
    if task.kind != "causal" or len(task.text_columns) != 1:
        raise DataError(f"task {task.name!r}: only causal texts of one column can be packed; leave out packing.")
    if length is None:
        raise DataError("packing needs a max_length, the tokens of each block; the tokenizer knows no limit.")
    if tokenizer.eos_token_id is None:
        raise DataError(f"{tokenizer.name_or_path}: has no end of text to put between texts that are packed.")


@dataclass(frozen=True)
class _Set:
    columns: dict[str, list[Any]]
    rows: tuple[int, ...]
    texts: tuple[tuple[str, ...], ...]
    labels: tuple[float | int, ...]
    record: dict[str, Any]

    def dataset(self) -> "Dataset":
        from datasets import Dataset

        return Dataset.from_dict(self.columns)


def _origin(task: Task, data: Data | None) -> str:
    if data is None:
        return f"{HUB} {task.name}"
    if isinstance(data, HubData):
        return data.name
    return str(data) if isinstance(data, str | Path) else "rows given"


def _choice(rows: Rows, limit: int | None, seed: int, name: str) -> tuple[int, ...]:
    total = len(rows.texts)
    if limit is None:
        return tuple(range(total))
    if not 1 <= limit <= total:
        raise DataError(f"{rows.source}: {limit} {name} examples asked for; it has {total}, give 1 to {total} or none.")
    import numpy as np

    return tuple(sorted(np.random.default_rng(seed).permutation(total)[:limit].tolist()))


def _numbered(each: _Set) -> _Set:
    return replace(each, columns=each.columns | {"row": list(each.rows)})


def _hidden(each: _Set, collator: MaskingCollator) -> _Set:
    """The set with the tokens hidden that always are."""
    names = list(each.columns)
    rows = [collator.hidden(dict(zip(names, row, strict=True))) for row in zip(*each.columns.values(), strict=True)]
    return replace(each, columns={name: [row[name] for row in rows] for name in rows[0]})


def _set(
    rows: Rows,
    labels: tuple[float | int, ...],
    encode: _Encode,
    tokenizer: Any,
    length: int | None,
    choice: tuple[int, ...],
) -> _Set:
    texts = [rows.texts[row] for row in choice]
    found = encode(tokenizer, texts, length)
    kept = tuple(choice[row] for row in found.kept)
    if kept and not found.columns["input_ids"]:
        raise DataError(
            f"{rows.source}: {len(kept)} texts of {found.tokens_left_over} tokens in all do not fill one block of"
            f" {length}; give a smaller max_length, or more text."
        )
    if not kept:
        raise DataError(
            f"{rows.source}: none of {len(texts)} examples has a token to predict within {length} tokens; give a larger"
            " max_length, or texts that are not empty."
        )
    numbers = tuple(labels[row] for row in kept) if labels else ()
    columns = found.columns | ({"labels": list(numbers)} if labels else {})
    return _Set(columns, kept, tuple(rows.texts[row] for row in kept), numbers, _record(rows, found, kept))


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


def _collator(task: Task, tokenizer: Any, seed: int) -> Any:
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    if task.kind == "masked":
        if tokenizer.mask_token is None:
            raise DataError(
                f"{tokenizer.name_or_path}: has no mask, which a masked task needs; is the model a masked one?"
            )
        return MaskingCollator(tokenizer, seed)
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
