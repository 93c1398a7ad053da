"""Which tokens of a text are predicted from which: windows of a causal model, places of a masked one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rank_lab.encoding import special_ids
from rank_lab.errors import DataError

__all__ = ["Piece", "causal_pieces", "masked_pieces", "tokens_of", "windows"]


@dataclass(frozen=True)
class Piece:
    """One input of a model, and what is asked of its outputs.

    Parameters
    ----------
    text
        Number of the text that it belongs to.
    ids
        Tokens of the input.
    places
        Which outputs are scored, from 0 at the first token of the input.
    targets
        The token that is predicted at each place.
    """

    text: int
    ids: tuple[int, ...]
    places: tuple[int, ...]
    targets: tuple[int, ...]


def windows(count: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Start, end and first scored target of each window, so that every target is scored once, with most context.

    Parameters
    ----------
    count
        Tokens of a text, that before the first one included: targets are 1 to ``count - 1``.
    context
        Tokens of the longest input.
    stride
        Targets that a window adds, at most ``context``.

    Yields
    ------
    tuple of int
        ``(start, end, first)``: tokens ``start`` to ``end - 1`` are the input, targets ``first`` to ``end`` are
        scored. With ``stride == context`` these are the windows of lm-eval's rolling likelihood.

    Examples
    --------
    >>> list(windows(6, 3, 3)), list(windows(6, 3, 1))
    ([(0, 3, 1), (2, 5, 4)], [(0, 3, 1), (1, 4, 4), (2, 5, 5)])
    """
    if not 1 <= stride <= context:
        raise DataError(f"stride {stride} with a context of {context} tokens; expected 1 to {context}.")
    done, last = 0, count - 1
    while done < last:
        end = min(done + (stride if done else context), last)
        yield max(0, end - context), end, done + 1
        done = end


def tokens_of(tokenizer: Any, text: str) -> tuple[list[int], bool]:
    """A text's tokens behind the token that begins texts, or else ends them; whether there is such a token.

    Without one the first token is predicted from nothing and is not scored. It
    is put before a text even if the tokenizer itself does not, as lm-eval does.
    """
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    begin = special_ids(tokenizer)[0]
    for token in (*begin, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return [token, *ids], True
    return list(ids), False


def causal_pieces(text: int, ids: Sequence[int], context: int, stride: int) -> Iterator[Piece]:
    """The windows of a text.

    Parameters
    ----------
    text
        Its number.
    ids
        From :func:`tokens_of`.
    context, stride
        See :func:`windows`.
    """
    for start, end, first in windows(len(ids), context, stride):
        places = tuple(range(first - 1 - start, end - start))
        yield Piece(text, tuple(ids[start:end]), places, tuple(ids[first : end + 1]))


def masked_pieces(text: int, content: str, tokenizer: Any, context: int, most: int, seed: int) -> Iterator[Piece]:
    """A text with one of its tokens masked, for up to so many of them.

    Parameters
    ----------
    text
        Its number.
    content
        The text; cut to the context.
    tokenizer
        With a mask token.
    context
        Tokens of the longest input, special ones included.
    most
        Places asked of a text; which of more is a seeded choice.
    seed
        Of the choice; each text has its own.

    Raises
    ------
    DataError
        If the tokenizer has no mask token.
    """
    if tokenizer.mask_token_id is None:
        raise DataError(f"tokenizer {tokenizer.name_or_path!r}: has no mask token; a masked model's own tokenizer has.")
    found = tokenizer(
        content, truncation=True, max_length=context, return_special_tokens_mask=True, verbose=False
    )  # fmt: skip
    ids = list(found["input_ids"])
    places = [place for place, special in enumerate(found["special_tokens_mask"]) if not special]
    if len(places) > most:
        chosen = np.random.default_rng([seed, text]).permutation(len(places))[:most]
        places = [places[number] for number in sorted(chosen.tolist())]
    for place in places:
        shown = (*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :])
        yield Piece(text, shown, (place,), (ids[place],))
