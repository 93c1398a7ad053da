"""Bands over seeds, on rows as a curve keeps them."""

from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t

from rank_lab.bands import GROUPS, QUANTITIES, bands
from rank_lab.curve import CurveRow
from rank_lab.errors import SchemaError


def rows(seeds: int, **changes: object) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {"model": "m", "task": "rte", "control": control, "stage": stage, "seed": seed, "threshold": 0.1 * stage}
        | {"memorization": generator.normal(95, 2), "generalization": generator.normal(90, 2)}
        | changes
        for control in ("sora", "svd")
        for stage in range(3)
        for seed in range(seeds)
    )


def test_mean_and_interval() -> None:
    table = rows(4)
    found = bands(table, ["memorization", "threshold"])
    assert len(found) == 2 * 3 * 2
    point = found[(found.control == "svd") & (found.stage == 2) & (found.quantity == "memorization")].iloc[0]
    values = table[(table.control == "svd") & (table.stage == 2)]["memorization"]
    low, high = t.interval(0.95, 3, values.mean(), values.std(ddof=1) / 2)
    assert point[["seeds", "mean", "low", "high"]].tolist() == pytest.approx([4, values.mean(), low, high])


def test_coverage() -> None:
    """With three seeds, as often as it says."""
    generator = np.random.default_rng(1)
    points = [
        {"model": "m", "task": "rte", "control": "sora", "stage": stage, "seed": seed, "memorization": value}
        for stage in range(1000)
        for seed, value in enumerate(generator.normal(90, 3, 3))
    ]
    found = bands(pd.DataFrame(points), ["memorization"])
    assert 0.93 <= ((found.low <= 90) & (found.high >= 90)).mean() <= 0.97


def test_one_seed_has_no_band_and_missing_values_are_not_seeds() -> None:
    alone = bands(rows(1))
    assert alone["mean"].notna().all()
    assert alone[["low", "high"]].isna().all(axis=None)
    table = rows(3)
    table["memorization"] = table["memorization"].astype(object)
    table.loc[table.seed == 2, "memorization"] = None
    table.loc[table.stage == 0, "memorization"] = None
    found = bands(table, ["memorization"]).set_index(["control", "stage"])
    assert found["seeds"].tolist() == [0, 2, 2] * 2
    assert np.isnan(found.loc[("sora", 0), "mean"])


def test_a_curve_has_these_columns() -> None:
    assert {*GROUPS, *QUANTITIES, "seed"} <= {field.name for field in fields(CurveRow)}


def test_bad_rows() -> None:
    with pytest.raises(SchemaError, match=r"no column 'memorisation'. Nearest: memorization"):
        bands(rows(2), ["memorisation"])
    with pytest.raises(SchemaError, match="model m, task rte, control sora, stage 0, seed 7 twice"):
        bands(rows(2, seed=7))
    assert bands(rows(2).iloc[:0]).empty
