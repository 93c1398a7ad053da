"""What a model says of single tokens: their loss, and how far its distribution is from another model's."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.evaluation.tuned_models import refuse_unknown_tokens
from rank_lab.evaluation.windows import Piece

__all__ = ["TokenSums", "token_sums"]

Values = npt.NDArray[np.float64]
_MOST_LOGITS = 16_000_000  # at a time in float32: 64 MB for each of the few copies


@dataclass(frozen=True, eq=False)
class TokenSums:
    """Sums over the scored tokens of each text, each of shape (texts,).

    Parameters
    ----------
    losses
        Cross-entropy of the targets, nats.
    divergences
        From the base, nats; None without one.
    tokens
        How many were scored.
    """

    losses: Values
    divergences: Values | None
    tokens: Values


def token_sums(
    model: Any,
    pieces: Iterable[Piece],
    texts: int,
    *,
    base: Any = None,
    batch_size: int,
    seen: Callable[[int], None] | None = None,
) -> TokenSums:
    r"""Cross-entropy of the targets and, where there is a base, the divergence from it, of the same outputs.

    The divergence is Kullback and Leibler's over the whole vocabulary, at each
    scored token :math:`\sum_v p(v) \ln (p(v) / q(v))`, with p of the base and
    q of the model.

    Parameters
    ----------
    model
        Causal or masked, in any mode; left as it is.
    pieces
        What is asked.
    texts
        How many there are.
    base
        With the same vocabulary; the model itself is at no distance. None for no divergence.
    batch_size
        Pieces at a time.
    seen
        Called with the number of the text that was reached.

    Raises
    ------
    NonFiniteError
        If a sum is not finite.
    RankLabError
        If the vocabularies differ in size.
    """
    models = (model,) if base is None or base is model else (model, base)
    sums, tokens = np.zeros((2, texts)), np.zeros(texts)
    with torch.no_grad(), _evaluating(models):
        for batch in _batches(pieces, batch_size):
            outputs = [_logits(each, batch) for each in models]
            for row, piece in enumerate(batch):
                sums[:, piece.text] += _of_piece([found[row] for found in outputs], piece)
                tokens[piece.text] += len(piece.targets)
            if seen is not None:
                seen(batch[-1].text)
    for what, found in zip(("loss", "divergence from the base"), sums, strict=True):
        _refuse_non_finite(what, found)
    return TokenSums(sums[0], None if base is None else sums[1], tokens)


@contextmanager
def _evaluating(models: Sequence[Any]) -> Iterator[None]:
    """Without dropout while this lasts."""
    modes = [model.training for model in models]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


def _refuse_non_finite(what: str, sums: Values) -> None:
    if not np.isfinite(sums).all():
        text = int(np.flatnonzero(~np.isfinite(sums))[0])
        raise NonFiniteError(
            f"text {text + 1} of {len(sums)}: the model's {what} is {sums[text]}, not finite; did its training diverge?"
            " Look at its weights, or load it with --dtype float32."
        )


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


def _of_piece(logits: Sequence[Tensor], piece: Piece) -> Values:
    """Sums of loss and divergence, 0 without a base."""
    total, step = np.zeros(2), max(1, _MOST_LOGITS // logits[0].shape[-1])
    for first in range(0, len(piece.places), step):
        places = torch.tensor(piece.places[first : first + step])
        targets = torch.tensor(piece.targets[first : first + step])
        chosen = [found[places.to(found.device)].to(logits[0].device).float() for found in logits]
        losses = torch.nn.functional.cross_entropy(chosen[0], targets.to(chosen[0].device), reduction="none")
        total[0] += float(losses.double().sum())
        total[1] += float(_divergences(*chosen).double().sum()) if len(chosen) > 1 else 0.0
    return total


def _divergences(model: Tensor, base: Tensor) -> Tensor:
    """At each place, of outputs of shape (places, vocabulary)."""
    if base.shape != model.shape:
        raise RankLabError(
            f"outputs over {base.shape[-1]} tokens of the base and {model.shape[-1]} of the tuned model; a divergence"
            " needs one vocabulary: leave out --kl, or give the base that was tuned."
        )
    p, q = base.log_softmax(-1), model.log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1)
