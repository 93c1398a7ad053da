"""Data of every kind for the small random models of :mod:`tests.training.models`: sentences of sixty words."""

from functools import cache
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast

from rank_lab.tasks import Task, TaskData, encoded
from tests.training.models import CLASSES, WORDS

TASKS = {
    "causal": Task("counting", "causal", ("said",), "", "token_accuracy"),
    "masked": Task("hidden", "masked", ("said",), "", "masked_accuracy"),
    "classification": Task("remainder", "classification", ("said",), "label", "accuracy"),
    "regression": Task("size", "regression", ("said",), "label", "pearson"),
}


@cache
def words() -> Any:
    """A tokenizer of words by their number."""
    vocabulary = {"<end>": 0, "<pad>": 1, "<mask>": 2} | {f"w{n}": n for n in range(3, WORDS)}
    own = Tokenizer(WordLevel(vocabulary, unk_token="<mask>"))
    own.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=own, eos_token="<end>", pad_token="<pad>", mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _rows(count: int, start: int, kind: str) -> list[dict[str, Any]]:
    found = []
    for n in range(start, start + count):
        text = " ".join(f"w{3 + (n * k + k) % (WORDS - 3)}" for k in range(1, 6 + n % 3))
        label: float | int = n % CLASSES if kind == "classification" else n / 10
        found.append({"said": text} if kind in {"causal", "masked"} else {"said": text, "label": label})
    return found


@cache
def token_data(kind: str) -> TaskData:
    """Twelve training examples and six others."""
    return encoded(TASKS[kind], {"train": _rows(12, 0, kind), "validation": _rows(6, 50, kind)}, words())
