"""The study of LoRA's ranks and matrices: it runs, counts what is there, and says what its tables say."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.kept_results import kept
from analyses.lora_rank_arms import FULL, NORMAL, QUICK, Arm
from analyses.lora_rank_choice import keep_tables, make_cells, parsed
from analyses.lora_rank_claims import claims
from analyses.lora_rank_report import tell
from analyses.lora_rank_subspaces import gaussian_phi, map_from
from rank_lab.subspace import phi_null


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = tmp_path_factory.mktemp("study")
    options = parsed(["--quick", "--seeds", "0"])
    options.study, options.out = study, study / "results"
    make_cells(options)
    keep_tables(options)
    tell(options.out, False)
    return Path(options.out)


def test_every_arm_is_run_at_the_rate_that_validation_chose(results: Path) -> None:
    tables = kept(results).tables
    runs, rates = tables["runs"], tables["rates"]
    assert {(row["matrices"], row["rank"]) for row in runs.to_dict("records")} == {
        (arm.matrices, arm.rank) for arm in QUICK.arms()
    }
    best = rates.sort_values("validation_loss").groupby("matrices")["learning_rate"].first().to_dict()
    assert all(row["learning_rate"] == best[row["matrices"]] for row in runs.to_dict("records"))
    swept = runs.merge(rates, on=["matrices", "rank", "learning_rate", "seed"], suffixes=("", "_swept"))
    assert len(swept) == len({*QUICK.swept()} & {*QUICK.arms()})
    assert (swept["loss"] == swept["loss_swept"]).all()  # one run serves the sweep and the comparison


def test_bytes_are_those_of_the_tensors(results: Path) -> None:
    memory = kept(results).tables["memory"].to_dict("records")
    layers, width, intermediate, vocabulary = 3, 16, 24, 1024
    sides = {"q": [2 * width], "q, v": 2 * [2 * width], "all": 4 * [2 * width] + 3 * [width + intermediate]}
    assert len(memory) == len(QUICK.arms())
    for row in memory:
        matrices, rank = row["matrices"], row["rank"]
        if matrices == FULL:
            own = 4 * width * width + 3 * width * intermediate + 2 * width
            trained, tensors = layers * own + width + vocabulary * width, 9 * layers + 2
        else:
            trained, tensors = layers * rank * sum(sides[matrices]), 2 * layers * len(sides[matrices])
        assert row["trained_parameters"] == trained
        assert row["gradient_bytes"] == 4 * trained
        assert row["state_bytes"] == 8 * trained + 4 * tensors  # AdamW counts the steps of each tensor
        assert row["weight_bytes"] == 4 * (row["trained_parameters"] + row["frozen_parameters"])


def test_a_step_is_timed_against_full_fine_tuning_of_the_same_round(results: Path) -> None:
    speed = kept(results).tables["speed"]
    assert speed.groupby("arm").size().to_dict() == dict.fromkeys((arm.name for arm in QUICK.timed()), QUICK.rounds)
    full = speed[speed["arm"] == "full"].set_index("round")
    assert (full["ratio"] == 1).all()
    for row in speed.to_dict("records"):
        assert row["ratio"] == pytest.approx(row["seconds"] / full.loc[row["round"], "seconds"], rel=1e-4)


def test_subspaces_stand_beside_their_nulls_and_the_page_is_told_from_tables_alone(results: Path) -> None:
    tables = kept(results).tables
    phi = tables["phi"]
    assert set(phi["side"]) == {"A", "right"}
    assert (phi["null"] == phi["i"] / 16).all()
    assert phi["phi"].between(0, 1).all()
    grid = map_from(tables["maps"][(tables["maps"]["pair"] == "ranks") & (tables["maps"]["kind"] == "q")])
    assert grid.shape == QUICK.compared
    text = (results / "README.md").read_text(encoding="utf-8")
    assert "one seed has no interval" in text
    assert " nan" not in text
    tell(results, False)
    assert (results / "README.md").read_text(encoding="utf-8") == text


def test_arms_of_one_budget_have_as_many_parameters_and_names_of_their_own() -> None:
    names = [arm.name for arm in NORMAL.arms()]
    assert len(names) == len(set(names))
    assert len({(matrices.count(",") + 1) * rank for matrices, rank in NORMAL.budget}) == 1
    assert {Arm(matrices, rank) for matrices, rank in NORMAL.budget} <= set(NORMAL.arms())
    for rank in (*NORMAL.compared, NORMAL.amplified):
        assert Arm("q, v", rank) in NORMAL.arms()
    assert len({len(NORMAL.rates(arm)) for arm in NORMAL.swept()}) == 1  # equal effort


def test_gaussian_matrices_share_what_the_null_says() -> None:
    grids = [map_from(pd.DataFrame(gaussian_phi(8, 64, 256, seed))) for seed in range(4)]
    assert grids[0].shape == (8, 64)
    for i, j in ((1, 64), (8, 64), (8, 8)):
        assert np.mean([grid[i - 1, j - 1] for grid in grids]) == pytest.approx(phi_null(i, j, 256), abs=0.04)


def planted() -> dict[str, pd.DataFrame]:
    """q, k, v, o at rank 2 is better than q at rank 8 by 0.1; rank does not matter; q's top direction is shared."""
    levels = {("q", 8): 2.1, ("v", 8): 2.0, ("q, k, v, o", 2): 2.0, ("q, v", 1): 2.0, ("q, v", 64): 2.0}
    runs = [
        {"matrices": matrices, "rank": rank, "seed": seed, "loss": level + 0.1 * seed + 0.01 * math.sin(rank + seed)}
        for (matrices, rank), level in levels.items() for seed in range(3)
    ]  # fmt: skip
    phi = [
        {"pair": pair, "side": "A", "kind": kind, "seed": seed, "other_seed": seed + (pair == "seeds"), "layer": layer,
         "i": i, "phi": (0.6 if kind == "q" else 0.1) + 0.01 * seed * (kind == "q"), "null": 0.1}
        for pair in ("ranks", "seeds") for kind in ("q", "v") for seed in range(3) for layer in range(2)
        for i in (1, 2, 4)
    ]  # fmt: skip
    amplification = [
        {"pair": "amplified", "kind": "q", "run": f"r{rank}-seed{seed}", "seed": seed, "layer": 0, "r": r,
         "amplification": value + 0.1 * seed, "projected_norm": 1.0, "random_projected_norm": 1.0 + 0.1 * (seed - 1)}
        for rank, value in ((4, 20.0), (64, 2.0)) for seed in range(3) for r in (4, 64)
        if r <= rank
    ]  # fmt: skip
    return {name: pd.DataFrame(rows) for name, rows in
            (("runs", runs), ("phi", phi), ("amplification", amplification))}  # fmt: skip


def test_claims_are_those_that_were_planted() -> None:
    settings = {"budget": [["q", 8], ["v", 8], ["q, k, v, o", 2]], "ranks": [1, 64], "grid": ["q, v"],
                "amplified": 4, "compared": [8, 64]}  # fmt: skip
    found = {each.measure: each.found for each in claims(planted(), settings)}
    assert found["loss, q at rank 8 less q, k, v, o at rank 2"].verdict == "seen"
    assert found["loss, v at rank 8 less q, k, v, o at rank 2"].verdict == "not seen: cannot be told apart"
    assert found["loss, q, v at rank 1 less rank 64"].verdict == "not seen: cannot be told apart"
    assert found["φ(1, 1) of q between ranks, less its null"].value == pytest.approx(0.51)
    assert found["φ(1, 1) of v between ranks, less its null"].value == pytest.approx(0.0)
    between = "φ(2, 2) between seeds less its null, q less v, over pairs of seeds, which share runs"
    assert found[between].value == pytest.approx(0.51)
    assert found["amplification of q, rank 4 less rank 64"].value == pytest.approx(18.0)
    random = "norm of W in the update's directions over that in random ones, q at rank 4, less 1"
    assert found[random].verdict == "not seen: cannot be told apart"
