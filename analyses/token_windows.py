"""What pretraining the demo's base needs: token ids, batches, and losses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = [
    "BATCH",
    "END_OF_TEXT",
    "SEQUENCE",
    "HeldOut",
    "Losses",
    "batch_loss",
    "encode",
    "sample_batches",
    "token_loss",
]

BATCH = 8
SEQUENCE = 128
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Losses:
    """Mean cross-entropy per token, in nats, on text that no training saw.

    Parameters
    ----------
    step
        Optimizer steps taken before the measurement; 0 is the base.
    prose
        On what the base was trained for. Its rise is forgetting.
    code
        On what the adaptation trains for. Its fall is learning.
    """

    step: int
    prose: float
    code: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Held-out tokens of both corpora.

    Parameters
    ----------
    prose, code
        Token ids, one long sequence each.
    windows
        How many windows to measure on, evenly spread; None for all of them.
    """

    prose: Tensor
    code: Tensor
    windows: int | None = None

    def losses(self, model: nn.Module, step: int) -> Losses:
        """Measure the model on both."""
        return Losses(
            step=step,
            prose=token_loss(model, self.prose, windows=self.windows),
            code=token_loss(model, self.code, windows=self.windows),
        )


def encode(tokenizer_file: Path, texts: Sequence[str]) -> Tensor:
    """Join the texts into one sequence of token ids, each followed by `END_OF_TEXT`.

    Parameters
    ----------
    tokenizer_file
        A ``tokenizer.json``.
    texts
        Documents in order.

    Returns
    -------
    Tensor
        Of dtype int64 and shape (tokens,).
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast([each + END_OF_TEXT for each in texts]):
        ids.extend(encoding.ids)
    return torch.tensor(ids, dtype=torch.int64)


def sample_batches(tokens: Tensor, *, generator: Generator) -> Iterator[Tensor]:
    """Draw random windows without end.

    Parameters
    ----------
    tokens
        One long sequence of ids.
    generator
        Decides where the windows start.

    Yields
    ------
    Tensor
        Of shape (`BATCH`, `SEQUENCE` + 1): the inputs and, one further, the targets.

    Raises
    ------
    ValueError
        If the sequence is shorter than one window.
    """
    starts = tokens.numel() - SEQUENCE
    if starts < 1:
        raise ValueError(
            f"The text holds {tokens.numel()} tokens, fewer than one window of {SEQUENCE + 1}. "
            "It comes from the sources of the standard library; "
            "does this Python installation carry them?"
        )
    offsets = torch.arange(SEQUENCE + 1)
    while True:
        first = torch.randint(starts, (BATCH, 1), generator=generator)
        yield tokens[first + offsets]


def batch_loss(model: nn.Module, batch: Tensor) -> Tensor:
    """Mean cross-entropy of every next token in the windows.

    Parameters
    ----------
    model
        A causal language model.
    batch
        Token ids of shape (windows, length + 1).

    Returns
    -------
    Tensor
        A scalar, in nats.
    """
    logits: Tensor = model(input_ids=batch[:, :-1], use_cache=False).logits
    return cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def token_loss(model: nn.Module, tokens: Tensor, *, windows: int | None = None) -> float:
    """Mean cross-entropy per token over windows that do not overlap.

    Parameters
    ----------
    model
        A causal language model; left in the mode it was in.
    tokens
        One long sequence of ids.
    windows
        Use this many, evenly spread over the sequence; None for all of them.

    Returns
    -------
    float
        In nats; ln(vocabulary) for a model that knows nothing.
    """
    every = tokens.unfold(0, SEQUENCE + 1, SEQUENCE)
    if windows is not None and windows < len(every):
        every = every[torch.linspace(0, len(every) - 1, windows).long()]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [every[first : first + 4 * BATCH] for first in range(0, len(every), 4 * BATCH)]
        losses = [batch_loss(model, part).item() * len(part) for part in parts]
    model.train(was_training)
    return sum(losses) / len(every)
