"""How different the completions of one prompt are from each other."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Diversity", "diversity_of"]


@dataclass(frozen=True)
class Diversity:
    """Unique strings among the completions of a prompt.

    Parameters
    ----------
    unique
        Of all.
    passing, failing
        Of those that pass their test, and of the others; 0 where there are none.
    """

    unique: int
    passing: int
    failing: int


def diversity_of(texts: Sequence[str], passed: Sequence[bool]) -> Diversity:
    """Count completions that differ [1]_.

    Strings differ as soon as one character does: a space or a comment more
    makes another string of the same program, so that the count says as much of
    format as of content. Compare models of equal accuracy: there is more than
    one way to be wrong.

    Parameters
    ----------
    texts
        Completions of one prompt.
    passed
        Whether each passes.

    References
    ----------
    .. [1] Biderman et al. (2024), LoRA Learns Less and Forgets Less, section 4.5, https://arxiv.org/abs/2405.09673.

    Examples
    --------
    >>> diversity_of(["return 1", "return 1", "return 1 ", "return 2"], [True, True, True, False])
    Diversity(unique=3, passing=2, failing=1)
    """
    passing = {text for text, right in zip(texts, passed, strict=True) if right}
    failing = {text for text, right in zip(texts, passed, strict=True) if not right}
    return Diversity(len(passing | failing), len(passing), len(failing))
