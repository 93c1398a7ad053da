"""Forgetting along a sequence of tasks: of the matrix of the scores on each task after training on each."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rank_lab.errors import ShapeMismatchError
from rank_lab.uncertainty import Interval, percentile_interval

__all__ = ["average_forgetting", "backward_transfer", "sequence_interval"]

Values = npt.NDArray[np.float64]


def backward_transfer(scores: npt.ArrayLike) -> Values:
    r"""How later tasks changed the scores on earlier ones, :math:`\frac{1}{T-1} \sum_{i<T} (R_{T,i} - R_{i,i})`.

    Negative where they were forgotten. From a table of scores: :func:`rank_lab.task_sequences.sequence_of`.

    Parameters
    ----------
    scores
        Shape (..., T, T): row i after training on task i, column j on task j; larger is better.

    Returns
    -------
    numpy.ndarray
        Shape (...,).

    Raises
    ------
    ShapeMismatchError
        If it is no square matrix of two tasks or more.

    References
    ----------
    .. [1] Lopez-Paz & Ranzato (2017), Gradient Episodic Memory for Continual Learning, arXiv:1706.08840, equation 3.

    Examples
    --------
    >>> float(backward_transfer([[0.9, 0.1], [0.6, 0.8]]).round(12))
    -0.3
    """
    R = _square(scores)
    learned: Values = np.diagonal(R, axis1=-2, axis2=-1)[..., :-1]
    change: Values = (R[..., -1, :-1] - learned).mean(axis=-1)
    return change


def average_forgetting(scores: npt.ArrayLike) -> Values:
    r"""How far the scores on earlier tasks fell from their best,
    :math:`\frac{1}{T-1} \sum_{j<T} (\max_{l<T} R_{l,j} - R_{T,j})`.

    Positive where they were forgotten. The maximum is over all stages before the
    last, those before the task was trained on among them. Noise in the scores
    raises it: it is a maximum that is compared.

    Parameters
    ----------
    scores
        As of :func:`backward_transfer`.

    Returns
    -------
    numpy.ndarray
        Shape (...,).

    Raises
    ------
    ShapeMismatchError
        If it is no square matrix of two tasks or more.

    References
    ----------
    .. [1] Chaudhry et al. (2018), Riemannian Walk for Incremental Learning, arXiv:1801.10112, equations 3 and 4.

    Examples
    --------
    >>> float(average_forgetting([[0.7, 0.1, 0.1], [0.9, 0.8, 0.1], [0.6, 0.7, 0.9]]).round(12))
    0.2
    """  # noqa: D205
    R = _square(scores)
    fallen: Values = (R[..., :-1, :-1].max(axis=-2) - R[..., -1, :-1]).mean(axis=-1)
    return fallen


def sequence_interval(
    measure: Callable[[npt.ArrayLike], Values],
    scores: npt.ArrayLike,
    errors: npt.ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A measure of a sequence with the interval that the standard errors of its scores give, as if independent.

    Parameters
    ----------
    measure
        :func:`backward_transfer` or :func:`average_forgetting`.
    scores, errors
        Shape (T, T): the scores and their standard errors; each score is drawn from its normal distribution.
    resamples, seed, level
        How many, where their randomness starts, nominal coverage.

    Raises
    ------
    ShapeMismatchError
        If the shapes differ, or are no square of two tasks or more.

    Examples
    --------
    >>> found = sequence_interval(backward_transfer, [[0.9, 0.1], [0.6, 0.8]], [[0.01, 0.01], [0.01, 0.01]])
    >>> round(found.value, 6), -0.34 < found.low < -0.32, -0.28 < found.high < -0.26
    (-0.3, True, True)
    """
    R, spread = _square(scores), np.asarray(errors, np.float64)
    if spread.shape != R.shape:
        raise ShapeMismatchError(
            f"scores of shape {R.shape} and standard errors of shape {spread.shape}; expected one each."
        )
    noise = np.random.default_rng(seed).standard_normal((resamples, *R.shape))
    return percentile_interval(float(measure(R)), measure(R + spread * noise), level=level)


def _square(scores: npt.ArrayLike) -> Values:
    R = np.asarray(scores, np.float64)
    if R.ndim < 2 or R.shape[-1] != R.shape[-2] or R.shape[-1] < 2:
        raise ShapeMismatchError(
            f"scores of shape {R.shape}; expected a square of two tasks or more: a row for each stage of training, a"
            " column for each task."
        )
    return R
