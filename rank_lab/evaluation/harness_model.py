"""lm-eval's model of transformers, with a limit of time for what is generated, which lm-eval itself does not have.

It imports lm-eval, which takes seconds: whoever needs it imports it when it comes to that.
"""

import time
from collections.abc import Sequence
from typing import Any

from lm_eval.models.huggingface import HFLM
from torch import Tensor

__all__ = ["TimedModel"]


class TimedModel(HFLM):  # type: ignore[misc]
    """lm-eval's, which ends a batch of answers when its time is over.

    Attributes
    ----------
    seconds
        For one batch.
    late
        Answers that were cut off by it: without a stop, an end, or all tokens that were asked for.
    """

    seconds: float = float("inf")
    late: int = 0

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation: Any) -> Tensor:
        start = time.monotonic()
        found: Tensor = super()._model_generate(context, max_length, stop, max_time=self.seconds, **generation)
        if time.monotonic() - start >= self.seconds and found.shape[1] < max_length:
            self.late += sum(not self._ended(row, stop) for row in found[:, context.shape[1] :].tolist())
        return found

    def _ended(self, ids: Sequence[int], stop: Sequence[str]) -> bool:
        own = getattr(self.model.generation_config, "eos_token_id", None)
        ends = {self.tokenizer.eos_token_id, *(own if isinstance(own, list | tuple) else [own])}
        text = self.tokenizer.decode(ids)
        return bool(ends & set(ids)) or any(each in text for each in stop if each)
