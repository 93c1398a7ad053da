"""What a model says of single tokens: their loss, and how far its distribution is from another model's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.evaluation.tuned_models import refuse_unknown_tokens
from rank_lab.evaluation.windows import Piece

__all__ = ["TokenSums", "divergence_sums", "loss_sums"]

Values = npt.NDArray[np.float64]
_MOST_LOGITS = 16_000_000  # at a time in float32: 64 MB for each of the few copies


@dataclass(frozen=True, eq=False)
class TokenSums:
    """Sums over the scored tokens of each text.

    Parameters
    ----------
    sums
        Shape (texts,): of what is measured, nats.
    tokens
        Shape (texts,): how many tokens were scored.
    """

    sums: Values
    tokens: Values


def loss_sums(
    model: Any, pieces: Iterable[Piece], texts: int, *, batch_size: int, seen: Callable[[int], None] | None = None
) -> TokenSums:
    """Cross-entropy of the targets.

    Parameters
    ----------
    model
        Causal or masked, in any mode; left as it is.
    pieces
        What is asked.
    texts
        How many there are.
    batch_size
        Pieces at a time.
    seen
        Called with the number of the text that was reached.

    Raises
    ------
    NonFiniteError
        If a loss is not finite.
    """

    def measure(logits: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")

    return _sums((model,), pieces, texts, batch_size, lambda found, targets: measure(found[0], targets), seen)


def divergence_sums(
    base: Any,
    model: Any,
    pieces: Iterable[Piece],
    texts: int,
    *,
    batch_size: int,
    seen: Callable[[int], None] | None = None,
) -> TokenSums:
    r"""Kullback-Leibler divergence of a model from its base, over the whole vocabulary.

    At each scored token :math:`\sum_v p(v) \ln (p(v) / q(v))`, with p of the
    base and q of the model.

    Parameters
    ----------
    base, model
        With one vocabulary.
    pieces, texts, batch_size, seen
        See :func:`loss_sums`.

    Raises
    ------
    RankLabError
        If the vocabularies differ in size.
    """

    def measure(found: Sequence[Tensor], _: Tensor) -> Tensor:
        if found[0].shape != found[1].shape:
            raise RankLabError(
                f"outputs over {found[0].shape[-1]} tokens of the base and {found[1].shape[-1]} of the tuned model; a"
                " divergence needs one vocabulary: leave out --kl, or give the base that was tuned."
            )
        first, second = (logits.float().log_softmax(-1) for logits in found)
        return (first.exp() * (first - second)).sum(-1)

    return _sums((base, model), pieces, texts, batch_size, measure, seen)


@torch.no_grad()
def _sums(
    models: Sequence[Any],
    pieces: Iterable[Piece],
    texts: int,
    batch_size: int,
    measure: Callable[[Sequence[Tensor], Tensor], Tensor],
    seen: Callable[[int], None] | None,
) -> TokenSums:
    sums, tokens = np.zeros(texts), np.zeros(texts)
    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        for batch in _batches(pieces, batch_size):
            outputs = [_logits(model, batch) for model in models]
            for row, piece in enumerate(batch):
                sums[piece.text] += _of_piece([found[row] for found in outputs], piece, measure)
                tokens[piece.text] += len(piece.targets)
            if seen is not None:
                seen(batch[-1].text)
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)
    if not np.isfinite(sums).all():
        text = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise NonFiniteError(
            f"text {text + 1} of {texts}: the model's outputs are {sums[text]}, not finite; did its training diverge?"
            " Look at its weights, or load it with --dtype float32."
        )
    return TokenSums(sums, tokens)


def _batches(pieces: Iterable[Piece], size: int) -> Iterator[Sequence[Piece]]:
    found: list[Piece] = []
    for piece in pieces:
        found.append(piece)
        if len(found) == size:
            yield found
            found = []
    if found:
        yield found


def _logits(model: Any, batch: Sequence[Piece]) -> Tensor:
    """Shape (pieces, longest, vocabulary), padded on the right; outputs at a prompt's virtual tokens are left out."""
    longest = max(len(piece.ids) for piece in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros(len(batch), longest, dtype=torch.long)
    for row, piece in enumerate(batch):
        ids[row, : len(piece.ids)] = torch.tensor(piece.ids)
        mask[row, : len(piece.ids)] = 1
    refuse_unknown_tokens(model, int(ids.max()))
    device = next(model.parameters()).device
    logits: Tensor = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
    return logits[:, -longest:]


def _of_piece(logits: Sequence[Tensor], piece: Piece, measure: Callable[[Sequence[Tensor], Tensor], Tensor]) -> float:
    total, step = 0.0, max(1, _MOST_LOGITS // logits[0].shape[-1])
    for first in range(0, len(piece.places), step):
        places = torch.tensor(piece.places[first : first + step])
        targets = torch.tensor(piece.targets[first : first + step])
        chosen = [found[places.to(found.device)] for found in logits]
        values = measure([each.to(chosen[0].device) for each in chosen], targets.to(chosen[0].device))
        total += float(values.double().sum())
    return total
