"""What learning and measures of forgetting are called on axes and in captions."""

from rank_lab.checkpoint_scores import MEASURES

__all__ = ["forgetting_axis", "learning_axis", "learning_words", "measure_words"]

_AXES = {
    "forgetting": "forgetting (share lost)",
    "forgetting_normalised": "forgetting (normalised)",
    "cross_entropy_increase": "forgetting (nats a token)",
    "kl_source": "KL from base, source (nats a token)",
    "kl_target": "KL from base, target (nats a token)",
}
_LOSSES = ("cross_entropy", "pseudo_cross_entropy", "perplexity", "bits_per_byte")


def forgetting_axis(measure: str) -> str:
    """A measure on an axis, with its unit.

    Examples
    --------
    >>> forgetting_axis("cross_entropy_increase")
    'forgetting (nats a token)'
    """
    return _AXES.get(measure, measure)


def learning_axis(target: str) -> str:
    """Learning on an axis, with its unit.

    Examples
    --------
    >>> learning_axis("code cross_entropy"), learning_axis("gsm8k exact_match 5-shot")
    ('learning (nats a token)', 'learning (gain)')
    """
    words = target.split(" ")
    return "learning (nats a token)" if any(name in words for name in _LOSSES[:2]) else "learning (gain)"


def learning_words(target: str) -> str:
    """Learning, defined."""
    return f"Learning: gained over the base on {target}, larger is more"


def measure_words(measure: str) -> str:
    """A measure of forgetting, defined.

    Examples
    --------
    >>> measure_words("kl_source")
    'kl_source: KL(base || tuned) on source text, nats a token'
    """
    return f"{measure}: {MEASURES.get(measure, 'of forgetting')}"
