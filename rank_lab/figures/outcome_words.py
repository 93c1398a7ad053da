"""What learning and measures of forgetting are called on axes and in captions."""

from rank_lab.checkpoint_scores import MEASURES

__all__ = ["MEASURE_NAMES", "forgetting_axis", "learning_axis", "learning_words", "measure_words", "target_words"]

MEASURE_NAMES = {
    "forgetting": "share lost on source tasks",
    "forgetting_normalised": "share lost on source tasks, beyond chance",
    "cross_entropy_increase": "rise of cross-entropy on source text",
    "kl_source": "KL from base on source text",
    "kl_target": "KL from base on target text",
}
"""Measures of how far a model went from its base, in words."""

_AXES = {
    "forgetting": "forgetting (share lost)",
    "forgetting_normalised": "forgetting (normalised)",
    "cross_entropy_increase": "cross-entropy rise (nats a token)",
    "kl_source": "KL from base, source (nats a token)",
    "kl_target": "KL from base, target (nats a token)",
}
_SCORES = {
    "cross_entropy": "cross-entropy",
    "pseudo_cross_entropy": "pseudo-cross-entropy",
    "exact_match": "exact match",
    "token_accuracy": "token accuracy",
    "bits_per_byte": "bits a byte",
    "pass_at_1": "pass@1",
}
_LOSSES = ("cross_entropy", "pseudo_cross_entropy", "perplexity", "bits_per_byte")


def forgetting_axis(measure: str) -> str:
    """A measure on an axis, with its unit.

    Examples
    --------
    >>> forgetting_axis("cross_entropy_increase")
    'cross-entropy rise (nats a token)'
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


def target_words(target: str) -> str:
    """A target in words: the names of scores without underscores; names of tasks stay as they are.

    Examples
    --------
    >>> target_words("code cross_entropy"), target_words("my_task exact_match 5-shot")
    ('code, cross-entropy', 'my_task, exact match, 5-shot')
    """
    words = [word.split(",") for word in target.split(" ")]
    return ", ".join(part for first, *rest in words for part in (_SCORES.get(first, first), *rest))


def learning_words(target: str) -> str:
    """Learning, defined."""
    return f"Learning: gained over the base on {target_words(target)}, larger is more"


def measure_words(measure: str) -> str:
    """A measure of forgetting, defined.

    Examples
    --------
    >>> measure_words("kl_source")
    'KL from base on source text: KL(base || tuned) on source text, nats a token'
    """
    return f"{MEASURE_NAMES.get(measure, measure)}: {MEASURES.get(measure, 'of forgetting')}"
