"""Small models with known answers, and adapters of the demo's base."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.demo import BASE
from rank_lab.evaluation.sources import Tuned
from rank_lab.evaluation.tuned_models import EvaluatedModel

TEXTS = (
    "The cat sat on the mat and looked at the moon.",
    "To be, or not to be.",
    "A list of words, and no more words.",
)


class Fixed(nn.Module):
    """Gives at every place the logits of a function of the tokens up to there."""

    def __init__(self, logits: Callable[[tuple[int, ...]], list[float]]) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.function = logits
        self.seen: list[tuple[int, ...]] = []

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        rows = []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            self.seen.append(tuple(ids[: sum(mask)]))
            rows.append([self.function(tuple(ids[: place + 1])) for place in range(len(ids))])
        return SimpleNamespace(logits=torch.tensor(rows))


def demo_base() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(BASE).eval()


def demo_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(BASE)


def evaluated(model: Any, tokenizer: Any, *, kind: str = "causal", run: str = "tuned") -> EvaluatedModel:
    return EvaluatedModel(Tuned(run, "lora", 3, "somewhere"), kind, model, tokenizer)


def adapter(folder: Path, config: Any, *, base: Any = None, seed: int = 0) -> Any:
    """Adapt, change what is trained, save; the model in memory."""
    from peft import get_peft_model

    model = get_peft_model(demo_base() if base is None else base, config)
    moved(model, seed=seed)
    model.save_pretrained(folder)
    return model.eval()


def moved(model: Any, *, seed: int = 0, by: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(by * torch.randn(value.shape, generator=generator))


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    ids = torch.arange(5, 25)[None]
    found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found[:, -20:]
