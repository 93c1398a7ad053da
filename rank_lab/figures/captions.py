"""What stands under a figure: the definition, where the data are from, how many there are."""

import re
from collections.abc import Iterable

from rank_lab.metrics import METRICS
from rank_lab.shown_values import PLAIN_QUANTITIES

__all__ = ["caption", "definition", "place"]

_WORDS = {
    "frobenius_norm": "Frobenius norm of the update",
    "spectral_norm": "largest singular value of the update",
    "nuclear_norm": "sum of the singular values",
    "numerical_rank_tolerance": "value below which a singular value counts as zero",
    "numerical_rank": "number of singular values above the numerical tolerance, or above rounding where tested",
    "stable_rank": "squared Frobenius norm over the squared largest singular value",
    "effective_rank": "exponential of the entropy of the singular values divided by their sum",
    "effective_rank_energy": "exponential of the entropy of the squared singular values divided by their sum",
    "participation_ratio": "squared sum of the singular values over the sum of their squares",
    "participation_ratio_energy": "squared sum of the squared singular values over the sum of their fourth powers",
    "nuclear_ratio": "squared ratio of nuclear to Frobenius norm",
    "intrinsic_dimension": "nuclear norm over the largest singular value",
    "gavish_donoho_rank": "number of singular values above Gavish and Donoho's threshold",
    "marchenko_pastur_rank": "number of singular values above the 95 % point of white noise's largest",
    "tail_exponent": "exponent of a power law fitted to the tail of the squared singular values",
    "relative_frobenius": "Frobenius norm of the update over that of the base weight",
    "relative_spectral": "largest singular value of the update over that of the base weight",
    "change_share": "share of this matrix in the squared change of the whole model",
    "rank_above_rounding": "number of directions above what the rounding of the files explains (test T1)",
    "rank_above_iid": "number of directions above independent entries of the update's own size (test T2)",
    "identical_fraction": "share of entries whose stored bits did not change",
    "rounding_energy_fraction": "share of the squared norm that the rounding of the files explains",
}  # fmt: skip

_SYMBOLS = {metric.symbol for metric in METRICS.values()} | {"cos"}


def definition(metric: str) -> str:
    """A quantity in words.

    Examples
    --------
    >>> definition("energy_rank_90")
    'k90: least number of singular directions that hold 90 % of the squared norm of the update'
    """
    symbol = METRICS[metric].symbol if metric in METRICS else PLAIN_QUANTITIES[metric]
    if metric.startswith("energy_rank_"):
        percent = metric.rsplit("_", 1)[-1]
        return f"{symbol}: least number of singular directions that hold {percent} % of the squared norm of the update"
    return f"{symbol}: {_WORDS[metric]}"


def place(run: str, step: int | None, delta: str = "cumulative") -> str:
    """Of which run and step the data are.

    Examples
    --------
    >>> place("lora", 200), place("full", None), place("full", 30, "step")
    ('run lora, step 200', 'run full', 'run full, step 30, change since the checkpoint before')
    """
    since = ", change since the checkpoint before" if delta == "step" else ""
    return f"run {run}{'' if step is None else f', step {step}'}{since}"


def caption(what: str, definitions: Iterable[str], data: str, notes: Iterable[str] = ()) -> str:
    """Sentences of a caption, in the order in which a reader needs them.

    Parameters
    ----------
    what
        Is shown.
    definitions
        Of the quantities, each once.
    data
        Where they are from and how many there are.
    notes
        How to read what is not plain, such as cells without a value.

    Examples
    --------
    >>> caption("k90 of every matrix", ["srank: a ratio"], "Data: run lora", ["blank: no such matrix"])
    'k90 of every matrix. srank: a ratio. Data: run lora. Blank: no such matrix.'
    """
    return " ".join(
        f"{_begun(part.rstrip('.'))}." for part in (what, *dict.fromkeys(definitions), data, *notes) if part
    )


def _begun(sentence: str) -> str:
    """With a capital, but for a symbol, which keeps its letters."""
    word = re.match(r"[a-z]{2,}(?=[ :,-])", sentence)
    return sentence if word is None or word.group() in _SYMBOLS else sentence[0].upper() + sentence[1:]
