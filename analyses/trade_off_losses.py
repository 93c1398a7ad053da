"""Losses of a checkpoint, text by text, on what a study learns and on what it may forget."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from analyses.trade_off_texts import Documents
from rank_lab.encoding import IGNORED, encode_completions
from rank_lab.evaluation.token_losses import token_sums
from rank_lab.evaluation.windows import Piece, causal_pieces, tokens_of

__all__ = ["Loss", "losses_of", "mean_loss"]

Loss = dict[str, list[float]]
"""``losses`` and ``tokens``, a number for each text."""


def losses_of(model: Any, tokenizer: Any, documents: Sequence[Documents], context: int) -> dict[str, Loss]:
    """Sums of losses over the tokens of each text, in nats.

    Parameters
    ----------
    model, tokenizer
        In memory; with the base's vocabulary.
    documents
        Sets with different names.
    context
        Tokens of a window; of a question and its answer what is longer is cut, as in training.

    Returns
    -------
    dict
        By the name of the set.
    """
    found = {}
    for each in documents:
        sums = token_sums(model, _pieces(each, tokenizer, context), len(each.texts), batch_size=16)
        found[each.name] = {"losses": sums.losses.round(4).tolist(), "tokens": sums.tokens.astype(int).tolist()}
    return found


def _pieces(documents: Documents, tokenizer: Any, context: int) -> Iterator[Piece]:
    for number, parts in enumerate(documents.texts):
        if len(parts) == 1:
            yield from causal_pieces(number, tokens_of(tokenizer, parts[0])[0], context, context)
            continue
        columns = encode_completions(tokenizer, [parts], context).columns
        for ids, labels in zip(columns["input_ids"], columns["labels"], strict=True):
            places = tuple(place for place in range(len(ids) - 1) if labels[place + 1] != IGNORED)
            yield Piece(number, tuple(ids[:-1]), places, tuple(ids[place + 1] for place in places))


def mean_loss(losses: Sequence[Loss], chosen: npt.NDArray[np.intp] | None = None) -> float:
    """Nats a token over all texts of some sets, or those chosen of each.

    Parameters
    ----------
    losses
        One or more sets.
    chosen
        Numbers of texts, in all sets the same; None for all.
    """
    sums, tokens = (np.concatenate([_part(each[key], chosen) for each in losses]) for key in ("losses", "tokens"))
    return float(sums.sum() / tokens.sum())


def _part(values: Sequence[float], chosen: npt.NDArray[np.intp] | None) -> npt.NDArray[np.float64]:
    every = np.asarray(values, np.float64)
    return every if chosen is None else every[chosen]
