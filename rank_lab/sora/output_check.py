"""Whether two adapters of one base model give the same outputs on a batch."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftConfig, PeftModel
from torch import Tensor, nn

from rank_lab.errors import RankLabError

__all__ = ["model_difference"]

_ALLOWED = 1e-4  # of the largest output: float32's rounding through the layers of a model
_ROWS, _TOKENS, _SEED = 2, 16, 20261121

_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoModel",
}


def model_difference(
    model: nn.Module | str | Path, before: Path, after: Path, batch: Mapping[str, Tensor] | None
) -> float:
    """Largest difference of a model's first output with one adapter and with another.

    Parameters
    ----------
    model
        The base model: itself (it is copied), a folder or a hub id.
    before, after
        Adapter folders.
    batch
        Inputs by name; None for random tokens of the model's vocabulary.

    Raises
    ------
    RankLabError
        If they differ by more than rounding, the base cannot be loaded, or it needs a batch that was not given.
    """
    try:
        base = model if isinstance(model, nn.Module) else _loaded(str(model), before)
    except (OSError, ValueError) as error:
        raise RankLabError(
            f"{model}: cannot be loaded as the base model ({' '.join(str(error).split())[:200]}); give its folder or"
            " hub id."
        ) from error
    inputs = dict(_random_tokens(base) if batch is None else batch)
    first, second = (_output(base, folder, inputs) for folder in (before, after))
    difference, largest = float((first - second).abs().max()), float(first.abs().max())
    if not difference <= _ALLOWED * largest:
        raise RankLabError(
            f"{after}: outputs differ from those with {before} by up to {difference:.3g} (largest output"
            f" {largest:.3g}), more than rounding explains; is --model the base that the adapter was trained on?"
        )
    return difference


def _loaded(source: str, adapter: Path) -> nn.Module:
    task = str(PeftConfig.from_pretrained(str(adapter)).task_type or "")
    if task in _CLASSES:
        kind = getattr(transformers, _CLASSES[task])
    else:
        names = getattr(
            transformers.AutoConfig.from_pretrained(source, trust_remote_code=False), "architectures", None
        ) or [""]
        kind = getattr(transformers, names[0], None)
        if kind is None:
            raise RankLabError(
                f"{source}: architecture {names[0]!r} is unknown to transformers and the adapter names no task_type;"
                " call rank_lab.sora.fold with the model itself."
            )
    loaded: nn.Module = kind.from_pretrained(source, dtype=torch.float32, trust_remote_code=False)
    return loaded


def _random_tokens(model: nn.Module) -> dict[str, Tensor]:
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if not isinstance(size, int):
        raise RankLabError(
            f"{type(model).__name__} has no vocabulary to draw a batch from; leave out --model, or call"
            " rank_lab.sora.fold with batch={name: tensor}."
        )
    generator = torch.Generator().manual_seed(_SEED)
    return {"input_ids": torch.randint(0, size, (_ROWS, _TOKENS), generator=generator)}


def _with_padding(base: nn.Module) -> nn.Module:
    """Classifiers look for the last token that is no padding, and refuse a batch where none is named."""
    config: Any = getattr(base, "config", None)
    if getattr(config, "pad_token_id", 0) is None:
        config.pad_token_id = 0
    return base


@torch.no_grad()
def _output(base: nn.Module, adapter: Path, inputs: dict[str, Any]) -> Tensor:
    try:
        adapted = PeftModel.from_pretrained(_with_padding(copy.deepcopy(base)), str(adapter)).eval()
    except (RuntimeError, ValueError) as error:
        raise RankLabError(
            f"{adapter}: does not fit {type(base).__name__} ({' '.join(str(error).split())[:200]}); give the base that"
            " it was trained on."
        ) from error
    result = adapted(**inputs)
    first: Tensor = result if isinstance(result, Tensor) else result[0]
    return first.double()
