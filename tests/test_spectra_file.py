"""Spectra one at a time are the spectra of the report, and a file that is none is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from rank_lab.errors import SchemaError
from rank_lab.spectra_file import SpectraFile
from tests.figure_studies import report, row

COUNT = 450  # three row groups of a report


@pytest.fixture
def spectra() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"layers.{i}.q_proj": np.sort(rng.uniform(size=1 + i % 7))[::-1] for i in range(COUNT)}


@pytest.fixture
def file(spectra: dict[str, np.ndarray], tmp_path: Path) -> Path:
    rows = [
        row(values, layer=number, step=step)
        for number, values in enumerate(spectra.values()) for step in (None, 10)
    ]  # fmt: skip
    rows.append(row(spectra["layers.0.q_proj"], step=10, delta="step"))
    return report(rows, spectra).save(tmp_path / "full.rank") / "spectra.parquet"


def test_every_spectrum_is_found_in_its_row_group(file: Path, spectra: dict[str, np.ndarray]) -> None:
    assert pq.ParquetFile(file).num_row_groups > 3
    stored = SpectraFile.open(file)
    assert len(stored.places) == 2 * COUNT + 1
    for module in list(spectra)[::37]:
        for step in (None, 10):
            np.testing.assert_array_equal(stored.values(module, step=step, delta="cumulative"), spectra[module])


def test_all_spectra_of_a_step(file: Path, spectra: dict[str, np.ndarray]) -> None:
    found = SpectraFile.open(file).all_values(step=10, delta="cumulative")
    assert list(found) == list(spectra)
    for module, values in spectra.items():
        np.testing.assert_array_equal(found[module], values)
    assert list(SpectraFile.open(file).all_values(step=10, delta="step")) == ["layers.0.q_proj"]
    assert SpectraFile.open(file).all_values(step=99, delta="cumulative") == {}


def test_a_spectrum_that_is_not_there_is_named(file: Path) -> None:
    stored = SpectraFile.open(file)
    with pytest.raises(SchemaError, match="no spectrum of 'nothing' at step 10"):
        stored.values("nothing", step=10, delta="cumulative")
    with pytest.raises(SchemaError, match="delta 'step'"):
        stored.values("layers.1.q_proj", step=10, delta="step")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_half_written_file_is_refused(file: Path, share: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SchemaError, match="cannot be read"):
        SpectraFile.open(file)


def test_a_file_that_is_damaged_afterwards_is_refused(file: Path) -> None:
    stored = SpectraFile.open(file)
    file.write_bytes(b"PAR1" + b"\0" * 2000 + b"PAR1")
    with pytest.raises(SchemaError, match="cannot be read"):
        stored.values("layers.1.q_proj", step=10, delta="cumulative")
    file.unlink()
    with pytest.raises(SchemaError, match="cannot be read"):
        stored.all_values(step=10, delta="cumulative")


def test_another_table_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "spectra.parquet"
    pd.DataFrame({"module": ["a"], "values": [[1.0]]}).to_parquet(other)
    with pytest.raises(SchemaError, match="lacks columns"):
        SpectraFile.open(other)
    with pytest.raises(SchemaError, match="cannot be read"):
        SpectraFile.open(tmp_path / "absent.parquet")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(SchemaError, match="cannot be read"):
        SpectraFile.open(tmp_path / "folder.parquet")


def test_columns_of_the_right_name_and_the_wrong_type_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "spectra.parquet"
    columns = {"run": ["a"], "step": [1], "delta": ["cumulative"], "module": ["m"], "values": ["no list"]}
    pd.DataFrame(columns).to_parquet(other)
    with pytest.raises(SchemaError, match="another type"):
        SpectraFile.open(other)


def test_empty_spectra_and_an_empty_report(tmp_path: Path) -> None:
    file = report([row([1.0]), row([0.0], layer=1)], {"layers.0.q_proj": [1.0], "layers.1.q_proj": []}).save(tmp_path)
    assert SpectraFile.open(file / "spectra.parquet").values("layers.1.q_proj", step=10, delta="cumulative").size == 0
    empty = report([]).save(tmp_path / "empty.rank")
    assert SpectraFile.open(empty / "spectra.parquet").places == {}
