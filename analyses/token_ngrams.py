"""Baselines of a language model on the same tokens: interpolated Kneser-Ney n-grams, and a compressor."""

import lzma
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ngrams", "compressed_bits"]

_Ints = NDArray[np.int64]
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class _Order:
    """Counts of the n-grams of one length, each a number in base ``vocabulary``, ascending."""

    grams: _Ints
    counts: _Ints
    contexts: _Ints
    totals: _Ints
    types: _Ints
    discount: float

    @classmethod
    def of(cls, grams: _Ints, counts: _Ints, vocabulary: int) -> "_Order":
        contexts, first = np.unique(grams // vocabulary, return_index=True)
        once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
        discount = once / (once + 2 * twice) if once else 0.5  # no n-gram occurs once: anything in (0, 1) will do
        return cls(
            grams, counts, contexts, np.add.reduceat(counts, first), np.diff([*first, len(grams)]), float(discount)
        )


class Ngrams:
    """Interpolated Kneser-Ney: absolute discounting, with lower orders counted by what they follow (Ney et al. 1994).

    Parameters
    ----------
    tokens
        Ids in ``[0, vocabulary)``, one long sequence.
    order
        Tokens of the longest n-gram, the predicted one included.
    vocabulary
        Number of ids; ``vocabulary ** order`` is below 2^63.

    Examples
    --------
    >>> import numpy as np
    >>> tokens = np.array([0, 1, 2, 0, 1, 3, 0, 1, 2])
    >>> model = Ngrams(tokens, 2, 4)
    >>> float(sum(np.exp(model.log_probabilities(np.array([1, token])))[0] for token in range(4)).round(12))
    1.0
    """

    def __init__(self, tokens: _Ints, order: int, vocabulary: int) -> None:
        if vocabulary**order >= 2**63 or len(tokens) < order:
            raise ValueError(f"{order}-grams of {vocabulary} ids over {len(tokens)} tokens: too long to be counted.")
        self._vocabulary, self._order = vocabulary, order
        grams, counts = np.unique(_windows(tokens, order, vocabulary), return_counts=True)
        orders = [_Order.of(grams, counts, vocabulary)]
        for length in range(order - 1, 0, -1):
            grams, counts = np.unique(grams % vocabulary**length, return_counts=True)
            orders.append(_Order.of(grams, counts, vocabulary))
        self._orders = orders[::-1]

    def log_probabilities(self, tokens: _Ints) -> _Floats:
        """Natural logarithm of the probability of each token that has a whole context before it.

        Parameters
        ----------
        tokens
            Ids, at least as many as the order.

        Returns
        -------
        ndarray
            Of ``len(tokens) - order + 1`` values, of the last tokens.
        """
        below: _Floats = np.full(len(tokens) - self._order + 1, 1 / self._vocabulary)
        for length, order in enumerate(self._orders, start=1):
            grams = _windows(tokens, length, self._vocabulary)[self._order - length :]
            at, known = _found(order.contexts, grams // self._vocabulary)
            count = np.where(*_counted(order, grams))
            total = order.totals[at]
            mixed = (np.maximum(count - order.discount, 0) + order.discount * order.types[at] * below) / total
            below = np.where(known, mixed, below)
        return np.log(below)


def compressed_bits(known: bytes, new: bytes) -> float:
    """Bits that xz adds for a text after another, a bound on what it says beyond that.

    Parameters
    ----------
    known, new
        UTF-8.
    """
    return 8.0 * (len(lzma.compress(known + new, preset=9)) - _alone(known))


@lru_cache(maxsize=1)
def _alone(text: bytes) -> int:
    return len(lzma.compress(text, preset=9))


def _windows(tokens: _Ints, length: int, vocabulary: int) -> _Ints:
    found = np.zeros(len(tokens) - length + 1, dtype=np.int64)
    for place in range(length):
        found = found * vocabulary + tokens[place : place + len(found)]
    return found


def _found(sorted_keys: _Ints, keys: _Ints) -> tuple[_Ints, NDArray[np.bool_]]:
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return at, sorted_keys[at] == keys


def _counted(order: _Order, grams: _Ints) -> tuple[NDArray[np.bool_], _Ints, int]:
    at, known = _found(order.grams, grams)
    return known, order.counts[at], 0
