"""Cross-entropy, perplexity and divergence from the base on sets of texts, as rows of the score table."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rank_lab.errors import DataError
from rank_lab.evaluation.text_sets import TextSet
from rank_lab.evaluation.token_losses import TokenSums, token_sums
from rank_lab.evaluation.tuned_models import EvaluatedModel, context_of
from rank_lab.evaluation.windows import Piece, causal_pieces, masked_pieces, tokens_of
from rank_lab.score_table import ScoreRow

__all__ = ["Mean", "TextOptions", "mean_of", "text_metrics", "text_rows"]

Values = npt.NDArray[np.float64]
Progress = Callable[[int, int], None]

_LOSS = {"causal": ("cross_entropy", "perplexity"), "masked": ("pseudo_cross_entropy", "pseudo_perplexity")}
_DIVERGENCE = "kl_from_base"


@dataclass(frozen=True)
class TextOptions:
    """How texts are shown to a model.

    Parameters
    ----------
    batch_size
        Windows at a time.
    context
        Tokens of the longest window; None for as many as model and tokenizer allow.
    stride
        Tokens that a further window of a text adds; None for the context: windows then do not overlap, but for the
        last of a text, which is a whole one. A smaller stride costs more and gives every token more to go by.
    masked_places, seed
        Of masked models: places asked of each text, and the seed of their choice.
    """

    batch_size: int = 8
    context: int | None = None
    stride: int | None = None
    masked_places: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Mean:
    r"""A mean over tokens, and what each text has to do with it.

    Parameters
    ----------
    value
        :math:`R = \sum_i a_i / \sum_i t_i` of sums :math:`a_i` over the :math:`t_i` tokens of text i.
    stderr
        Of R, texts taken as independent; None of a single text.
    examples
        :math:`R + (a_i - R\,t_i) / \bar t`: their mean is R, and their spread (and that of differences between
        two models) gives its standard error, which the mean of each text alone would not, as texts differ in length.
    """

    value: float
    stderr: float | None
    examples: tuple[float, ...]


def mean_of(sums: Values, weights: Values) -> Mean:
    """Ratio of two sums over texts, with its standard error.

    Parameters
    ----------
    sums, weights
        Shape (texts,); a text without weight (a single token, say) is left out.

    Raises
    ------
    DataError
        If nothing has any weight.

    Examples
    --------
    >>> mean_of(np.array([2.0, 2.0]), np.array([1.0, 3.0]))
    Mean(value=1.0, stderr=0.5, examples=(1.5, 0.5))
    """
    kept = weights > 0
    above, below = sums[kept], weights[kept]
    if not len(below):
        raise DataError(f"none of {len(sums)} texts has a token to score; give texts of two tokens or more.")
    value, size = float(above.sum() / below.sum()), len(below)
    parts = (above - value * below) / below.mean()
    stderr = float(np.sqrt((parts**2).sum() / (size - 1) / size)) if size > 1 else None
    return Mean(value, stderr, tuple((value + parts).tolist()))


def text_metrics(kind: str, *, divergence: bool) -> tuple[str, ...]:
    """Names of the metrics of a set of texts that every such set has.

    Examples
    --------
    >>> text_metrics("causal", divergence=True)
    ('cross_entropy', 'perplexity', 'kl_from_base')
    """
    if kind not in _LOSS:
        raise DataError(
            f"a model for {kind} predicts no tokens: give a causal or a masked one, or leave out the texts."
        )
    return (*_LOSS[kind], *([_DIVERGENCE] if divergence else []))


def text_rows(
    model: EvaluatedModel,
    texts: TextSet,
    options: TextOptions,
    *,
    base: Any = None,
    progress: Progress | None = None,
) -> tuple[ScoreRow, ...]:
    """Scores of one model on one set of texts.

    Cross-entropy is in nats a token, its perplexity is the exponential, bits
    per byte of UTF-8 can be compared between tokenizers. Every token of a text
    is scored once, the first one behind the tokenizer's beginning (or else
    end) of text; without either it is not scored, and there are no bits per
    byte. Masked models give the pseudo-likelihood [1]_ of single masked
    tokens, whose exponential is no perplexity of a causal model.

    Parameters
    ----------
    model
        From :mod:`rank_lab.evaluation.tuned_models`.
    texts
        Which.
    options
        How.
    base
        The model that it was tuned from, for the divergence from it; None for none.
    progress
        Called with texts done and texts.

    References
    ----------
    .. [1] Salazar et al. (2020), Masked Language Model Scoring, https://arxiv.org/abs/1910.14659.
    """
    names = text_metrics(model.kind, divergence=base is not None)
    context, count = context_of(model, options.context), len(texts.texts)
    stride = options.stride or context

    def seen(text: int) -> None:
        if progress is not None:
            progress(text + 1, count)

    asked = _Asked(model, texts, options, context, stride)
    sums = token_sums(model.model, asked.pieces(), count, base=base, batch_size=options.batch_size, seen=seen)
    loss = mean_of(sums.losses, sums.tokens)
    found = [(names[0], loss), (names[1], _exponential(loss))]
    if model.kind == "causal" and tokens_of(model.tokenizer, texts.texts[0])[1]:
        found.append(("bits_per_byte", _per_byte(sums, texts)))
    if sums.divergences is not None:
        found.append((_DIVERGENCE, mean_of(sums.divergences, sums.tokens)))
    left_out = int((sums.tokens == 0).sum())
    return tuple(_row(model, texts, asked.how(left_out), name, mean) for name, mean in found)


@dataclass(frozen=True)
class _Asked:
    model: EvaluatedModel
    texts: TextSet
    options: TextOptions
    context: int
    stride: int

    def pieces(self) -> Iterator[Piece]:
        tokenizer, options = self.model.tokenizer, self.options
        for number, text in enumerate(self.texts.texts):
            if self.model.kind == "causal":
                yield from causal_pieces(number, tokens_of(tokenizer, text)[0], self.context, self.stride)
            else:
                yield from masked_pieces(number, text, tokenizer, self.context, options.masked_places, options.seed)

    def how(self, left_out: int) -> str:
        if self.model.kind == "causal":
            text = f"{self.texts.source}; context {self.context}, stride {self.stride}"
        else:
            places = f"{self.options.masked_places} masked places a text at most, seed {self.options.seed}"
            text = f"{self.texts.source}; first {self.context} tokens, {places}"
        return f"{text}; {left_out} texts without a token to score left out" if left_out else text


def _exponential(loss: Mean) -> Mean:
    value = math.exp(loss.value) if loss.value < 700 else math.inf
    stderr = None if loss.stderr is None or math.isinf(value) else value * loss.stderr
    return Mean(value, stderr, ())


def _per_byte(sums: TokenSums, texts: TextSet) -> Mean:
    sizes = np.array([len(text.encode()) for text in texts.texts], dtype=np.float64)
    return mean_of(sums.losses / math.log(2), np.where(sums.tokens > 0, sizes, 0.0))


def _row(model: EvaluatedModel, texts: TextSet, source: str, name: str, mean: Mean) -> ScoreRow:
    return ScoreRow(
        **model.named, task=texts.name, metric=name, value=mean.value, stderr=mean.stderr,
        n=len(mean.examples) or None, role=texts.role, few_shot=0, higher_is_better=False, **model.harness,
        source=source, set_sha256=texts.sha256(), examples=mean.examples or None,
    )  # fmt: skip
