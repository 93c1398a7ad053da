"""Texts to token ids, and a count of everything that was cut or left out on the way."""

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rank_lab.errors import DataError

__all__ = [
    "IGNORED",
    "Encoded",
    "encode_completions",
    "encode_masked",
    "encode_packed",
    "encode_texts",
    "longest_allowed",
    "padded_tokenizer",
    "special_ids",
]

IGNORED = -100
"""Label of a token that is not scored: transformers' and torch's own."""

_BATCH = 1000
_NO_LIMIT = 1_000_000  # a tokenizer that knows no limit says 1e30


@dataclass(frozen=True)
class Encoded:
    """Rows that a model takes, and what became of the others.

    Parameters
    ----------
    columns
        By name, a list a row.
    kept
        Which rows these are, in order.
    truncated
        How many were longer than allowed, and were cut.
    empty
        How many have an empty text; causal and masked: left out.
    too_long
        Causal: how many were left out because nothing of the completion fitted.
    lengths
        Tokens of each row before cutting.
    tokens_left_over
        Packed: tokens at the end that fill no block; None where each row is a text.
    """

    columns: dict[str, list[Any]]
    kept: tuple[int, ...]
    truncated: int
    empty: int
    too_long: int
    lengths: tuple[int, ...]
    tokens_left_over: int | None = None

    def record(self) -> dict[str, Any]:
        """Counts for the record, plain values."""
        blocks = {"blocks": len(self.columns["input_ids"]), "tokens_left_over": self.tokens_left_over}
        return {
            "examples": len(self.kept),
            "truncated": self.truncated,
            "empty_text": self.empty,
            "dropped": len(self.lengths) - len(self.kept),
            "dropped_too_long": self.too_long,
            "tokens_median": float(statistics.median(self.lengths)),
            "tokens_longest": max(self.lengths),
            **({} if self.tokens_left_over is None else blocks),
        }


def padded_tokenizer(tokenizer: Any) -> tuple[Any, str]:
    """A copy of a tokenizer that can pad, and where its padding comes from.

    Without a padding token of its own it pads with the end of text: the
    attention mask and the labels leave padding out. A model that classifies by
    the last token needs the same ``config.pad_token_id``.

    Raises
    ------
    DataError
        If it has neither.
    """
    own = copy.deepcopy(tokenizer)
    if own.pad_token is not None:
        return own, "the tokenizer's"
    if own.eos_token is None:
        raise DataError(
            f"{_name(tokenizer)}: has neither a padding token nor an end of text; set tokenizer.pad_token to a token"
            " that texts do not use."
        )
    own.pad_token = own.eos_token
    return own, "the end of text, as the tokenizer has none"


def longest_allowed(tokenizer: Any, max_length: int | None, *, least: int) -> int | None:
    """How many tokens an example may have: as given, else the tokenizer's limit, else None.

    Parameters
    ----------
    tokenizer
        One of transformers'.
    max_length
        As the user gave it.
    least
        What would leave room for no token of a text.

    Raises
    ------
    DataError
        If it leaves no room, or is more than the tokenizer's limit.
    """
    limit = tokenizer.model_max_length if tokenizer.model_max_length < _NO_LIMIT else None
    if max_length is None:
        return limit
    if max_length <= least:
        raise DataError(f"max_length {max_length}: leaves no room for text beside {least} other tokens; give more.")
    if limit is not None and max_length > limit:
        raise DataError(f"max_length {max_length}: more than the {limit} tokens that {_name(tokenizer)} allows.")
    return max_length


def encode_texts(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int | None) -> Encoded:
    """Texts or pairs of them for a classifier, with the tokenizer's own special tokens; the longer of a pair is cut.

    Parameters
    ----------
    tokenizer
        One of transformers'.
    texts
        One or two a row.
    max_length
        Tokens allowed, special ones included; None for any number.
    """
    columns: dict[str, list[Any]] = {}
    for first in range(0, len(texts), _BATCH):
        batch = tokenizer(*map(list, zip(*texts[first : first + _BATCH], strict=True)), verbose=False)
        for name, rows in batch.items():
            columns.setdefault(name, []).extend(rows)
    lengths = tuple(map(len, columns["input_ids"]))
    cut = [row for row, length in enumerate(lengths) if max_length is not None and length > max_length]
    for row in cut:
        shorter = tokenizer(*texts[row], truncation=True, max_length=max_length)
        for name, rows in columns.items():
            rows[row] = shorter[name]
    empty = sum(any(not text.strip() for text in row) for row in texts)
    return Encoded(columns, tuple(range(len(texts))), len(cut), empty, 0, lengths)


def encode_completions(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int | None) -> Encoded:
    """Texts, or prompts and completions, for a causal model: ids, mask, and labels of what is learned.

    Prompt and completion are tokenised apart and joined as they are (a space or
    line break between them belongs into one of them), after the token that
    the tokenizer begins texts with (if it does) and before its end of text (if
    it has one). Of a prompt and a completion only the completion and the end are
    learned. What is too long is cut at its end. A row with an empty text or
    completion, and one that cutting leaves no token to predict, is left out and counted.

    Parameters
    ----------
    tokenizer
        One of transformers'.
    texts
        One or two a row.
    max_length
        Tokens allowed, special ones included; None for any number.
    """
    begin, end = special_ids(tokenizer)
    parts = [_ids(tokenizer, [row[i] for row in texts]) for i in range(len(texts[0]))]
    columns: dict[str, list[Any]] = {"input_ids": [], "attention_mask": [], "labels": []}
    kept, lengths, counts = [], [], {"truncated": 0, "empty": 0, "too_long": 0}
    for row, ids in enumerate(zip(*parts, strict=True)):
        prompt = begin + [token for part in ids[:-1] for token in part]
        whole = [*prompt, *ids[-1], *end]
        lengths.append(len(whole))
        # The first token of all is predicted from nothing, so that it is no target.
        learned = [IGNORED] * len(prompt) + whole[len(prompt) :] if len(ids) > 1 else list(whole)
        shown, targets = whole[:max_length], learned[:max_length]
        is_empty = not texts[row][-1].strip()
        has_target = any(target != IGNORED for target in targets[1:])
        counts["empty"] += is_empty
        counts["too_long"] += not is_empty and not has_target and len(shown) < len(whole)
        if is_empty or not has_target:
            continue
        counts["truncated"] += len(shown) < len(whole)
        kept.append(row)
        columns["input_ids"].append(shown)
        columns["attention_mask"].append([1] * len(shown))
        columns["labels"].append(targets)
    return Encoded(columns, tuple(kept), **counts, lengths=tuple(lengths))


def encode_packed(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int) -> Encoded:
    """Texts for a causal model, joined with the end of text after each and cut into blocks of one length.

    A block may hold several texts, and a text may go on in the next block; every token is learned. What the last block
    would lack is not filled up: these tokens are left out and counted. A row with an empty text is, too.

    Parameters
    ----------
    tokenizer
        One of transformers', with an end of text.
    texts
        One a row.
    max_length
        Tokens of each block.
    """
    begin, end = special_ids(tokenizer)
    ids = _ids(tokenizer, [row[0] for row in texts])
    kept = tuple(row for row, (text,) in enumerate(texts) if text.strip())
    joined = [token for row in kept for token in (*begin, *ids[row], *end)]
    used = len(joined) // max_length * max_length
    blocks = [joined[start : start + max_length] for start in range(0, used, max_length)]
    columns = {
        "input_ids": blocks,
        "attention_mask": [[1] * max_length for _ in blocks],
        "labels": [list(block) for block in blocks],
    }
    lengths = tuple(len(begin) + len(each) + len(end) for each in ids)
    return Encoded(columns, kept, 0, len(texts) - len(kept), 0, lengths, len(joined) - used)


def encode_masked(tokenizer: Any, texts: Sequence[tuple[str, ...]], max_length: int | None) -> Encoded:
    """Texts for a masked model, with which of their tokens are special and never hidden.

    What is too long is cut at its end. A row with no other than special tokens is left out and counted.

    Parameters
    ----------
    tokenizer
        One of transformers'.
    texts
        One a row.
    max_length
        Tokens allowed, special ones included; None for any number.
    """
    whole = encode_texts(tokenizer, texts, max_length)
    special = set(tokenizer.all_special_ids)
    marks = [[int(token in special) for token in ids] for ids in whole.columns["input_ids"]]
    kept = tuple(row for row, mark in enumerate(marks) if not all(mark))
    columns = {
        name: [rows[row] for row in kept] for name, rows in (whole.columns | {"special_tokens_mask": marks}).items()
    }
    cut = sum(max_length is not None and whole.lengths[row] > max_length for row in kept)
    return Encoded(columns, kept, cut, len(texts) - len(kept), 0, whole.lengths)


def special_ids(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Ids put before and after a causal text: the beginning, if the tokenizer puts it itself, and the end of text."""
    begins = tokenizer.bos_token_id is not None and tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
    return (
        [tokenizer.bos_token_id] if begins else [],
        [tokenizer.eos_token_id] if tokenizer.eos_token_id is not None else [],
    )


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    found: list[list[int]] = []
    for first in range(0, len(texts), _BATCH):
        found += tokenizer(texts[first : first + _BATCH], add_special_tokens=False, verbose=False)["input_ids"]
    return found


def _name(tokenizer: Any) -> str:
    return f"tokenizer {getattr(tokenizer, 'name_or_path', '') or type(tokenizer).__name__}"
