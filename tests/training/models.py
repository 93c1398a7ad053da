"""Small random models of every kind that a method may have to adapt."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

Model = Any

WIDTH, INNER, LAYERS, WORDS, CLASSES, VALUES = 32, 48, 2, 60, 3, 16  # VALUES: width of Llama's keys and values
CASES = (
    ("llama", "causal"),
    ("llama", "classification"),
    ("gpt2", "causal"),
    ("bert", "masked"),
    ("bert", "regression"),
    ("roberta", "classification"),
)


def fresh(architecture: str, kind: str, **options: Any) -> Model:
    """A model as it was before any training."""
    torch.manual_seed(3)
    made = _class(architecture, kind)(_config(architecture, kind, **options))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith("bias"):  # zero at the start
                value.normal_(std=0.1)
    return made.eval()


@cache
def _modules() -> Any:
    import transformers

    return transformers


def _config(architecture: str, kind: str, **options: Any) -> Any:
    hf = _modules()
    words = {"vocab_size": WORDS, "pad_token_id": 1}
    classes = {"num_labels": 1, "problem_type": "regression"} if kind == "regression" else {"num_labels": CLASSES}
    if kind in {"causal", "masked"}:
        classes = {}
    if architecture == "gpt2":
        calm = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}
        size = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": 64}
        return hf.GPT2Config(**words, **classes, **size, **calm, bos_token_id=0, eos_token_id=0, **options)
    size = {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    }
    if architecture == "llama":
        given = {"num_key_value_heads": 2, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0} | options
        return hf.LlamaConfig(**words, **classes, **size, **given)
    calm = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return (hf.BertConfig if architecture == "bert" else hf.RobertaConfig)(
        **words, **classes, **size, **calm, **options
    )


def _class(architecture: str, kind: str) -> Any:
    name = {"llama": "Llama", "gpt2": "GPT2", "bert": "Bert", "roberta": "Roberta"}[architecture]
    ending = {"causal": "LMHeadModel" if architecture == "gpt2" else "ForCausalLM", "masked": "ForMaskedLM"}
    return getattr(_modules(), name + ending.get(kind, "ForSequenceClassification"))


def saved_base(folder: Path, architecture: str, kind: str, **options: Any) -> Path:
    """The same on the disk."""
    fresh(architecture, kind, **options).save_pretrained(folder)
    return folder


def loaded(folder: Path, architecture: str, kind: str) -> Model:
    return _class(architecture, kind).from_pretrained(folder).eval()


def rows() -> dict[str, torch.Tensor]:
    """Two rows, the second padded at its end."""
    words = torch.randint(2, WORDS, (2, 7), generator=torch.Generator().manual_seed(6))
    mask = torch.ones_like(words)
    words[1, 5:], mask[1, 5:] = 1, 0
    return {"input_ids": words, "attention_mask": mask}


def labels(kind: str) -> torch.Tensor:
    if kind == "classification":
        return torch.tensor([0, 2])
    if kind == "regression":
        return torch.tensor([0.3, -1.0])
    given = rows()
    return given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)


@torch.no_grad()
def logits(model: Model, **given: Any) -> torch.Tensor:
    return model.eval()(**(given or rows())).logits


def train(model: Model, kind: str, *, steps: int = 3, rate: float = 1e-2) -> None:
    """A few steps; without decay, so that nothing moves that has no gradient."""
    optimizer = torch.optim.AdamW(
        [value for value in model.parameters() if value.requires_grad], lr=rate, weight_decay=0.0
    )
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(**rows(), labels=labels(kind)).loss.backward()
        optimizer.step()
    model.eval()
