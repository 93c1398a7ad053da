"""The change at one place of a model: its ranks beside their nulls, and what a linear map explains of it."""

import math
from dataclasses import dataclass

from rank_lab.spectrum import Spectrum
from rank_lab.text_intervals import RankInterval
from rank_lab.uncertainty import Interval

__all__ = ["NO_SHARE", "PlaceChange"]

NO_SHARE = Interval(math.nan, None, None, reason="not measured")
"""Where no map was fitted."""


@dataclass(frozen=True, eq=False)
class PlaceChange:
    r"""What changed at one place.

    Parameters
    ----------
    scope
        One of :data:`rank_lab.functional_metrics.SCOPES`.
    name
        Of the layer or module.
    form
        ``"layer"``; of a module ``"affine"`` where its update is a matrix (and a bias), else ``"function"``.
    shape
        ``(out, in)`` of the change.
    tokens, texts
        Of the probe set.
    spectrum
        Of :math:`\mathbb{E}[\Delta h \Delta h^\top]^{1/2}`.
    ranks
        By name.
    null
        The ranks of a random linear change of this shape and rank on the same inputs.
    weight
        The ranks of the weight update itself, where there is one; empty otherwise.
    relative_change
        Root mean square of the change over that of what the base has there.
    mean_share
        Share of the energy in the mean of the change.
    first_token_share
        Share of the energy in the first token of each input.
    linear_share, linear_share_centered
        :math:`R^2` of a linear map of the input, on texts that it was not fitted on, without an intercept against
        the energy and with one against the variance; 1 of an affine module's.
    linear_share_null
        What a map without an intercept explains where change and input share nothing but their means.
    warnings
        What is to be known before any of it is believed.
    """

    scope: str
    name: str
    form: str
    shape: tuple[int, int]
    tokens: int
    texts: int
    spectrum: Spectrum
    ranks: dict[str, RankInterval]
    null: dict[str, float]
    weight: dict[str, float]
    relative_change: float
    mean_share: float
    first_token_share: float
    linear_share: Interval
    linear_share_null: float
    linear_share_centered: Interval
    warnings: tuple[str, ...]
