"""The probe set: texts as tokens, on which activations of two models are compared."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.errors import DataError
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.windows import tokens_of

__all__ = ["Probe", "ProbeBatch", "probe_of"]

_Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ProbeBatch:
    """Some inputs, padded on the right.

    Parameters
    ----------
    ids, mask
        Shape (inputs, longest).
    counted
        Whether a place is a token that is looked at; shape (inputs, longest).
    text
        Number of the text of each counted token, in the order of ``activations[counted]``.
    first
        Whether each of these is the first of its input.
    """

    ids: Tensor
    mask: Tensor
    counted: Tensor
    text: _Array
    first: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Probe:
    """Texts as inputs of a model.

    Parameters
    ----------
    texts
        Where from.
    pieces
        Number of the text, and tokens, of each input.
    context
        Tokens of the longest.
    truncated
        Texts that were cut; a causal model gets a long text as several inputs, none is cut.
    skip
        Tokens at the start of each input that are not looked at.
    """

    texts: TextSet
    pieces: tuple[tuple[int, tuple[int, ...]], ...]
    context: int
    truncated: int = 0
    skip: int = 0

    def __post_init__(self) -> None:
        """Refuse a probe without a token to look at."""
        if self.tokens < 1:
            raise DataError(
                f"{self.texts.source}: of {len(self.texts.texts)} texts no token is left to look at"
                f" ({self.skip} at the start of each input are skipped); give longer texts."
            )

    @property
    def tokens(self) -> int:
        """How many are looked at."""
        return sum(max(0, len(ids) - self.skip) for _, ids in self.pieces)

    @property
    def count(self) -> int:
        """Texts."""
        return len(self.texts.texts)

    @property
    def largest(self) -> int:
        """Token."""
        return max(max(ids) for _, ids in self.pieces if ids)

    def sha256(self) -> str:
        """Hash of the tokens."""
        digest = hashlib.sha256()
        for text, ids in self.pieces:
            digest.update(f"{text}:{','.join(map(str, ids))}\n".encode())
        return digest.hexdigest()

    def batches(self, size: int) -> Iterator[ProbeBatch]:
        """All inputs, the longest first.

        Parameters
        ----------
        size
            Inputs at a time.
        """
        ordered = sorted((piece for piece in self.pieces if piece[1]), key=lambda piece: -len(piece[1]))
        for start in range(0, len(ordered), size):
            yield self._batch(ordered[start : start + size])

    def _batch(self, pieces: list[tuple[int, tuple[int, ...]]]) -> ProbeBatch:
        longest = max(len(ids) for _, ids in pieces)
        ids, mask = torch.zeros(2, len(pieces), longest, dtype=torch.long)
        for row, (_, own) in enumerate(pieces):
            ids[row, : len(own)] = torch.tensor(own)
            mask[row, : len(own)] = 1
        counted = mask.bool()
        counted[:, : self.skip] = False
        rows, places = (found.numpy() for found in counted.nonzero(as_tuple=True))
        text = np.array([text for text, _ in pieces], np.int64)[rows]
        return ProbeBatch(ids, mask, counted, text, places == 0)


def probe_of(tokenizer: Any, kind: str, texts: TextSet, *, context: int, skip: int = 0) -> Probe:
    """Texts as inputs for one kind of model.

    Parameters
    ----------
    tokenizer
        Of the base.
    kind
        ``"causal"``: the tokens behind that which begins texts, in inputs of at most the context, side by side. Others:
        with the model's special tokens, cut to the context.
    texts
        Which.
    context
        Tokens of the longest input.
    skip
        Tokens at the start of each input that are not looked at, where their activations are of another size than
        all others.

    Raises
    ------
    DataError
        If no token is left.
    """
    pieces, truncated = [], 0
    for number, text in enumerate(texts.texts):
        if kind == "causal":
            ids = tokens_of(tokenizer, text)[0]
            pieces += [(number, tuple(ids[start : start + context])) for start in range(0, len(ids), context)]
        else:
            ids = list(tokenizer(text, verbose=False)["input_ids"])
            truncated += len(ids) > context
            if len(ids) > context:
                ids = list(tokenizer(text, truncation=True, max_length=context, verbose=False)["input_ids"])
            pieces.append((number, tuple(ids)))
    return Probe(texts, tuple(pieces), context, truncated, skip)
