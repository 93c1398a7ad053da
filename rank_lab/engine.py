"""Map a function over items: in this process, or in single-threaded worker processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

import torch

from rank_lab.errors import RankLabError

__all__ = ["Progress", "available_cores", "run", "run_largest_first"]

Item = TypeVar("Item")
Result = TypeVar("Result")

Progress = Callable[[float, float, int], None]
"""Called with work done, work in all (in multiply-adds) and the index of the item that was finished."""

_POOL_ATTEMPTS = 3

# Below this, starting worker processes takes longer than the work.
_WORTH_A_WORKER = 5e10


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int = 1,
    done: Callable[[int], None] | None = None,
) -> list[Result]:
    """Apply ``function`` to every item, in order of the items whatever the order of work.

    Linear algebra runs on one thread everywhere: two threads that share busy
    cores are slower than one, and one thread gives the same bits on one worker
    and on many.

    Parameters
    ----------
    function
        Picklable if ``workers`` is more than one.
    items
        Picklable likewise.
    workers
        Number of processes; 1 stays in this one.
    done
        Called with the index of each finished item.

    Raises
    ------
    RankLabError
        If workers are killed (usually for memory) again and again.

    Examples
    --------
    >>> run(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    if workers <= 1 or len(items) <= 1:
        return _serial(function, items, done)
    results: dict[int, Result] = {}
    for _ in range(_POOL_ATTEMPTS):
        missing = [index for index in range(len(items)) if index not in results]
        if not missing:
            break
        try:
            for index, result in _pooled(function, items, missing, workers):
                results[index] = result
                if done is not None:
                    done(index)
        except BrokenProcessPool:
            continue  # a worker was killed: what it left undone is tried again
    if len(results) < len(items):
        raise RankLabError(
            f"worker processes were killed {_POOL_ATTEMPTS} times with {len(items) - len(results)} updates left,"
            " usually for lack of memory; run again with --workers 1: finished updates are kept."
        )
    return [results[index] for index in range(len(items))]


def run_largest_first(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    work: Sequence[float],
    *,
    workers: int = 0,
    progress: Progress | None = None,
) -> list[Result]:
    """:func:`run` by falling size, which keeps all workers busy to the end; results in order of the items.

    Parameters
    ----------
    function, items
        As there.
    work
        Multiply-adds of each item.
    workers
        Processes; 0 for as many as cores where that pays.
    progress
        Called as items are finished.

    Examples
    --------
    >>> run_largest_first(abs, [-1, 2, -3], [1.0, 2.0, 3.0])
    [1, 2, 3]
    """
    total, finished = sum(work), 0.0
    order = sorted(range(len(items)), key=lambda index: -work[index])

    def done(position: int) -> None:
        nonlocal finished
        finished += work[order[position]]
        if progress is not None:
            progress(finished, total, order[position])

    count = workers if workers > 0 else max(1, min(available_cores(), int(total / _WORTH_A_WORKER)))
    found = dict(zip(order, run(function, [items[index] for index in order], workers=count, done=done), strict=True))
    return [found[index] for index in range(len(items))]


def _serial(
    function: Callable[[Item], Result], items: Sequence[Item], done: Callable[[int], None] | None
) -> list[Result]:
    results = []
    with _one_thread():
        for index, item in enumerate(items):
            results.append(function(item))
            if done is not None:
                done(index)
    return results


def _pooled(
    function: Callable[[Item], Result], items: Sequence[Item], missing: Sequence[int], workers: int
) -> Iterator[tuple[int, Result]]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(missing)), mp_context=context, initializer=_start_worker)
    try:
        futures = {pool.submit(function, items[index]): index for index in missing}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    torch.set_num_threads(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
