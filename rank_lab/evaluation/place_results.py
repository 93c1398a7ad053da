"""From the sums of a watched place to what is said of it: ranks, nulls, shares, warnings."""

import math
from dataclasses import replace

import numpy as np
import torch

from rank_lab.evaluation.functional_options import FunctionalOptions
from rank_lab.evaluation.probe import Probe
from rank_lab.evaluation.watched import AffineModule, FunctionModule, Layer, Watched
from rank_lab.functional_metrics import functional_ranks
from rank_lab.functional_null import random_change_ranks
from rank_lab.linear_share import TOKENS_PER_INPUT
from rank_lab.place_change import NO_SHARE, PlaceChange
from rank_lab.second_moment import SecondMoment
from rank_lab.spectrum import Spectrum
from rank_lab.text_intervals import FEW_GROUPS, FEWEST_GROUPS, MeasuredRanks, measured_ranks
from rank_lab.uncertainty import Interval

__all__ = ["place_changes"]

_ROUNDING = 64.0  # of a type's epsilon: a relative change below it may be rounding of the activations
_MOST_OF_IT = 0.5
_WHOLE = Interval(1.0, None, None, reason="the update is a matrix")


def place_changes(
    watched: Watched, probe: Probe, options: FunctionalOptions, dtype: torch.dtype
) -> tuple[PlaceChange, ...]:
    """One place's results: of a module with a weight update also the weighted ranks.

    Parameters
    ----------
    watched
        After the probe set has passed.
    probe, options
        What it was.
    dtype
        In which activations were computed.
    """
    if watched.energy == 0.0:
        return ()
    result = _Result(watched, probe, options, dtype)
    if isinstance(watched, AffineModule):
        return result.affine(watched)
    scope, form = ("layer", "layer") if isinstance(watched, Layer) else ("module", "function")
    return (result.change(scope, form, watched.change, watched.shape),)


class _Result:
    def __init__(self, watched: Watched, probe: Probe, options: FunctionalOptions, dtype: torch.dtype) -> None:
        self.watched, self.probe, self.options, self.dtype = watched, probe, options, dtype

    def affine(self, watched: AffineModule) -> tuple[PlaceChange, ...]:
        out, across = watched.shape
        shape = (out, across + 1) if watched.affine.has_bias else watched.shape
        module = self.change("module", "affine", watched.change, shape)
        if not watched.affine.rank:
            return (module,)
        if watched.weighted is None and not self.options.centered:  # the same sums
            return module, replace(module, scope="weighted")
        return module, self.change("weighted", "affine", watched.weighted or watched.change, watched.shape)

    def change(self, scope: str, form: str, moment: SecondMoment, shape: tuple[int, int]) -> PlaceChange:
        options, watched = self.options, self.watched
        centered = options.centered and scope != "weighted"
        measured = measured_ranks(moment, shape, centered=centered, resamples=options.resamples, seed=options.seed)
        shares = self._shares(form)
        return PlaceChange(
            scope=scope, name=watched.name, form=form, shape=watched.shape, tokens=moment.count,
            texts=int(self.probe.count), spectrum=measured.spectrum, ranks=measured.ranks,
            null=self._null(form, measured.spectrum, centered=centered), weight=self._weight(),
            relative_change=self._relative(), mean_share=moment.mean_share(),
            first_token_share=watched.first_energy / watched.energy, linear_share=shares[0],
            linear_share_null=self._share_null(), linear_share_centered=shares[1],
            warnings=tuple(self._warnings(form, measured)),
        )  # fmt: skip

    def _null(self, form: str, spectrum: Spectrum, *, centered: bool) -> dict[str, float]:
        shape = self.watched.shape
        moment = self.watched.input_moment(centered=centered) / self.watched.change.count
        eigenvalues = torch.linalg.eigvalsh(moment).cpu().numpy()
        rank = int((spectrum.values > spectrum.floor).sum()) if form != "layer" else min(shape)
        return random_change_ranks(eigenvalues, shape, min(max(rank, 1), *shape), seed=self.options.seed)

    def _shares(self, form: str) -> tuple[Interval, Interval]:
        if form == "affine":
            return _WHOLE, _WHOLE
        watched, seed = self.watched, self.options.seed
        if not isinstance(watched, Layer | FunctionModule) or watched.maps is None:
            return NO_SHARE, NO_SHARE
        return watched.shares.share("plain", seed=seed), watched.shares.share("centered", seed=seed)

    def _weight(self) -> dict[str, float]:
        if not isinstance(self.watched, AffineModule) or not self.watched.affine.rank:
            return {}
        values = self.watched.affine.values.cpu().numpy()
        return functional_ranks(Spectrum.from_values(values, shape=self.watched.shape, rank_bound=len(values)))

    def _relative(self) -> float:
        before = self.watched.base_energy
        return math.sqrt(self.watched.energy / before) if before > 0 else math.nan

    def _share_null(self) -> float:
        if not isinstance(self.watched, Layer | FunctionModule):
            return math.nan
        return self.watched.halves.mean_null() * self.watched.change.count / self.watched.energy

    def _warnings(self, form: str, measured: MeasuredRanks) -> list[str]:
        watched, told = self.watched, []
        tokens, groups = watched.change.count, int(np.count_nonzero(watched.change.tokens))
        if tokens < min(watched.change.width, *watched.shape):
            told.append(f"{tokens} tokens for {watched.change.width} dimensions: no rank can be above {tokens}")
        if groups < FEWEST_GROUPS:
            texts = "1 text" if groups == 1 else f"{groups} texts"
            told.append(f"{texts}: no intervals, which need {FEWEST_GROUPS} texts or more")
        elif groups < FEW_GROUPS:
            told.append(f"{groups} texts: intervals may be too narrow, give {FEW_GROUPS} or more")
        opened = [name for name, each in measured.ranks.items() if each.open_above]
        if opened:
            told.append(f"too few texts for an upper end of {', '.join(opened)}")
        if isinstance(watched, Layer | FunctionModule) and watched.maps is None:
            needed = 2 * TOKENS_PER_INPUT * (watched.shape[1] + 1)
            told.append(f"{tokens} tokens do not determine a linear map of {watched.shape[1]} inputs: give {needed}")
        if form == "layer" and self._relative() < _ROUNDING * torch.finfo(self.dtype).eps:
            kind = str(self.dtype).removeprefix("torch.")
            told.append(f"the change is {self._relative():.1e} of the hidden state, near the rounding of {kind}")
        if watched.first_energy > _MOST_OF_IT * watched.energy:
            told.append("most of the change is in the first token of each input: --skip-tokens 1 shows the others")
        return told
