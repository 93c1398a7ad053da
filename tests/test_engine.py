"""Work spread over processes: in order, to the bit, through killed workers, with errors passed on."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rank_lab import engine
from rank_lab.decomposition import spectrum_of
from rank_lab.engine import available_cores, run
from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.update import DenseUpdate, MemoryMatrix


def spectrum(seed: int) -> tuple[int, int, bytes]:
    """The process, its threads, and singular values to the bit; the later, the quicker."""
    update = DenseUpdate(MemoryMatrix(torch.randn(300 - 50 * seed, 150, generator=torch.Generator().manual_seed(seed))))
    return os.getpid(), torch.get_num_threads(), spectrum_of(update).values.tobytes()


def killed_once(marker: Path) -> tuple[int, str]:
    """Dies as if for lack of memory the first time that it is called with an absent marker."""
    if not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid(), marker.name


def killed(item: int) -> int:
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def refuses(item: int) -> int:
    if item == 2:
        raise NonFiniteError(f"update {item} holds NaN")
    return item


@pytest.fixture
def two_threads() -> Iterator[None]:
    """As a user's process has; the tests otherwise run on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_two_workers_give_the_bits_of_one_in_the_order_of_the_items(two_threads: None) -> None:
    seeds = list(range(5))
    finished: list[int] = []
    one, two = run(spectrum, seeds), run(spectrum, seeds, workers=2, done=finished.append)
    assert [bits for _, _, bits in one] == [bits for _, _, bits in two]
    assert sorted(finished) == seeds, "each reported once"
    assert {process for process, _, _ in one} == {os.getpid()}
    assert os.getpid() not in {process for process, _, _ in two}
    assert {threads for _, threads, _ in one + two} == {1}
    assert torch.get_num_threads() == 2, "as it was before"


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_passed_on_as_it_was_raised(workers: int, two_threads: None) -> None:
    with pytest.raises(NonFiniteError, match="update 2 holds NaN"):
        run(refuses, [0, 1, 2, 3], workers=workers)
    assert torch.get_num_threads() == 2, "as it was before"


def test_progress_is_reported_item_by_item() -> None:
    events: list[str] = []
    run(lambda item: events.append(f"work {item}"), ["a", "b"], done=lambda index: events.append(f"done {index}"))
    assert events == ["work a", "done 0", "work b", "done 1"]


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_to_do_is_done(workers: int) -> None:
    assert run(abs, [], workers=workers) == []


def test_what_a_killed_worker_left_is_tried_again(tmp_path: Path) -> None:
    markers = [tmp_path / name for name in ("a", "b", "c", "d")]
    for marker in markers[1:]:
        marker.touch()
    finished: list[int] = []
    results = run(killed_once, markers, workers=2, done=finished.append)
    assert [name for _, name in results] == ["a", "b", "c", "d"]
    assert sorted(finished) == [0, 1, 2, 3]
    assert os.getpid() not in {process for process, _ in results}


def test_workers_killed_again_and_again_end_in_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_POOL_ATTEMPTS", 2)
    with pytest.raises(RankLabError, match=r"killed 2 times with [1-4] updates left.*--workers 1"):
        run(killed, [0, 1, 2, 3], workers=2)


def test_a_single_item_needs_no_process() -> None:
    assert run(lambda _: os.getpid(), [0], workers=4) == [os.getpid()]


def test_cores_are_those_that_this_process_may_use() -> None:
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
