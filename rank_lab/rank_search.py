"""Which rank to try next, so that the least that keeps a share is found with few evaluations."""

from collections.abc import Sequence

from rank_lab.behavioural import BehaviouralRank
from rank_lab.errors import RankLabError

__all__ = ["doubling_ranks", "next_rank"]


def doubling_ranks(bound: int) -> tuple[int, ...]:
    """Ranks that double from one, and the largest.

    Parameters
    ----------
    bound
        The largest rank of an update's matrices.

    Raises
    ------
    RankLabError
        If there is no rank to try.

    Examples
    --------
    >>> doubling_ranks(12)
    (1, 2, 4, 8, 12)
    """
    if bound < 1:
        raise RankLabError(f"an update of rank {bound}: expected one of rank 1 at least.")
    doubled = [1 << power for power in range(bound.bit_length()) if 1 << power < bound]
    return (*doubled, bound)


def next_rank(
    tried: Sequence[int], found: BehaviouralRank, *, precision: float = 0.0, ends: float | None = None
) -> int | None:
    """The rank to try next, by halving what is not known; None where the search is done.

    Parameters
    ----------
    tried
        All so far, in any order.
    found
        What they show.
    precision
        Of the rank, relative: 0 until the next smaller rank was tried.
    ends
        Of the ends of its interval, relative; None to leave them as they are.

    Notes
    -----
    Halving is right where the share rises with the rank. Where it does not, it ends at a rank that keeps the share
    while the next smaller does not, but smaller ones between two that were tried may keep it: see
    :attr:`~rank_lab.behavioural.BehaviouralRank.lasting`.

    Examples
    --------
    >>> next_rank([1, 8, 16], BehaviouralRank(0.9, 8, tried_below=1))
    4
    >>> next_rank([1, 7, 8, 16], BehaviouralRank(0.9, 8, tried_below=7)) is None
    True
    >>> next_rank([1, 7, 8, 16], BehaviouralRank(0.9, 8, 8, 16, tried_below=7), ends=0.25)
    12
    """
    if found.value is None:
        return None
    ordered = sorted(tried)
    wanted = [(found.value, precision)]
    if ends is not None and found.low is not None and found.high is not None:
        wanted += [(found.low, ends), (found.high, ends)]
    for rank, relative in wanted:
        middle = _middle(ordered, rank, relative)
        if middle is not None:
            return middle
    return None


def _middle(ordered: Sequence[int], rank: int, relative: float) -> int | None:
    """Halfway between the two that were tried around a rank; None where they are near enough."""
    above = next((each for each in ordered if each >= rank), None)
    below = max((each for each in ordered if each < rank), default=0)
    if above is None or above - below <= max(1.0, relative * above):
        return None
    return (above + below) // 2
