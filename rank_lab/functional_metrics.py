"""Which ranks are taken of a change of activations, and of what changes; known without any model library."""

from rank_lab.metrics import METRICS
from rank_lab.spectrum import Spectrum

__all__ = ["FUNCTIONAL_RANKS", "SCOPES", "functional_ranks"]

_WHITE_NOISE_ONLY = ("gavish_donoho_rank", "marchenko_pastur_rank")

FUNCTIONAL_RANKS = tuple(name for name, metric in METRICS.items() if metric.rank and name not in _WHITE_NOISE_ONLY)
"""Ranks that are taken of a change of activations: all but those that presume independent entries."""

SCOPES = ("layer", "module", "weighted")
r"""What changed: the hidden state after a layer, same tokens through both models; the output of a module, same input
through both modules; and of a module with a weight update that update on the inputs, :math:`\Delta W C^{1/2}`."""


def functional_ranks(spectrum: Spectrum) -> dict[str, float]:
    """All of :data:`FUNCTIONAL_RANKS`.

    Parameters
    ----------
    spectrum
        Complete, as :func:`rank_lab.functional.functional_spectrum` gives it.

    Examples
    --------
    >>> functional_ranks(Spectrum.from_values([3.0, 1.0], shape=(2, 2)))["participation_ratio"]
    1.6
    """
    return {name: float(METRICS[name].function(spectrum)) for name in FUNCTIONAL_RANKS}
