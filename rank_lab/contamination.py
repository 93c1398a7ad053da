"""Test questions in the training data: the same text, or a long run of the same words."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from rank_lab.errors import DataError
from rank_lab.fairness import Finding

__all__ = ["Contamination", "contamination"]

NGRAM = 13
"""Words in a row: of the 8 to 13 of arXiv:2005.14165, appendix C, what lm-evaluation-harness takes for all tasks."""

_PUBLISHED = "arXiv:2005.14165, appendix C"
_NO_LETTER = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Contamination:
    """How many test texts the training texts hold.

    Parameters
    ----------
    tests
        Test texts in all.
    same
        Indices of those that are a training text, but for case, spaces and punctuation.
    overlapping
        Indices of those that share ``ngram`` words in a row with one.
    too_short
        How many have fewer words than that, for which only ``same`` is known.
    ngram
        Words in a row.
    """

    tests: int
    same: tuple[int, ...]
    overlapping: tuple[int, ...]
    too_short: int
    ngram: int

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What stands against a score on this test, for :func:`rank_lab.fairness.render_findings`."""
        found = sorted({*self.same, *self.overlapping})
        if not found:
            return ()
        short = f"; {self.too_short} are too short for the second" if self.too_short else ""
        return (
            Finding(
                "test in training data",
                f"{len(found)} of {self.tests} test texts: {len(self.same)} word for word, {len(self.overlapping)} by"
                f" {self.ngram} words in a row{short}; report the score without them.",
                _PUBLISHED,
            ),
        )


def contamination(train_texts: Iterable[str], test_texts: Sequence[str], *, ngram: int = NGRAM) -> Contamination:
    """Which test texts are in the training texts.

    Texts are compared without case, in Unicode's compatible form (NFKC). ``same`` looks at letters and digits alone, so
    that other spaces and punctuation hide nothing; runs are of words, which punctuation parts.

    Parameters
    ----------
    train_texts
        Read once; not kept.
    test_texts
        Of the test set, of which a set of the runs is kept.
    ngram
        Words in a row that count as an overlap.

    Raises
    ------
    DataError
        If there are no test texts, one of them has no letter, or ``ngram`` is less than one.

    Examples
    --------
    >>> found = contamination(["How many are 2 + 3?", "Who was it?"], ["How many are 2+3 ?", "Who is it?"], ngram=3)
    >>> found.same, found.overlapping, found.too_short
    ((0,), (0,), 0)
    """
    if ngram < 1 or not test_texts:
        raise DataError(f"{len(test_texts)} test texts and runs of {ngram} words; expected at least one of each.")
    words = [_words(text) for text in test_texts]
    empty = next((index for index, found in enumerate(words) if not found), None)
    if empty is not None:
        raise DataError(f"test text {empty} holds no letter or digit: {test_texts[empty][:60]!r}; leave it out.")
    by_text: dict[str, set[int]] = {}
    by_run: dict[tuple[str, ...], set[int]] = {}
    for index, found in enumerate(words):
        by_text.setdefault("".join(found), set()).add(index)
        for run in _runs(found, ngram):
            by_run.setdefault(run, set()).add(index)
    same: set[int] = set()
    overlapping: set[int] = set()
    for text in train_texts:
        found = _words(text)
        same |= by_text.get("".join(found), set())
        for run in _runs(found, ngram):
            overlapping |= by_run.get(run, set())
    short = sum(len(found) < ngram for found in words)
    return Contamination(len(words), tuple(sorted(same)), tuple(sorted(overlapping)), short, ngram)


def _words(text: str) -> list[str]:
    return _NO_LETTER.sub(" ", unicodedata.normalize("NFKC", text).casefold()).split()


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[start : start + length]) for start in range(len(words) - length + 1))
