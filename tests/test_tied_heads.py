"""Which heads of their own are compared with the embedding that the base ties to them: those over words alone."""

from pathlib import Path

import pytest
import torch

from rank_lab import Checkpoint, plan_updates
from rank_lab.coverage import Plan
from tests.checkpoints import Tensors, factors, moved, save, save_adapter

WORDS, WIDTH = 20, 8
BERT = {"model_type": "bert", "tie_word_embeddings": True}


def bert(generator: torch.Generator) -> Tensors:
    """An encoder with as many token types as a task has classes, and as many positions as it could have."""
    shapes = {
        "embeddings.word_embeddings": (WORDS, WIDTH),
        "embeddings.position_embeddings": (6, WIDTH),
        "embeddings.token_type_embeddings": (2, WIDTH),
        "encoder.layer.0.attention.self.query": (WIDTH, WIDTH),
    }
    return {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def checked(plan: Plan, head: str) -> bool:
    """Whether the head is compared; if not, it is new."""
    row = next(row for row in plan.coverage if row.tensor.endswith(f"{head}.weight"))
    compared = any(spec.module.endswith(head) for spec in plan.specs)
    assert row.status == ("analysed" if compared else "new")
    assert compared == ("ties this head to" in row.reason)
    return compared


@pytest.mark.parametrize(
    ("head", "rows", "compared"),
    [
        ("classifier", 2, False),
        ("classifier", 6, False),
        ("classifier", WORDS, False),
        ("score", 2, False),
        ("qa_outputs", 2, False),
        ("lm_head", 2, False),
        ("lm_head", WORDS, True),
        ("cls.predictions.decoder", WORDS, True),
        ("embed_out", WORDS, True),
    ],
)
def test_only_a_head_over_words_is_compared_and_only_with_words(
    tmp_path: Path, generator: torch.Generator, head: str, rows: int, compared: bool
) -> None:
    state = bert(generator)
    base = Checkpoint.open(save(tmp_path / "base", state, config=BERT))
    new = {f"{head}.weight": torch.randn(rows, WIDTH, generator=generator)}
    tuned = Checkpoint.open(save(tmp_path / "tuned", moved(state, generator) | new, config=BERT))
    assert checked(plan_updates(tuned, base), head) == compared
    beside = {f"base_model.model.{name}": value for name, value in new.items()}
    adapted = factors(generator, "encoder.layer.0.attention.self.query", shape=(WIDTH, WIDTH))
    adapter = save_adapter(tmp_path / "adapter", adapted | beside, modules_to_save=[head])
    assert checked(plan_updates(Checkpoint.open(adapter), base), head) == compared
