"""Functional ranks: streamed sums, planted ranks, nulls, intervals, linear shares."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from rank_lab.affine_change import affine_change, is_affine
from rank_lab.errors import NonFiniteError, RankLabError, ShapeMismatchError
from rank_lab.functional import functional_spectrum, weighted_spectrum
from rank_lab.functional_metrics import FUNCTIONAL_RANKS, functional_ranks
from rank_lab.functional_null import random_change_ranks
from rank_lab.linear_share import HalfMoments, ShareSums
from rank_lab.null import null_ranks
from rank_lab.second_moment import SecondMoment, groups_of_texts
from rank_lab.spectrum import Spectrum

Tensor = torch.Tensor


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def low_rank(out: int, across: int, rank: int, seed: int = 0) -> Tensor:
    return normal(out, rank, seed=seed) @ normal(rank, across, seed=seed + 1)


@pytest.mark.parametrize("chunks", [[1000], [1] * 5 + [995], [333, 1, 666]])
def test_the_streamed_second_moment_is_the_direct_one(chunks: list[int]) -> None:
    rows = normal(1000, 7).float()
    groups = np.random.default_rng(0).integers(0, 4, 1000)
    moment = SecondMoment.empty(7, groups=4)
    for part, own in zip(rows.split(chunks), np.split(groups, np.cumsum(chunks)[:-1]), strict=True):
        moment.add(part, own)
    wide = rows.double()
    assert torch.allclose(moment.total(), wide.T @ wide, rtol=1e-13)
    middle = wide - wide.mean(0)
    assert torch.allclose(moment.total(centered=True), middle.T @ middle, rtol=1e-10)
    twice = torch.cat((wide[groups == 1], wide[groups == 1], wide[groups == 3]))
    assert torch.allclose(moment.total([0, 2, 0, 1]), twice.T @ twice, rtol=1e-13)
    assert moment.count == 1000
    assert moment.mean_share() == pytest.approx(float((wide.mean(0) ** 2).sum() / (wide**2).sum(1).mean()))


def test_a_second_moment_refuses_what_is_no_activation() -> None:
    moment = SecondMoment.empty(2, groups=1)
    with pytest.raises(ShapeMismatchError, match=r"expected \(tokens, 2\)"):
        moment.add(torch.zeros(3, 3), [0, 0, 0])
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        moment.add(torch.tensor([[float("nan"), 0.0]]), [0])
    with pytest.raises(RankLabError, match="no token"):
        functional_spectrum(torch.zeros(2, 2), 0, (2, 2))


@pytest.mark.parametrize(("out", "across"), [(30, 20), (20, 30)])
def test_on_orthonormal_inputs_the_functional_rank_is_the_weights_own(out: int, across: int) -> None:
    """Exactly: the inputs are the rows of an orthogonal matrix, so that C is the identity over n."""
    change = low_rank(out, across, 6)
    inputs = torch.linalg.qr(normal(across, across, seed=5))[0]
    own = functional_ranks(Spectrum.from_values(torch.linalg.svdvals(change).numpy()[:6], shape=(out, across)))
    weighted = weighted_spectrum(change, inputs.T @ inputs, across)
    moved = inputs @ change.T
    local = functional_spectrum(moved.T @ moved, across, (out, across))
    for spectrum in (weighted, local):
        assert functional_ranks(spectrum) == pytest.approx(own, rel=1e-5)
    assert weighted.frobenius_norm * across**0.5 == pytest.approx(float(change.norm()))


def test_on_white_inputs_it_is_within_the_sampling_error() -> None:
    change, inputs = normal(12, 16), normal(40_000, 16, seed=3)
    own = functional_ranks(Spectrum.from_values(torch.linalg.svdvals(change).numpy(), shape=(12, 16)))
    found = functional_ranks(weighted_spectrum(change, inputs.T @ inputs, len(inputs)))
    assert found == pytest.approx(own, rel=0.03)


def test_inputs_decide_what_a_weight_does() -> None:
    """A full-rank update does one thing where inputs lie on a line."""
    change, line = normal(10, 10), torch.outer(normal(200)[:, None][:, 0], normal(10, seed=1))
    ranks = functional_ranks(weighted_spectrum(change, line.T @ line, 200))
    assert ranks["energy_rank_99"] == 1
    assert (
        functional_ranks(Spectrum.from_values(torch.linalg.svdvals(change).numpy(), shape=(10, 10)))["energy_rank_99"]
        > 5
    )
    with pytest.raises(ShapeMismatchError, match="weight with 10 inputs"):
        weighted_spectrum(change, torch.eye(9), 200)


def test_few_tokens_bound_the_rank() -> None:
    rows = normal(5, 20)
    spectrum = functional_spectrum(rows.T @ rows, 5, (20, 20))
    assert spectrum.rank_bound == 5
    assert functional_ranks(spectrum)["numerical_rank"] == 5


def test_the_null_is_what_a_random_change_does() -> None:
    eigenvalues = np.exp(-np.arange(60) / 10)
    inputs = normal(20_000, 60) * torch.tensor(eigenvalues).sqrt()
    moment = inputs.T @ inputs
    sample = torch.linalg.eigvalsh(moment / 20_000).numpy()
    for shape, rank in (((40, 60), 40), ((90, 60), 60), ((90, 60), 4), ((40, 60), 5)):
        drawn = []
        for seed in range(6):
            change = normal(*shape, seed=seed) if 2 * rank > min(shape) else low_rank(*shape, rank, seed=10 * seed)
            drawn.append(functional_ranks(weighted_spectrum(change, moment, 20_000)))
        found = random_change_ranks(sample, shape, rank, draws=6)
        for name in ("energy_rank_90", "effective_rank", "participation_ratio_energy"):
            assert found[name] == pytest.approx(np.mean([each[name] for each in drawn]), rel=0.12), (name, shape, rank)
    white = random_change_ranks(np.ones(200), (200, 200), 200)
    assert white["effective_rank"] == pytest.approx(null_ranks((200, 200))["effective_rank"], rel=0.01)
    with pytest.raises(ShapeMismatchError, match="a rank of 1 to 2"):
        random_change_ranks(np.ones(3), (2, 3), 3)


def test_groups_of_texts_are_of_equal_size() -> None:
    assert sorted(np.bincount(groups_of_texts(50, most=24)).tolist()) == [2] * 22 + [3] * 2
    assert sorted(groups_of_texts(3, most=24).tolist()) == [0, 1, 2]


def shares(function: Callable[[Tensor], Tensor], *, tokens: int = 4000, mean: float = 0.0) -> ShareSums:
    inputs = normal(tokens, 6) + mean
    change, texts = function(inputs), np.arange(tokens) % 40
    halves = texts % 2
    moments, sums = HalfMoments.empty(6, change.shape[1]), ShareSums.empty(40)
    for part in np.array_split(np.arange(tokens), 7):
        moments.add(inputs[part], change[part], halves[part])
    maps = moments.maps()
    assert maps is not None
    for text in range(40):
        at = torch.as_tensor(np.flatnonzero(texts == text))
        sums.add(maps, inputs[at], change[at], text % 2, text)
    return sums


def test_a_linear_map_explains_a_linear_change_and_of_noise_nothing() -> None:
    matrix = normal(6, 3, seed=9)
    assert shares(lambda x: x @ matrix).share("plain").value == pytest.approx(1.0, abs=1e-12)
    assert shares(lambda x: x @ matrix + 5).share("centered").value == pytest.approx(1.0, abs=1e-12)
    noise = shares(lambda x: normal(len(x), 3, seed=77)).share("plain")
    assert -0.01 < noise.value < 0.0


def test_a_planted_curve_has_the_share_that_it_must() -> None:
    """Of x + b x^2 on normal x the line explains 1 / (1 + 3 b^2) of the energy, 1 / (1 + 2 b^2) of the variance."""
    found = shares(lambda x: x + 0.7 * x**2, tokens=40_000)
    plain, centered = found.share("plain"), found.share("centered")
    for interval, wanted in ((plain, 1 / (1 + 3 * 0.49)), (centered, 1 / (1 + 2 * 0.49))):
        assert interval.value == pytest.approx(wanted, abs=0.02)
        assert interval.low is not None
        assert interval.low < wanted < (interval.high or 0)


def test_means_alone_give_a_share_that_the_null_says() -> None:
    inputs, change = normal(20_000, 4) + 1.0, normal(20_000, 2, seed=8) + 2.0
    moments, halves = HalfMoments.empty(4, 2), np.arange(20_000) % 2
    moments.add(inputs, change, halves)
    null = moments.mean_null() / float((change**2).sum(1).mean())
    maps, sums = moments.maps(), ShareSums.empty(2)
    assert maps is not None
    for half in (0, 1):
        sums.add(maps, inputs[half::2], change[half::2], half, half)
    assert sums.share("plain").value == pytest.approx(null, abs=0.01)
    assert null > 0.5
    assert sums.share("centered").value == pytest.approx(0.0, abs=0.01)


def test_too_few_tokens_fit_no_map() -> None:
    moments = HalfMoments.empty(6, 2)
    moments.add(normal(20, 6), normal(20, 2), np.arange(20) % 2)
    assert moments.maps() is None
    assert moments.tokens == (10, 10)


def test_an_affine_change_is_found_by_asking() -> None:
    weight, bias = low_rank(9, 7, 2), normal(9, seed=4)
    rows = normal(50, 7, seed=6)
    base = normal(9, 7, seed=12)
    change = lambda x: (x @ (base + weight).T + bias) - x @ base.T  # noqa: E731
    found = affine_change(change, 7, scale=float(base.abs().max()))
    assert torch.allclose(found.weight, weight, atol=1e-12)
    assert found.rank == 2
    assert found.has_bias
    assert is_affine(found, rows, change(rows))
    moved = rows @ found.weight.T + found.bias
    whole = torch.cat((rows, torch.ones(50, 1)), dim=1) @ found.with_bias().T
    assert torch.allclose(torch.linalg.svdvals(moved)[:3], torch.linalg.svdvals(whole), rtol=1e-10)
    same = lambda x: x @ base.T - x @ base.T  # noqa: E731
    assert affine_change(same, 7).rank == 0
    for curve in (lambda x: torch.relu(x @ weight.T), lambda x: 10 + 1e-3 * torch.tanh(x)):
        assert not is_affine(affine_change(curve, 7), rows, curve(rows))


def test_all_ranks_are_there() -> None:
    assert "gavish_donoho_rank" not in FUNCTIONAL_RANKS
    assert {"energy_rank_90", "stable_rank", "effective_rank", "numerical_rank"} <= set(FUNCTIONAL_RANKS)


def test_the_centred_moment_of_inputs_is_that_of_inputs_less_their_mean() -> None:
    inputs, moments = normal(300, 4) + 3.0, HalfMoments.empty(4, 1)
    moments.add(inputs, normal(300, 1), np.arange(300) % 2)
    middle = inputs - inputs.mean(0)
    assert torch.allclose(moments.total(), inputs.T @ inputs)
    assert torch.allclose(moments.total(centered=True), middle.T @ middle)


def test_a_null_on_few_tokens_has_no_more_directions_than_these() -> None:
    eigenvalues = np.concatenate((np.ones(5), np.full(25, 1e-18)))
    assert random_change_ranks(eigenvalues, (40, 30), 30)["numerical_rank"] == 5
