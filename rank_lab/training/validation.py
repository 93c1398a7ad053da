"""Batches in which each method learns and is scored on the same tokens, and the exact loss over a whole set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.encoding import IGNORED
from rank_lab.errors import DataError
from rank_lab.masking import MaskingCollator

__all__ = ["TargetBatches", "loss_over"]

_OF_TOKENS = ("causal", "masked")


@dataclass(frozen=True)
class TargetBatches:
    """A task's collator, whose causal batches have no target at the first token.

    It is predicted from nothing and is no target of a model as it is, but would be one, predicted from the prompt, of a
    model with virtual tokens before it.

    Parameters
    ----------
    collator
        Of :class:`rank_lab.tasks.TaskData`.
    kind
        Of the task.
    """

    collator: Any
    kind: str

    def begin_epoch(self, epoch: int) -> None:
        """Let a masked task hide other tokens.

        Parameters
        ----------
        epoch
            From 0.
        """
        if isinstance(self.collator, MaskingCollator):
            self.collator.epoch = epoch

    @property
    def tokenizer(self) -> Any:
        """What the Trainer saves beside each checkpoint."""
        return self.collator.tokenizer

    def __call__(self, rows: Sequence[Any]) -> Any:
        """Make a padded batch."""
        batch = self.collator(rows)
        if self.kind == "causal":
            batch["labels"][:, 0] = IGNORED
            if "attention_mask" in batch:  # padding on the left: the first token is where the mask begins
                first = batch["attention_mask"].argmax(dim=1, keepdim=True)
                batch["labels"].scatter_(1, first, IGNORED)
        return batch


@torch.no_grad()
def loss_over(
    model: nn.Module, dataset: Any, batches: TargetBatches, batch_size: int, share: tuple[int, int]
) -> Tensor:
    """Sum of the losses of a data set's examples, of a causal or masked model of its target tokens, and their number.

    Parameters
    ----------
    model
        Of transformers, or PEFT around one; its mode is as before afterwards.
    dataset, batches
        Rows by number, and what makes batches of them.
    batch_size
        Examples at a time, in order.
    share
        Number of this process and how many there are: it takes each so-many-th row.

    Returns
    -------
    Tensor
        Shape (2,), float64.

    Raises
    ------
    DataError
        If batches hold no labels.
    """
    before, device = model.training, next(model.parameters()).device
    total = torch.zeros(2, dtype=torch.float64, device="cpu")
    model.eval()
    try:
        for rows in _portions(dataset, batch_size, share):
            batch = {name: value.to(device) for name, value in batches(rows).items()}
            if "labels" not in batch:
                raise DataError(f"batches of {sorted(batch)} hold no labels; rename the column of labels to 'labels'.")
            count = int((batch["labels"] != IGNORED).sum()) if batches.kind in _OF_TOKENS else len(rows)
            if count:
                total += torch.tensor([float(model(**batch).loss) * count, count], dtype=torch.float64)
    finally:
        model.train(before)
    return total.to(device) if device.type != "mps" else total


def _portions(dataset: Any, batch_size: int, share: tuple[int, int]) -> Iterator[list[Any]]:
    mine = range(share[0], len(dataset), share[1])
    for start in range(0, len(mine), batch_size):
        yield [dataset[index] for index in mine[start : start + batch_size]]
