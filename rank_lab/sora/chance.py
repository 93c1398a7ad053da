"""Whether per cents of a reference say anything: a model that knows nothing of a set has a score there, too."""

from rank_lab.scores import Score
from rank_lab.sora.predictions import Predictions
from rank_lab.uncertainty import bootstrap_interval

__all__ = ["no_better_than_chance"]


def no_better_than_chance(name: str, found: Predictions, score: Score, *, resamples: int = 1000) -> str:
    """The warning where a set's score may as well be that of one answer for all examples.

    Parameters
    ----------
    name
        Of the set.
    found
        What the reference predicts for it.
    score
        Which.
    resamples
        Of the bootstrap.

    Returns
    -------
    str
        Empty where the interval of the score lies above, or the score has no such answer.

    Examples
    --------
    >>> import numpy as np
    >>> from rank_lab.scores import SCORES
    >>> labels = np.repeat([0.0, 1.0], [60, 40])
    >>> right = np.where(np.arange(100) % 5 == 0, 1 - labels, labels)
    >>> no_better_than_chance("validation", Predictions(labels, right, 0.1), SCORES["accuracy"])
    ''
    >>> no_better_than_chance("validation", Predictions(labels, labels * 0, 0.1), SCORES["accuracy"])
    'validation: accuracy 0.600 is, within its noise, no better than one answer for all (0.600): per cents of it...'
    """
    if score.constant is None:
        return ""
    chance, value = score.constant(found.labels), score.of(found.labels, found.predictions)
    low = bootstrap_interval(score, found.labels, found.predictions, resamples=resamples).low
    if value > chance and (low is None or low > chance):
        return ""
    return (
        f"{name}: {score.name} {value:.3f} is, within its noise, no better than one answer for all ({chance:.3f}):"
        " per cents of it compare chance with chance"
    )
