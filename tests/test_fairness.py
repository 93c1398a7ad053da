"""Every rule of fairness fires on runs that break it and not on runs that do not; leaks are counted on real data."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rank_lab.contamination import contamination
from rank_lab.errors import DataError, SchemaError
from rank_lab.fairness import Finding, fairness, render_findings
from rank_lab.fairness_command import fairness_and_print
from rank_lab.training_record import TrainingRecord
from tests.training_records import LORA, record


def runs(method: str, rates: tuple[float, ...] = (1e-5, 1e-4, 1e-3), **others: Any) -> list[TrainingRecord]:
    return [record(method, rate, seed, **others) for rate in rates for seed in (0, 1)]


def fair() -> list[TrainingRecord]:
    return runs("full") + runs("lora", (1e-4, 1e-3, 1e-2))


def chosen(**choices: Any) -> list[TrainingRecord]:
    return runs("full") + runs("lora", (1e-4, 1e-3, 1e-2), choices=LORA | choices)


def test_runs_that_differ_in_nothing_but_the_method_are_found_fair() -> None:
    assert fairness(fair(), best_rates={"full": 1e-4, "lora": 1e-3}) == ()
    assert render_findings(()) == "No setting was found that would make the comparison unfair."


def other_for_lora(**changes: Any) -> list[TrainingRecord]:
    return [replace(each, **changes) if each.method == "lora" else each for each in fair()]


@pytest.mark.parametrize(
    ("rule", "records", "words"),
    [
        ("rate not swept", runs("full") + runs("lora", (1e-4, 1e-2)), "lora at 0.0001, 0.01 only"),
        ("same rate", runs("full") + runs("lora"), "0.001, is not above that of full fine-tuning, 0.001"),
        (
            "alpha too small",
            chosen(rank=256, alpha=32.0),
            "alpha 32 at rank 256 scales the update by alpha / r = 0.125",
        ),
        ("alpha fixed", fair() + chosen(rank=32, alpha=32.0)[6:], "alpha is 32 at ranks 16, 32"),
        ("two scalings", fair() + runs("rslora", (1e-4, 1e-3, 1e-2)), "rslora scales by alpha / sqrt(r), lora by"),
        ("MLP left out", chosen(targets="attention"), "targets attention:"),
        ("MLP left out", chosen(targets="q_proj, v_proj"), "targets q_proj, v_proj:"),
        ("gate_proj left out", chosen(targets="q_proj,up_proj,down_proj"), "without gate_proj"),
        ("embeddings left out", chosen(embeddings=False), "6 of 6 runs"),
        ("embeddings left out", chosen(head=False), "6 of 6 runs"),
        ("unequal steps", other_for_lora(steps=1000), "full 500; lora 1000; what is learned and forgotten grows"),
        ("unequal batch size", other_for_lora(batch_size=16), "full 8; lora 16; large batches hurt LoRA more"),
        ("unequal data", other_for_lora(data={"train": "other"}), "full, lora were not trained on the same rows"),
        ("one seed", [each for each in fair() if each.method == "full" or not each.seed], "lora with seed 0 only"),
        ("unequal optimizer", other_for_lora(optimizer="lion_32bit"), "full adamw_torch; lora lion_32bit"),
        ("unequal precision", other_for_lora(precision="bfloat16"), "full float32; lora bfloat16"),
        ("unequal weight decay", other_for_lora(weight_decay=0.1), "full 0; lora 0.1"),
        ("dropout", chosen(dropout=0.05), "dropout 0.05"),
    ],
)
def test_each_rule_fires_alone_on_what_breaks_it(rule: str, records: list[TrainingRecord], words: str) -> None:
    (found,) = fairness(records)
    assert found.rule == rule
    assert words in found.text
    assert found.source.startswith(("arXiv:2", "LoRA Without Regret"))
    assert render_findings([found]) == f"{rule}: {found.text} [{found.source}]"


def test_a_rule_is_one_line_for_all_methods_that_it_concerns() -> None:
    alone = [record(method, rate, 0) for method, rate in (("full", 1e-5), ("lora", 1e-4), ("dora", 2e-4))]
    swept, seeded = (found for found in fairness(alone) if found.rule in ("rate not swept", "one seed"))
    assert "full at 1e-05; lora at 0.0001; dora at 0.0002 only" in swept.text
    assert "full with seed 0; lora with seed 0; dora with seed 0 only" in seeded.text
    two = chosen(rank=256, alpha=32.0, targets="attention") + chosen(rank=128, alpha=64.0, targets="q_proj")
    rules = [found.rule for found in fairness(two)]
    assert len(rules) == len(set(rules))


def test_steps_and_batch_size_have_their_own_reasons() -> None:
    steps, size = fairness(other_for_lora(steps=1000, batch_size=16))
    assert (steps.rule, size.rule) == ("unequal steps", "unequal batch size")
    assert "batch" not in steps.text
    assert steps.source != size.source


@pytest.mark.parametrize(
    "choices",
    [
        {"rank": 256, "alpha": 512.0}, {"rank": 256, "alpha": None}, {"rank": 8, "alpha": 8.0},
        {"targets": "mlp"}, {"targets": "q_proj,gate_proj,up_proj,down_proj"}, {"targets": "c_attn,c_fc"},
    ],
)  # fmt: skip
def test_no_rule_fires_on_what_is_as_published(choices: Mapping[str, Any]) -> None:
    assert fairness(chosen(**choices)) == ()


def test_a_larger_gap_of_rates_is_named_for_short_trainings() -> None:
    short = [replace(each, steps=50) for each in runs("full") + runs("lora")]
    assert "about 15 times" in fairness(short)[0].text
    assert "about 10 times" in fairness(runs("full") + runs("lora"))[0].text


@pytest.mark.parametrize(("best", "end"), [(1e-5, "smallest"), (1e-3, "largest")])
def test_a_best_rate_at_the_edge_of_the_sweep_is_found(best: float, end: str) -> None:
    (found,) = fairness(fair(), best_rates={"full": best, "lora": 1e-3})
    assert found.rule == "best at the edge"
    assert f"is the {end} that was tried" in found.text


@pytest.mark.parametrize(
    ("records", "best", "words"),
    [
        ([], None, "no record of a training to compare"),
        ([record(), record(base="another")], None, r"differ in base \(another, model\)"),
        ([record(), record(kind="masked")], None, r"differ in kind \(causal, masked\)"),
        ([record()], {"full": 1.0}, "best rate 1 of full: trained were 1e-05; name one"),
        ([record()], {"lora": 1.0}, "best rate 1 of lora: trained were none"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    records: list[TrainingRecord], best: dict[str, float] | None, words: str
) -> None:
    with pytest.raises(DataError, match=words):
        fairness(records, best_rates=best)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rate": "fast"}, "learning_rate is 'fast', expected a finite number"),
        ({"learning_rate": True}, "learning_rate is True"),
        ({"steps": 1.5}, "steps is 1.5, expected a whole number"),
        ({"method": "a\x1b[2J"}, "method is .*, expected a name"),
        ({"choices": [1]}, r"choices is \[1\], expected an object"),
        ({"base": None}, "base is None, expected a text"),
    ],
)
def test_records_that_are_none(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    file = record().save(tmp_path)
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SchemaError, match=words) as found:
        TrainingRecord.load(tmp_path)
    assert str(found.value).isprintable()


def test_a_folder_without_a_record_says_so(tmp_path: Path) -> None:
    with pytest.raises(SchemaError) as found:
        TrainingRecord.load(tmp_path)
    assert str(found.value).startswith(f"{tmp_path}: has no training.json, which 'rank-lab finetune' leaves")
    assert "Errno" not in str(found.value)


@pytest.mark.parametrize(("option", "lacking"), [("--train-column", "train"), ("--test-column", "test")])
def test_a_column_that_is_not_there_names_its_option(tmp_path: Path, option: str, lacking: str) -> None:
    record().save(tmp_path)
    for name in ("train", "test"):
        row = {"said" if name == lacking else "text": "one"}
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=rf"has no column 'text'; name the texts' by {option}\. Nearest: said"):
        fairness_and_print(
            [tmp_path], tmp_path / "train", tmp_path / "test", train_column="text", test_column="text"
        )  # fmt: skip


@pytest.mark.parametrize("choices", [{"rank": 8, "alpha": "large"}, {"dropout": "much"}, {"rank": "8", "targets": 3}])
def test_choices_that_no_rule_can_read_are_passed_over(choices: dict[str, Any]) -> None:
    fairness(runs("full") + runs("lora", (1e-4, 1e-3, 1e-2), choices=choices))


def questions(file: Path) -> list[str]:
    return [json.loads(line)["question"] for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("test", "same", "tests"),
    [("addsub", 327, 395), ("multiarith", 490, 600), ("singleeq", 436, 508), ("svamp", 0, 1000)],
)
def test_test_questions_in_mawps(shared_data: Path, test: str, same: int, tests: int) -> None:
    train = questions(shared_data / "mawps" / "train.jsonl")
    found = contamination(train, questions(shared_data / test / "test.jsonl"))
    assert (len(found.same), found.tests) == (same, tests)
    assert len(found.overlapping) >= 0.9 * same
    assert [each.rule for each in found.findings] == (["test in training data"] if found.overlapping else [])
    assert not same or f"of {tests} test texts: {same} word for word" in found.findings[0].text


def test_test_questions_in_arc_itself(shared_data: Path) -> None:
    sets = {
        name: questions(shared_data / "arc_challenge" / f"{name}.jsonl") for name in ("train", "validation", "test")
    }
    assert [len(contamination(sets["train"], sets[name]).same) for name in ("test", "validation")] == [7, 1]


def test_a_run_of_words_is_found_inside_another_text() -> None:
    words = [f"w{number}" for number in range(20)]
    tests = [" ".join(words[:13]), " ".join(words[:12]), "entirely different words stand here in this one text"]
    found = contamination([f"before, {' '.join(words)}; after"], tests)
    assert (found.same, found.overlapping, found.too_short) == ((), (0,), 2)
    assert contamination(["W0, w1 -- W2"], ["w0w1w2"]).same == (0,)
    assert contamination(["one text"], ["another"]).findings == ()


def test_findings_render_a_line_each() -> None:
    lines = render_findings([Finding("a", "b.", "c"), Finding("d", "e.", "f")]).splitlines()
    assert lines == ["a: b. [c]", "d: e. [f]"]


@pytest.mark.parametrize(
    ("tests", "ngram", "words"),
    [
        ([], 13, "0 test texts"),
        (["a"], 0, "runs of 0 words"),
        (["a", "?!"], 13, r"test text 1 holds no letter or digit"),
    ],
)
def test_texts_that_cannot_be_compared_are_refused(tests: list[str], ngram: int, words: str) -> None:
    with pytest.raises(DataError, match=words):
        contamination(["a"], tests, ngram=ngram)
