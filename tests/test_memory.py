"""The memory of an analysis is bounded by the widest matrix, not by the checkpoint.

Measured on a pair of 213 MB: a peak of 38 to 48 MB against a bound of 56 MB, three Gram matrices of
1280 x 1280 and one tile; writing the report takes about 30 MB whatever was measured. The same
analysis without tiles takes about 210 MB.
"""

import sys
from pathlib import Path

import pytest

from analyses.memory import QUICK, Llama, bound, footprint, write_pair

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory of another process is read from /proc")

WITHOUT_TILES = "from rank_lab import update\nupdate.TILE_LENGTH = update.TILE_BYTES = 1 << 62"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"), QUICK)


def test_the_checkpoint_is_several_times_larger_than_the_bound() -> None:
    assert 2 * QUICK.bytes > 3.5 * bound(QUICK.hidden)


@pytest.mark.parametrize("workers", [1, 2])
def test_memory_stays_below_three_gram_matrices_and_a_tile(pair: tuple[Path, Path], workers: int) -> None:
    found = footprint(*pair, workers=workers)
    matrices = sum(len(shape) == 2 for _, shape in QUICK.tensors())
    vectors = sum(len(shape) == 1 for _, shape in QUICK.tensors())
    assert found.statuses == {"analysed": matrices, "vector": vectors}
    assert found.samples > 20, "too few samples to have seen a peak"
    assert found.peak <= bound(QUICK.hidden)
    assert found.main_peak <= bound(QUICK.hidden)
    # A Gram matrix and its copy in LAPACK cannot be missed.
    assert found.peak > 2 * 8 * QUICK.hidden**2, "the sampling saw less than is certainly there"


def test_the_measurement_sees_what_breaks_the_bound(tmp_path: Path) -> None:
    """The embedding and the head alone, read whole instead of in tiles."""
    few = Llama(QUICK.hidden, QUICK.intermediate, QUICK.vocabulary, layers=0)
    found = footprint(*write_pair(tmp_path, few), workers=1, prelude=WITHOUT_TILES)
    assert found.peak > 2 * bound(QUICK.hidden)
