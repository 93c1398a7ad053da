"""The study of ranks along training: it runs, its claims are those of its tables, its nulls those of the shapes."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from analyses.kept_results import kept
from analyses.paired_seeds import difference, interval_words
from analyses.published_ranks import noise_share_table, published_table, white_noise_table
from analyses.rank_over_training import keep_tables, make_cells, parsed
from analyses.rank_over_training_claims import claims, of_optimizers
from analyses.rank_over_training_report import tell
from analyses.stored_formats import half_precision_base, stored
from analyses.study_cells import Cell
from analyses.swept_rates import chosen_rates, finish
from rank_lab.errors import RankLabError


@pytest.mark.filterwarnings("ignore:.*torch_dtype.*:FutureWarning")
def test_the_study_runs_is_gone_on_with_and_is_told_from_its_tables_alone(tmp_path: Path) -> None:
    options = parsed(["--quick", "--seeds", "0"])
    options.study, options.out = tmp_path, tmp_path / "results"
    make_cells(options)
    cells = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    assert len(cells) == 3 + 2  # rates that were tried, and a run at the chosen one of each optimizer
    make_cells(options)
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")} == cells
    keep_tables(options)
    tell(options.out, False)
    text = (options.out / "README.md").read_text(encoding="utf-8")
    assert "not seen: one seed has no interval" in text
    assert "nan" not in text
    tables = kept(options.out).tables
    places = tables["places"]
    rounding = places.set_index(["optimizer", "format", "delta", "step", "place"])["rounding_energy"]
    first = ("cumulative", 1, "attention")
    assert rounding["adamw", "float32", *first] < 1e-6 < rounding["adamw", "bfloat16", *first]
    assert set(places["format"]) == {"float32", "bfloat16", "bfloat16-grid"}
    assert set(places.loc[places["delta"] == "step", "format"]) == {"float32"}
    assert (places["matrices"] == places["place"].map({"attention": 12, "MLP": 9})).all()
    assert tables["losses"]["step"].max() == 2
    assert set(tables["losses"]["optimizer"]) == {"adamw", "lion"}
    (options.out / "README.md").unlink()
    for folder in ("cells", "runs", "data"):
        (tmp_path / folder).rename(tmp_path / f"gone-{folder}")
    tell(options.out, False)
    assert (options.out / "README.md").read_text(encoding="utf-8") == text


def test_white_noise_has_the_ranks_that_its_law_gives() -> None:
    noise = white_noise_table().set_index("matrices")["null"].round().astype(int)
    assert noise.tolist() == [2088, 2916]
    spans = published_table().set_index(["lora_rank", "times"])
    assert spans.loc[(16, 100), "over_null_attention"] == pytest.approx(1600 / 2088, rel=1e-3)
    assert spans["possible"].tolist() == [True, True, True, False, True, False]
    shares = noise_share_table()
    for _, own in shares.groupby("matrices"):
        assert own["energy_rank_90"].is_monotonic_increasing
        assert own["energy_rank_90"].iloc[0] == 16  # a twentieth of noise: 16 directions hold 95 %
    torch.manual_seed(0)  # the same in a matrix that is small, of noise and eight directions of equal size
    size, share = 256, 0.3
    left, right = (torch.linalg.qr(torch.randn(size, 8, dtype=torch.float64)).Q for _ in range(2))
    noise_part = torch.randn(size, size, dtype=torch.float64) * (share / size**2) ** 0.5
    energy = torch.linalg.svdvals(left @ right.T * ((1 - share) / 8) ** 0.5 + noise_part).square()
    counted = int((energy.cumsum(0) < 0.9 * energy.sum()).sum()) + 1
    expected = int(shares.set_index(["matrices", "noise_share"])["energy_rank_90"]["attention (q, k, v, o)", share])
    assert (counted - 8) / size == pytest.approx((expected - 16) / 4096, abs=0.03)


def places_of(values: dict[tuple[str, int, int, str], float]) -> pd.DataFrame:
    """Rows of the table of places: by optimizer, seed, step and place, k90 over its null."""
    rows = [
        {"optimizer": optimizer, "seed": seed, "step": step, "format": form, "delta": "cumulative", "place": place,
         "raw_over_null": value, "raw": 100 * value * (2 if place == "MLP" else 1)}
        for (optimizer, seed, step, place), value in values.items() for form in ("float32", "bfloat16")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_claims_are_those_that_were_planted() -> None:
    values = {
        (optimizer, seed, step, place): level + 0.2 * (step == 8) + 0.01 * seed * (1 + (step == 8))
        for optimizer, higher in (("lion", 0.5), ("sgd", 0.0)) for seed in range(3) for step in (1, 8)
        for place, level in (("attention", 0.3 + higher), ("MLP", 0.2 + higher))
    }  # fmt: skip
    layers = pd.DataFrame(
        [
            {"optimizer": optimizer, "seed": seed, "step": 8, "format": "float32", "layer": layer, "place": "MLP",
             "raw_over_null": 0.5 + 0.01 * seed + (sign * 0.1 if layer in {1, 2} else 0.0)}
            for optimizer, sign in (("lion", 1), ("sgd", -1)) for seed in range(3) for layer in range(4)
        ]
    )  # fmt: skip
    losses = pd.DataFrame({"optimizer": ["lion", "sgd"]})
    tables = {"places": places_of(values), "layers": layers, "losses": losses}
    found = {(each.optimizer, each.measure): each.found for each in claims(tables)}
    growth = found["lion", "k90 / null, last less first, in float32"]
    assert growth.verdict == "seen" and growth.value == pytest.approx(0.21)  # noqa: PT018
    assert found["lion", "k90, MLP less attention, last step"].verdict == "seen"
    assert found["lion", "k90 / null, MLP less attention, last step"].verdict == "not seen: the opposite"
    inner = "k90 / null, inner layers less first and last, last step"
    assert (found["lion", inner].verdict, found["sgd", inner].verdict) == ("seen", "not seen: the opposite")
    (first, last) = of_optimizers(tables)
    assert first.found.value == pytest.approx(0.5) and last.found.verdict == "seen"  # noqa: PT018


def test_differences_are_paired_by_seed() -> None:
    noisy, offset = {0: 1.0, 1: 5.0, 2: 9.0}, {0: 0.9, 1: 4.89, 2: 8.9, 3: 0.0}
    found = difference(noisy, offset)
    assert (found.seeds, found.verdict) == (3, "seen")
    assert difference(list(noisy.values())).verdict == "not seen: cannot be told apart"
    assert interval_words(difference([float("nan")])) == "-"


def test_rates_are_chosen_by_validation_and_those_at_an_end_are_told() -> None:
    swept = pd.DataFrame(
        {
            "arm": ["a"] * 3 + ["b"] * 3 + ["c"],
            "learning_rate": [1.0, 2.0, 4.0, 1.0, 2.0, 4.0, 1.0],
            "validation_loss": [3.0, 2.0, 2.5, 3.0, 2.9, float("nan"), 1.0],
        }
    )
    found = chosen_rates(swept, ["arm"])
    assert found["learning_rate"].tolist() == [2.0, 2.0, 1.0]
    assert found["at_an_end"].tolist() == [False, False, False]
    swept.loc[4, "validation_loss"] = 3.1
    again = chosen_rates(swept, ["arm"])
    assert again["learning_rate"].tolist() == [2.0, 1.0, 1.0]
    assert again["at_an_end"].tolist() == [False, True, False]


def test_what_follows_waits_for_cells_that_others_hold(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    cells = [Cell("one", {}), Cell("two", {})]
    finish(tmp_path, cells, lambda cell, scratch: [{"name": cell.name}])
    assert sorted(file.stem for file in (tmp_path / "cells").glob("*.json")) == ["one", "two"]


def test_copies_hold_what_files_of_that_type_would(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    weight = 0.02 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    save_file({"w": weight}, tmp_path / "base" / "model.safetensors")
    base = half_precision_base(tmp_path / "base", tmp_path / "start")
    start = load_file(base / "model.safetensors")["w"]
    assert torch.equal(start, weight.half().float())
    checkpoint = tmp_path / "run" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    change = torch.full((64, 64), 1e-6)
    save_file({"w": start + change}, checkpoint / "model.safetensors")
    assert stored(tmp_path / "run", base, "float32", tmp_path) == (tmp_path / "run", base)
    read = {}
    for form in ("bfloat16", "bfloat16-grid"):
        run, own = stored(tmp_path / "run", base, form, tmp_path / "copies")
        read[form] = tuple(load_file(each / "model.safetensors")["w"] for each in (run / "checkpoint-1", own))
    off, on = read["bfloat16"], read["bfloat16-grid"]
    assert (off[0].dtype, off[1].dtype, on[1].dtype) == (torch.bfloat16, torch.float16, torch.bfloat16)
    assert torch.equal(off[0], (start + change).bfloat16())
    assert torch.equal(off[1].float(), start)
    assert torch.equal(on[1], start.bfloat16())
    assert float((on[0] == on[1]).double().mean()) > 0.95  # a change this small is swallowed on the grid
    assert float((off[0].float() == off[1].float()).double().mean()) < 0.3  # and drowned off it


def test_a_base_that_is_not_there_is_named_with_what_makes_it(tmp_path: Path) -> None:
    options = parsed(["--base", str(tmp_path / "no-base"), "--seeds", "0"])
    options.study = tmp_path / "study"
    with pytest.raises(RankLabError, match=r"no model in one file .* python -m analyses.pretrain_study_base"):
        make_cells(options)
