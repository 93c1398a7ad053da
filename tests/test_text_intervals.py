"""Intervals of functional ranks over texts, against ranks that were planted."""

import numpy as np
import pytest
import torch

from rank_lab.functional_metrics import functional_ranks
from rank_lab.second_moment import SecondMoment, groups_of_texts
from rank_lab.spectrum import Spectrum
from rank_lab.text_intervals import MeasuredRanks, measured_ranks

WIDTH = 24
NAMES = ("energy_rank_90", "effective_rank", "participation_ratio_energy")


def sample(decay: float, texts: int, length: int, alike: float, seed: int) -> MeasuredRanks:
    """Tokens whose singular values fall as i^-decay/2, those of one text alike by a share of the variance."""
    rng, scale = np.random.default_rng(seed), np.arange(1, WIDTH + 1) ** (-decay / 2)
    moment, groups = SecondMoment.empty(WIDTH, groups=min(24, texts)), groups_of_texts(texts)
    for text in range(texts):
        own = np.sqrt(alike) * rng.standard_normal(WIDTH)
        rows = (own + np.sqrt(1 - alike) * rng.standard_normal((length, WIDTH))) * scale
        moment.add(torch.tensor(rows), np.full(length, groups[text]))
    return measured_ranks(moment, (WIDTH, WIDTH), resamples=40, seed=seed)


@pytest.mark.parametrize("decay", [0.5, 1.5])
@pytest.mark.parametrize(("texts", "length", "alike"), [(48, 20, 0.5), (96, 30, 0.1)])
def test_intervals_hold_the_planted_rank(decay: float, texts: int, length: int, alike: float) -> None:
    true = functional_ranks(Spectrum.from_values(np.arange(1, WIDTH + 1) ** (-decay / 2), shape=(WIDTH, WIDTH)))
    held, below = dict.fromkeys(NAMES, 0), 0
    for seed in range(12):
        ranks = sample(decay, texts, length, alike, seed).ranks
        for name in NAMES:
            held[name] += ranks[name].low <= true[name] <= ranks[name].high
            assert ranks[name].low <= ranks[name].value <= ranks[name].high <= WIDTH
        below += ranks["effective_rank"].value < true["effective_rank"]
    assert below >= 8  # few samples make a rank too low ...
    assert min(held.values()) >= 10, held  # ... which the interval knows


def test_a_probe_set_too_small_is_open_above() -> None:
    found = sample(0.5, 12, 5, 0.5, 1).ranks["energy_rank_90"]
    assert found.open_above
    assert found.high == WIDTH
    assert found.shift < 0
    large = sample(1.5, 96, 50, 0.0, 1).ranks["effective_rank"]
    assert not large.open_above
    assert large.high - large.low < 1


def test_too_few_texts_have_no_interval() -> None:
    found = sample(1.0, 5, 50, 0.0, 0)
    assert np.isnan([[each.low, each.high] for each in found.ranks.values()]).all()
    assert found.ranks["energy_rank_90"].value > 1


def test_tokens_of_one_text_count_as_one() -> None:
    """Copies of a token make a text longer and say nothing new: the interval stays as wide."""
    rng = np.random.default_rng(0)
    rows, groups = rng.standard_normal((48, 6)) * [3, 2, 2, 1, 1, 1], groups_of_texts(48)
    widths = []
    for copies in (1, 50):
        moment = SecondMoment.empty(6, groups=24)
        moment.add(torch.tensor(np.repeat(rows, copies, axis=0)), np.repeat(groups, copies))
        found = measured_ranks(moment, (6, 6)).ranks["participation_ratio_energy"]
        widths.append(found.high - found.low)
    assert widths[0] == pytest.approx(widths[1])
    assert widths[0] > 0.5


def test_a_low_rank_change_in_a_wide_layer_is_resampled_in_its_own_directions() -> None:
    """The same numbers as in its own basis, centred or not."""
    rng = np.random.default_rng(2)
    rows = torch.tensor(rng.standard_normal((600, 3)) + np.array([2.0, 0.0, 0.0]))
    basis = torch.linalg.qr(torch.tensor(rng.standard_normal((40, 3))))[0]
    groups = np.arange(600) % 24
    for centered in (False, True):
        found = []
        for each in (rows, rows @ basis.T):
            moment = SecondMoment.empty(each.shape[1], groups=24)
            moment.add(each, groups)
            found.append(measured_ranks(moment, (40, 40), centered=centered).ranks["participation_ratio_energy"])
        ends = [(each.value, each.low, min(each.high, 3.0)) for each in found]
        assert ends[0] == pytest.approx(ends[1])
