"""Hiding tokens of a text for a masked language model: always the same ones of an example, in an epoch, for a seed."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from rank_lab.encoding import IGNORED

__all__ = ["MASKED_SHARE", "MaskingCollator"]

MASKED_SHARE = 0.15
"""Of tokens that are hidden and learned: BERT's. Of these 80 % become the mask, 10 % another token, 10 % stay."""


class MaskingCollator:
    """Makes batches of rows with hidden tokens.

    Which tokens are hidden depends on the seed, the number of the row and the epoch alone: not on the batch, on how
    many processes share it, or on where training was resumed. At least one token of each row is hidden: a row of which
    none was drawn is drawn again. Rows that have labels are taken as they are.

    Parameters
    ----------
    tokenizer
        One of transformers', with a mask.
    seed
        Of the draws.
    share
        Of tokens that are hidden.
    """

    def __init__(self, tokenizer: Any, seed: int, share: float = MASKED_SHARE) -> None:
        from transformers import DataCollatorForLanguageModeling, DataCollatorForSeq2Seq

        self.tokenizer, self.seed, self.share = tokenizer, seed, share
        self.epoch = 0
        """Set by whoever trains, at the start of each."""
        self._masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=share)
        self._padding = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)

    def seeded(self, seed: int) -> "MaskingCollator":
        """The same with another seed."""
        return MaskingCollator(self.tokenizer, seed, self.share)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        """Make a padded batch."""
        return self._padding([dict(row) if "labels" in row else self.hidden(row) for row in rows])

    def hidden(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with hidden tokens, and with the true ones as its labels.

        Parameters
        ----------
        row
            With ``input_ids``, ``special_tokens_mask`` and ``row``, its number.
        """
        state = np.random.SeedSequence((self.seed, self.epoch, row["row"])).generate_state(1, np.uint64)
        self._masking.generator = torch.Generator().manual_seed(int(state[0]) % 2**63)
        ids, special = (torch.tensor([row[name]]) for name in ("input_ids", "special_tokens_mask"))
        labels = torch.full_like(ids, IGNORED)
        inputs = ids
        while not bool((labels != IGNORED).any()):
            inputs, labels = self._masking.torch_mask_tokens(ids.clone(), special_tokens_mask=special)
        rest = {name: value for name, value in row.items() if name not in ("row", "special_tokens_mask")}
        return {**rest, "input_ids": inputs[0].tolist(), "labels": labels[0].tolist()}
