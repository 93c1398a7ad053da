"""The study of published numbers draws what its table has, and reads PEFT's results beside it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analyses.adapter_placement import choices_of, climbed
from analyses.adapter_placement_report import page as placement_page
from analyses.adapter_placement_report import tables as placement_tables
from analyses.kept_results import Kept
from analyses.published_picture import draw
from analyses.published_points import front_points, page, tables
from rank_lab.background import Background, published_points
from rank_lab.errors import DataError
from rank_lab.figures.background_points import background_words
from rank_lab.published import published_scores, published_values
from rank_lab.score_row import ScoreRow

ABOUT: dict[str, Any] = {
    "command": "python -m analyses.published_points", "seconds": 60.0, "source": "abc",
    "machine": {"versions": {}, "processor": "p", "cores": 2, "date": "d"},
}  # fmt: skip


def peft(run: str, parameters: int, accuracy: float, risen: float | None) -> list[ScoreRow]:
    rows = [
        ScoreRow(run, "lora", 9, "gsm8k", "accuracy", accuracy, source=f"results/{run}.json"),
        ScoreRow(run, "lora", 9, "cost", "trainable_parameters", parameters, higher_is_better=False),
    ]
    if risen is not None:
        rows.append(ScoreRow(run, "lora", 9, "wikipedia", "loss_increase", risen, higher_is_better=False))
    return rows


def test_the_front_of_learns_less_and_forgets_less() -> None:
    """By eye from Tables S5 and S6: three points of LoRA, none of full fine-tuning."""
    points = front_points(published_values())
    assert points.groupby("training").size().to_dict() == {
        "code CPT": 32, "math CPT": 32, "code IFT": 20, "math IFT": 20,
    }  # fmt: skip
    front = points[(points["training"] == "code IFT") & points["on_front"]].sort_values("x")
    assert front[["rank", "amount", "x", "y"]].values.tolist() == [
        [256, 2, 0.385, 0.659], [64, 4, 0.417, 0.632], [256, 4, 0.498, 0.631],
    ]  # fmt: skip


def test_page_and_pictures_come_from_the_tables_alone() -> None:
    rows = [*peft("a", 4096, 0.25, 0.1), *peft("b", 8192, 0.5, None)]
    kept = tables(published_values(), published_scores(rows, "huggingface/peft", "MetaMathQA"))
    assert kept["peft"].iloc[0].tolist() == ["MetaMathQA, a", "lora", 4096.0, 0.25, 0.1]
    assert kept["peft"]["loss_increase"].isna().tolist() == [False, True]
    figures = draw(kept)
    assert [*figures] == ["learning_forgetting", "adapters", "budgets", "peft"]
    drawn = sum(len(each.x) for each in figures["learning_forgetting"].data if each.mode == "lines+markers")
    assert drawn == 2 * 32 + 2 * 20
    assert sum(len(each.x) for each in figures["budgets"].data) == 14
    assert sum(len(each.x) for each in figures["adapters"].data) == 2 * 16
    text = page(Kept(Path(), ABOUT, kept))
    assert "seen in an article on the paper, not in the paper" in text
    assert "| code IFT | 20 | LoRA r 64: 1, LoRA r 256: 2 | 0.498 (LoRA r 256) |" in text
    assert "2 runs, Llama-3.2-3B" in text
    assert "Computing took" not in text


def test_peft_results_as_background_points() -> None:
    values = published_scores(
        [*peft("a", 4096, 0.25, 0.1), *peft("b", 8192, 0.5, None)], "huggingface/peft", "MetaMathQA"
    )
    points = published_points(values, "parameters", ("gsm8k", "accuracy"))
    assert points[["x", "y"]].values.tolist() == [[4096.0, 0.25], [8192.0, 0.5]]
    assert "published, huggingface/peft (a.json, b.json)" in background_words(Background("p", "gsm8k accuracy", points))
    assert len(published_points(values, ("wikipedia", "loss_increase"), ("gsm8k", "accuracy"))) == 1
    with pytest.raises(DataError, match="no score was read"):
        published_scores([], "huggingface/peft", "MetaMathQA")


def runs(losses: dict[tuple[str, str, int], float]) -> pd.DataFrame:
    """Three seeds at a rate of 3e-3 and one at another; seeds move all points alike."""
    rows: list[dict[str, Any]] = [{"method": "base", "choice_loss": 4.0, "report_loss": 4.0, "chosen": True}]
    for (method, place, size), loss in losses.items():
        for rate, seed in ((1e-3, 0), (3e-3, 0), (1e-2, 0), (3e-3, 1), (3e-3, 2)):
            chosen = rate == 3e-3
            value = loss + 0.5 * seed + (0 if chosen else 1) + 0.001 * (seed == 2) * size
            rows.append(
                {
                    "method": method, "place": place, "size": size, "rate": rate, "seed": seed, "chosen": chosen,
                    "parameters": size * (100 if place == "both" else 50), "choice_loss": value, "report_loss": value,
                    "train_loss": value,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_placement_compares_in_pairs_of_seeds() -> None:
    """Seeds are 0.5 apart, differences of 0.1 are told apart all the same; of nothing, nothing is told."""
    losses = {
        ("lora", "attention", 4): 3.3, ("lora", "attention", 16): 3.3,
        ("lora", "mlp", 4): 3.1, ("lora", "mlp", 16): 3.1,
        ("lora", "both", 4): 3.0, ("lora", "both", 16): 3.0, ("series", "both", 4): 3.2, ("series", "both", 16): 3.2,
    }  # fmt: skip
    found = placement_tables(runs(losses))
    points = found["points"].set_index(["method", "place", "size"])
    assert points.loc[("lora", "both", 4), "loss"] == pytest.approx(3.5 + 0.004 / 3)
    assert not points["rate_at_an_end"].any()
    assert set(points["rates_tried"]) == {3}
    told = found["comparisons"].set_index(["question", "first", "second"])
    row = told.loc[("place", "LoRA, attention", "LoRA, MLP")]
    assert (row["difference"], row["verdict"]) == (pytest.approx(0.2), "second lower")
    assert told.loc[("size", "LoRA, both, 16", "LoRA, both, 4"), "verdict"] == "cannot be told apart"
    best = told.loc["type, each at its best"]
    assert best.index.tolist() == [("LoRA, both, 4", "series, both, 4")]
    assert best["verdict"].tolist() == ["first lower"]
    text = placement_page(Kept(Path(), ABOUT | {"settings": {
        "base": "b", "steps": 3, "batch": 2, "context": 8, "seeds": [0, 1, 2], "rates": [1e-3, 3e-3, 1e-2], "pieces": 4,
        "sizes": [4, 16],
    }}, found))  # fmt: skip
    assert "better than in attention alone" in text
    assert "**seen**: -0.200" in text
    assert "LoRA: both" in text  # below both other places
    assert "not testable at this size" in text
    assert "**not run**" in text  # LLM-Adapters' own parallel is not among these


def test_a_ladder_is_climbed_only_as_far_as_it_falls() -> None:
    asked: list[int] = []

    def loss_at(rung: int) -> float:
        asked.append(rung)
        return [9.0, 8.0, 7.0, 6.0, 5.0, 6.0, 1.0][rung]

    assert climbed(loss_at, 7) == 4
    assert asked == [2, 3, 4, 5]
    assert climbed([1.0, 2.0, 3.0].__getitem__, 3) == 0  # its end: nothing further to try
    nan = float("nan")
    assert climbed([4.0, 3.0, nan, nan, 1.0].__getitem__, 5) == 1


def test_places_in_the_words_of_each_method() -> None:
    assert choices_of("parallel_linear", "mlp", 8).targets == "mlp"
    assert choices_of("parallel", "mlp", 8).place == "mlp"
    assert (choices_of("lora", "attention", 8).rank, choices_of("lora", "both", 8).targets) == (8, "all")
