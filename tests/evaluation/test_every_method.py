"""Every method of the registry: what it saved gives, loaded here, the outputs that it gave in memory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertTokenizer

from rank_lab.errors import DataError
from rank_lab.evaluation.generation import GenerationOptions, completions_of
from rank_lab.evaluation.glue_scores import GlueOptions, glue_rows
from rank_lab.evaluation.sources import tuned_of
from rank_lab.evaluation.text_scores import TextOptions, text_rows
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.tuned_models import LoadOptions, Shelf, base_tuned
from rank_lab.glue import Task
from rank_lab.training.method import MethodChoices
from rank_lab.training.methods import METHODS
from tests.evaluation.models import demo_tokenizer, moved
from tests.training.models import CASES, CLASSES, loaded, saved_base

TAKEN = {
    "llama-causal": tuple(METHODS),
    "roberta-classification": ("full", "bitfit", "lora", "adalora", "prefix", "series"),
    "bert-masked": ("bitfit", "lora"),
    "bert-regression": ("full", "ia3"),
}
"""What can be adapted of every kind of model is the methods' own contract; this is of loading what they saved."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    found = {"-".join(case): saved_base(folder / "-".join(case), *case) for case in CASES if "-".join(case) in TAKEN}
    for base in found.values():
        demo_tokenizer().save_pretrained(base)
    return found


@torch.no_grad()
def outputs(model: Any) -> Tensor:
    ids = torch.arange(1, 11)[None]
    found: Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found[:, -10:] if found.ndim == 3 else found


@pytest.mark.parametrize(("name", "case"), [(name, case) for case, names in TAKEN.items() for name in names])
def test_outputs_are_those_in_memory(name: str, case: str, bases: dict[str, Path], tmp_path: Path) -> None:
    architecture, kind = case.split("-")
    if (refusal := refused(name, architecture, kind)) is not None:
        with pytest.raises(Exception, match=refusal):
            METHODS[name].adapt(loaded(bases[case], architecture, kind), MethodChoices(steps=20), kind)
        return
    base = loaded(bases[case], architecture, kind)
    plain = outputs(base)
    model = METHODS[name].adapt(base, method_choices(name), kind)
    moved(model, by=0.02)
    expected = outputs(model)
    model.save_pretrained(tmp_path / "run")
    if name == "full":
        demo_tokenizer().save_pretrained(tmp_path / "run")
    (tuned,) = tuned_of(tmp_path / "run")
    shelf = Shelf(LoadOptions(base=str(bases[case]), kind=kind))
    with shelf.loaded(tuned) as found:
        assert found.kind == kind
        assert torch.allclose(outputs(found.model), expected, atol=1e-5)
    if kind in ("causal", "masked"):
        with shelf.loaded(base_tuned(str(bases[case]))) as again:
            assert torch.equal(outputs(again.model), plain)


TONE = Task("tone", "classification", ("said",), "tone", "accuracy", CLASSES)


@pytest.mark.parametrize("name", METHODS)
def test_a_classifier_of_any_method_is_scored(name: str, bases: dict[str, Path], tmp_path: Path) -> None:
    """Against the classes of its outputs in memory, one text at a time."""
    base = loaded(bases["roberta-classification"], "roberta", "classification")
    model = METHODS[name].adapt(base, method_choices(name), "classification")
    moved(model, by=0.1)
    tokenizer = letters()
    said = ["a b c", "d e", "f g h a", "b", "c c d", "h e a d"]
    with torch.no_grad():
        shown = [torch.tensor([tokenizer(text)["input_ids"]]) for text in said]
        classes = [int(model.eval()(ids, attention_mask=torch.ones_like(ids)).logits.argmax()) for ids in shown]
    tones = [*classes[:4], *((each + 1) % CLASSES for each in classes[4:])]
    for split in ("train", "validation"):
        lines = [json.dumps({"said": text, "tone": tone}) for text, tone in zip(said, tones, strict=True)]
        (tmp_path / "tone").mkdir(exist_ok=True)
        (tmp_path / "tone" / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    model.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    (tuned,) = tuned_of(tmp_path / "run")
    with Shelf(LoadOptions(base=str(bases["roberta-classification"]), kind="classification")).loaded(tuned) as found:
        (row,) = glue_rows(found, TONE, GlueOptions(data=tmp_path, batch_size=4))
    assert row.examples == (1.0, 1.0, 1.0, 1.0, 0.0, 0.0)


def refused(name: str, architecture: str, kind: str) -> str | None:
    """What the methods' own contract says cannot be adapted."""
    from tests.training.test_methods import REFUSED

    return REFUSED.get((name, architecture, kind))


def method_choices(name: str) -> MethodChoices:
    reads_rank = name in {"lora", "rslora", "dora", "pissa", "loftq", "adalora", "sora", "vera"}
    return MethodChoices(rank=4, steps=20) if reads_rank else MethodChoices()


def test_a_masked_model_is_measured_with_its_adapter(bases: dict[str, Path], tmp_path: Path) -> None:
    base = loaded(bases["bert-masked"], "bert", "masked")
    model = METHODS["lora"].adapt(base, MethodChoices(rank=4), "masked")
    moved(model, by=0.05)
    model.save_pretrained(tmp_path / "run")
    letters().save_pretrained(tmp_path / "run")
    (tuned,) = tuned_of(tmp_path / "run")
    texts = TextSet("talk", ("a b c", "a"), "memory")
    with Shelf(LoadOptions(base=str(bases["bert-masked"]))).loaded(tuned) as found:
        assert found.kind == "masked"  # as the base's class says: PEFT has no name for it
        rows = {row.metric: row for row in text_rows(found, texts, TextOptions(), base=loaded_base(bases))}
    assert rows["kl_from_base"].value > 0
    assert rows["pseudo_cross_entropy"].n == 2


def test_a_tokenizer_of_another_model_is_refused(bases: dict[str, Path]) -> None:
    with Shelf(LoadOptions()).loaded(base_tuned(str(bases["llama-causal"]))) as found:
        with pytest.raises(DataError, match="and the model has 60 embeddings"):
            text_rows(found, TextSet("talk", ("The cat sat.",), "memory"), TextOptions())
        with pytest.raises(DataError, match="and the model has 60 embeddings"):
            completions_of(found, ["The cat sat."], (), GenerationOptions(new_tokens=2))


def letters() -> BertTokenizer:
    words = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]  # padded with 1, as the models are
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)})


def loaded_base(bases: dict[str, Path]) -> Any:
    return loaded(bases["bert-masked"], "bert", "masked").eval()
