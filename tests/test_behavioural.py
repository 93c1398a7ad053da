"""Shares of what was learned and the least rank that keeps one, where the answer is known."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from rank_lab.behavioural import (
    FEWEST_EXAMPLES,
    BehaviouralRank,
    KeptShare,
    behavioural_rank,
    change_since,
    kept_shares,
    unresolved,
)
from rank_lab.behavioural_tables import MeasuredModels, Setting, Size, point_rows, rank_rows, tasks_of
from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.forgetting import PAIRED, Change
from rank_lab.quantities import energy_rank
from rank_lab.rank_search import doubling_ranks, next_rank
from rank_lab.score_draws import Resampling
from rank_lab.score_row import ScoreRow
from rank_lab.spectrum import Spectrum
from rank_lab.truncated_update import TRUNCATIONS, decomposed
from rank_lab.uncertainty import Interval
from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix

SHA = "0" * 64


def row(examples: Sequence[float], task: str = "code", role: str = "target", **changes: object) -> ScoreRow:
    """A loss with its value of each text."""
    made = ScoreRow(
        "run", "full", 9, task, "cross_entropy", float(np.mean(examples)), n=len(examples), role=role,
        higher_is_better=False, set_sha256=SHA, examples=tuple(examples),
    )  # fmt: skip
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def texts(count: int = 40, *, seed: int = 0) -> np.ndarray:
    return 3.0 + 0.3 * np.random.default_rng(seed).standard_normal(count)


def better(base: np.ndarray, by: float, *, seed: int = 7) -> np.ndarray:
    """Losses that are lower by so much in the mean, each text by another part of it."""
    parts = 1.0 + 0.2 * np.random.default_rng(seed).standard_normal(len(base))
    return base - by * parts / parts.mean()


def share(k: int, value: float, draws: Sequence[float] | None = None) -> KeptShare:
    found = None if draws is None else np.asarray(draws, float)
    return KeptShare(k, Change(1.0, 0.9, 1.1, PAIRED), Interval(value, value, value), found)


# -- shares -----------------------------------------------------------------------------------------------------------


def test_the_share_is_of_what_was_learned() -> None:
    base = texts()
    gains = {0: 0.0, 1: 0.5, 2: 0.75, 4: 1.0}
    rows = {k: [row(better(base, gain))] for k, gain in gains.items()}
    found = kept_shares(rows, rows[4], [row(base)])
    assert [round(each.share.value, 9) for each in found] == [0.0, 0.5, 0.75, 1.0]
    assert [each.change.value for each in found] == pytest.approx([0.0, 0.5, 0.75, 1.0])


def test_the_tuned_model_keeps_all_of_it_and_the_base_none_without_an_interval_of_noise() -> None:
    base, random = texts(), np.random.default_rng(1)
    tuned = base - 1.0 + 0.2 * random.standard_normal(len(base))
    found = kept_shares({0: [row(base)], 8: [row(tuned)]}, [row(tuned)], [row(base)])
    assert [(each.share.value, each.share.low, each.share.high) for each in found] == [(0, 0, 0), (1, 1, 1)]


def test_the_interval_of_a_share_covers_it_as_often_as_it_says() -> None:
    random, inside = np.random.default_rng(2), 0
    for trial in range(100):
        base = texts(60, seed=trial)
        gain = 1.0 + 0.5 * random.standard_normal(60)
        half = base - 0.6 * gain + 0.1 * random.standard_normal(60)
        (found,) = kept_shares(
            {1: [row(half)]}, [row(base - gain)], [row(base)], resampling=Resampling(400, seed=trial)
        )  # fmt: skip
        inside += found.share.low <= 0.6 <= found.share.high  # type: ignore[operator]
    assert 88 <= inside <= 100  # of 95 expected, three standard deviations


def test_several_targets_are_one_mean_of_what_was_learned() -> None:
    base, other = texts(), texts(seed=5)
    gains = {2: (0.5, 0.1), 4: (1.0, 1.0)}
    rows = {k: [row(better(base, one)), row(better(other, two), "maths")] for k, (one, two) in gains.items()}
    found = kept_shares(rows, rows[4], [row(base), row(other, "maths")])
    assert found[0].share.value == pytest.approx(0.3)


def test_nothing_learned_is_no_share_and_says_so() -> None:
    base, random = texts(), np.random.default_rng(3)
    tuned = [row(base + 0.5 * random.standard_normal(len(base)))]
    (found,) = kept_shares({4: tuned}, tuned, [row(base)])
    assert math.isnan(found.share.value)
    assert "nothing was learned" in found.share.reason
    rank = behavioural_rank([found])
    assert (rank.value, rank.low, rank.high) == (None, None, None)
    assert "not above its noise" in rank.reason


def test_what_became_worse_is_told_from_noise() -> None:
    base = texts()
    worse, improved = [row(better(base, -1.0))], [row(better(base, 1.0))]
    (found,) = kept_shares({4: worse}, worse, [row(base)])
    assert "became worse" in found.share.reason
    (found,) = kept_shares({4: improved}, improved, [row(base)], role="source")
    assert "nothing was forgotten" in found.share.reason
    assert "became better" in found.share.reason


def test_too_few_texts_are_refused_by_number() -> None:
    base = texts(FEWEST_EXAMPLES - 1)
    (found,) = kept_shares({4: [row(base - 1)]}, [row(base - 1)], [row(base)])
    assert f"{FEWEST_EXAMPLES - 1} examples of code are too few" in found.share.reason


def test_scores_without_examples_have_no_share() -> None:
    bare = dataclasses.replace(row(texts()), examples=None, stderr=0.01)
    low = dataclasses.replace(bare, value=2.0)
    (found,) = kept_shares({4: [low]}, [low], [bare])
    assert found.share.value == 1.0
    middle = dataclasses.replace(bare, value=2.5)
    (found,) = kept_shares({2: [middle]}, [low], [bare])
    rank = behavioural_rank([found, share(4, 1.0)], 0.4)
    assert (rank.value, rank.low, rank.reason) == (2, None, "the scores are not of the same examples")


def test_other_texts_are_not_compared() -> None:
    base = texts()
    found = change_since([row(base - 1, set_sha256="1" * 64)], [row(base)], role="target")
    assert math.isnan(found.value)
    assert "different examples" in unresolved(found, [row(base)], role="target")


@pytest.mark.parametrize("role", ["", "both"])
def test_an_unknown_role_is_refused(role: str) -> None:
    with pytest.raises(RankLabError, match="expected 'target'"):
        change_since([row(texts())], [row(texts())], role=role)


# -- the rank ---------------------------------------------------------------------------------------------------------


def test_the_rank_is_the_least_that_keeps_the_share() -> None:
    curve = [share(k, value) for k, value in ((1, 0.5), (2, 0.8), (3, 0.9), (4, 0.95), (8, 1.0))]
    assert behavioural_rank(curve, 0.9).value == 3
    assert behavioural_rank(curve, 0.9).exact
    assert behavioural_rank(curve, 0.96).tried_below == 4
    assert not behavioural_rank(curve, 0.96).exact
    assert behavioural_rank(curve, 1.0).value == 8


def test_a_share_that_falls_again_is_told() -> None:
    found = behavioural_rank([share(k, value) for k, value in ((1, 0.5), (2, 0.95), (3, 0.7), (4, 1.0))])
    assert (found.value, found.lasting) == (2, 4)


def test_no_rank_that_was_tried_keeps_so_much() -> None:
    found = behavioural_rank([share(1, 0.3), share(2, 0.6)], 0.9)
    assert found.value is None
    assert (
        found.reason == "no rank that was tried keeps 0.9: the most is 0.6, at 2, and the largest that was tried is 2"
    )


def test_vectors_alone_may_keep_it() -> None:
    assert behavioural_rank([share(0, 0.95), share(1, 0.97)]).value == 0


def test_the_interval_holds_every_rank_that_is_possible() -> None:
    draws = np.linspace(0.0, 1.0, 1000)
    curve = [share(1, 0.2, draws * 0), share(4, 0.85, 0.8 + 0.2 * draws), share(8, 0.95, 0.9 + 0.1 * draws)]
    found = behavioural_rank(curve, 0.9)
    assert (found.value, found.low, found.high) == (8, 2, 8)  # below 4 nothing but 1 was tried


def test_an_interval_needs_resamples_that_have_a_rank() -> None:
    curve = [share(1, 0.5, [0.5] * 10), share(2, 0.95, [0.95] * 5 + [0.5] * 5)]
    found = behavioural_rank(curve, 0.9)
    assert (found.value, found.low) == (2, None)
    assert found.reason == "5 of 10 resamples have no rank that keeps it"


@pytest.mark.parametrize("value", [0.0, -1.0, 1.1, math.nan])
def test_a_share_out_of_its_range_is_refused(value: float) -> None:
    with pytest.raises(RankLabError, match="above 0 and at most 1"):
        behavioural_rank([share(1, 1.0)], value)


def test_nothing_tried_is_refused() -> None:
    with pytest.raises(RankLabError, match="no rank was tried"):
        behavioural_rank([])
    with pytest.raises(RankLabError, match="no rank was tried"):
        kept_shares({}, [row(texts())], [row(texts())])


# -- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("wanted", [1, 2, 3, 17, 63, 100])
def test_the_search_finds_the_least_rank_in_few_steps(bound: int, wanted: int) -> None:
    if wanted > bound:
        return
    tried = {k: share(k, 1.0 if k >= wanted else 0.5) for k in (0, *doubling_ranks(bound))}
    steps = 0
    while (k := next_rank(list(tried), behavioural_rank(list(tried.values())))) is not None:
        tried[k] = share(k, 1.0 if k >= wanted else 0.5)
        steps += 1
    found = behavioural_rank(list(tried.values()))
    assert (found.value, found.exact) == (wanted, True)
    assert steps <= math.log2(bound) + 1


def test_the_search_stops_where_there_is_no_rank_and_where_it_is_near_enough() -> None:
    assert next_rank([1, 2], BehaviouralRank(0.9, None)) is None
    assert next_rank([64, 72], BehaviouralRank(0.9, 72, tried_below=64), precision=0.125) is None
    assert next_rank([64, 72], BehaviouralRank(0.9, 72, tried_below=64)) == 68
    with pytest.raises(RankLabError, match="rank 0"):
        doubling_ranks(0)


# -- cut updates ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (6, 6)])
@pytest.mark.parametrize("transposed", [False, True])
def test_leading_directions_are_the_best_of_their_rank(
    shape: tuple[int, int], transposed: bool, generator: torch.Generator
) -> None:
    tuned, base = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    dense = (tuned - base).T if transposed else tuned - base
    left, values, right = torch.linalg.svd(dense.double(), full_matrices=False)
    found = decomposed(DenseUpdate(MemoryMatrix(tuned), MemoryMatrix(base), transposed=transposed))
    for k in range(min(shape) + 1):
        best = ((left[:, :k] * values[:k]) @ right[:k]).float()
        torch.testing.assert_close(found.cut(k), best, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.cut(k, "tail"), dense - best, atol=1e-5, rtol=1e-5)
        assert float(found.cut(k, "shrunk").norm()) == pytest.approx(float(best.norm()), rel=1e-4, abs=1e-6)
        assert torch.linalg.matrix_rank(found.cut(k, "random"), tol=1e-4) == k


def test_factors_are_cut_as_their_product_is(generator: torch.Generator) -> None:
    factored = LowRankUpdate(torch.randn(9, 4, generator=generator), torch.randn(4, 7, generator=generator), 0.5)
    dense = factored.to_dense()
    thin, thick = decomposed(factored), decomposed(DenseUpdate(MemoryMatrix(dense)))
    assert (thin.bound, thick.bound) == (4, 7)
    for k in range(5):
        torch.testing.assert_close(thin.cut(k), thick.cut(k), atol=1e-5, rtol=1e-5)
        assert thin.energies[k] == pytest.approx(thick.energies[k])
    for way in ("leading", "random", "shrunk"):
        torch.testing.assert_close(thin.cut(4, way), dense.float(), atol=1e-5, rtol=1e-5)
    assert torch.linalg.matrix_rank(thin.cut(2, "random"), tol=1e-4) == 2


def test_random_directions_hold_their_share_of_the_energy(generator: torch.Generator) -> None:
    found = decomposed(DenseUpdate(MemoryMatrix(torch.randn(64, 96, generator=generator))))
    whole = found.spectrum.frobenius_norm**2
    for k in (8, 16, 32):
        held = float(found.cut(k, "random").norm()) ** 2 / whole
        assert held == pytest.approx(k / 64, rel=0.25)


@pytest.mark.parametrize(("few", "more"), [(1, 2), (2, 3), (3, 6)])
def test_random_directions_contain_those_of_a_smaller_rank(few: int, more: int, generator: torch.Generator) -> None:
    found = decomposed(DenseUpdate(MemoryMatrix(torch.randn(9, 7, generator=generator))))
    small, large = found.cut(few, "random").double(), found.cut(more, "random").double()
    onto = torch.linalg.svd(small, full_matrices=False).Vh[:few]
    torch.testing.assert_close(large @ onto.T @ onto, small, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("factored", [False, True])
def test_random_directions_are_those_of_the_update_and_not_of_its_decomposition(
    factored: bool, generator: torch.Generator
) -> None:
    left, right = torch.randn(12, 4, generator=generator), torch.randn(4, 9, generator=generator)
    update = LowRankUpdate(left, right) if factored else DenseUpdate(MemoryMatrix(left @ right))
    found = decomposed(update)
    turn = torch.linalg.qr(torch.randn(found.bound, found.bound, generator=generator).double()).Q
    signs = torch.diag(torch.tensor([1.0, -1.0]).repeat(5)[: found.bound].double())
    for way in (signs, turn):
        others = [part.double() for part in found.basis]
        others = [others[0] @ way, way.T @ others[1]] if factored else [others[0] @ way]
        other = dataclasses.replace(found, basis=tuple(part.to(found.basis[0]) for part in others))
        for k in (1, 2, 3):
            for seed in (0, (0, 1)):
                torch.testing.assert_close(found.cut(k, "random", seed=seed), other.cut(k, "random", seed=seed))
    apart = found.cut(2, "random", seed=(0, 1)) - found.cut(2, "random", seed=(1, 0))
    assert float(apart.norm()) > 0.1 * found.spectrum.frobenius_norm


def test_random_directions_of_factors_are_uniform_within_their_span(generator: torch.Generator) -> None:
    """Over many draws the mean projection is k / q of the identity on the row space, and nothing outside of it."""
    right = torch.linalg.qr(torch.randn(9, 3, generator=generator).double()).Q.T
    found = decomposed(LowRankUpdate(torch.eye(3).double(), right))  # the update is a projection's coordinates
    draws = [found.cut(1, "random", seed=seed).double() for seed in range(600)]
    for drawn in draws[:5]:  # each is a projection of rank 1 within the span
        onto = drawn @ right.T
        torch.testing.assert_close(onto @ onto, onto, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(onto @ right, drawn, atol=1e-5, rtol=1e-5)
    mean = torch.stack([drawn @ right.T for drawn in draws]).mean(dim=0)
    torch.testing.assert_close(mean, torch.eye(3).double() / 3, atol=0.05, rtol=0.0)  # 4 standard deviations


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(NonFiniteError):
        decomposed(DenseUpdate(MemoryMatrix(torch.tensor([[1.0, math.nan]]))))
    found = decomposed(DenseUpdate(MemoryMatrix(torch.eye(2))))
    with pytest.raises(RankLabError, match="rank -1"):
        found.cut(-1)
    with pytest.raises(RankLabError, match="leading, tail, random, shrunk"):
        found.cut(1, "middle")  # type: ignore[arg-type]


# -- a model whose answer is known ------------------------------------------------------------------------------------


def measured_linear(update: torch.Tensor, ranks: Sequence[int]) -> MeasuredModels:
    r"""A regression :math:`y = (W + \Delta) x`, whose loss summed over the axes is the squared norm of what is missing.

    The share of what was learned is then the share of the energy, so that the behavioural rank is the energy rank.
    """
    cut = decomposed(DenseUpdate(MemoryMatrix(update)))

    def losses(part: torch.Tensor, role: str = "target") -> tuple[ScoreRow, ...]:
        return (row((update - part).double().square().sum(dim=0).tolist(), role=role),)

    truncated = {Setting("leading", k): losses(cut.cut(k)) for k in ranks}
    truncated |= {Setting("random", k): losses(cut.cut(k, "random")) for k in ranks}
    sizes = {k: Size(k, float(cut.energies[k])) for k in ranks}
    base, tuned = losses(torch.zeros_like(update)), losses(update)
    bound = min(update.shape)
    return MeasuredModels(base, tuned, truncated, sizes, bound, energy_rank(cut.spectrum, 0.9))


@pytest.mark.parametrize("asked", [0.5, 0.9, 0.99])
def test_where_the_loss_is_the_missing_energy_it_is_the_energy_rank(asked: float, generator: torch.Generator) -> None:
    values = torch.arange(16, 0, -1) ** 1.5
    left, right = (torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q for _ in range(2))
    update = left @ torch.diag(values) @ right
    (found,) = rank_rows(measured_linear(update, range(17)), asked, Resampling())
    expected = energy_rank(Spectrum.from_values(values.tolist(), shape=(16, 16)), asked)
    assert found["rank"] == found["lasting_rank"] == expected
    assert (
        found["energy_at_rank"] >= asked > float(decomposed(DenseUpdate(MemoryMatrix(update))).energies[expected - 1])
    )
    assert found["random_rank"] > expected


def test_a_planted_rank_is_found_whatever_noise_the_files_have(generator: torch.Generator) -> None:
    planted = torch.randn(64, 3, generator=generator) @ torch.randn(3, 64, generator=generator)
    noisy = planted + 0.05 * torch.randn(64, 64, generator=generator)
    measured = measured_linear(noisy, range(65))
    (found,) = rank_rows(measured, 0.95, Resampling())
    assert found["rank"] == 3
    assert found["rank_low"] <= 3 <= found["rank_high"]
    points = [point for point in point_rows(measured, Resampling()) if point["how"] == "leading"]
    assert [point["k"] for point in points] == list(range(65))
    for point in points:
        assert point["share"] == pytest.approx(point["energy"], abs=1e-4)


def test_what_truncation_spares_is_paired_with_the_tuned_model() -> None:
    base, source = texts(), texts(seed=9)
    kept = {0: (0.0, 0.0), 1: (0.6, 0.1), 2: (0.95, 0.3), 4: (1.0, 0.5)}
    models = {
        k: (row(better(base, learned)), row(better(source, -forgot), "prose", "source"))
        for k, (learned, forgot) in kept.items()
    }  # fmt: skip
    sizes = {k: Size(k, k / 4) for k in kept}
    measured = MeasuredModels(models[0], models[4], {Setting("leading", k): models[k] for k in kept}, sizes, 4, 4)
    (found,) = rank_rows(measured, 0.9, Resampling())
    assert found["rank"] == 2
    assert found["forgotten"] == pytest.approx(0.5)
    assert found["forgotten_at_rank"] == pytest.approx(0.3)
    assert found["spared"] == pytest.approx(0.2)
    assert found["random_rank"] is None
    assert found["random_reason"] == "random directions were not tried"
    assert {way for way in TRUNCATIONS if way in {point["how"] for point in point_rows(measured, Resampling())}} == {
        "leading"
    }


def test_without_source_texts_nothing_is_said_of_forgetting() -> None:
    base = texts()
    models = {k: (row(better(base, gain)),) for k, gain in ((0, 0.0), (1, 1.0))}
    measured = MeasuredModels(
        models[0], models[1], {Setting("leading", k): rows for k, rows in models.items()},
        {0: Size(0, 0.0), 1: Size(1, 1.0)}, 1, 1,
    )  # fmt: skip
    (found,) = rank_rows(measured, 0.9, Resampling())
    assert math.isnan(found["forgotten"])
    assert found["forgotten_reason"] == "no source texts were given"


def test_targets_stand_alone_and_together() -> None:
    rows = [row(texts(), "code"), row(texts(), "maths"), row(texts(), "prose", "source")]
    assert [name for name, _ in tasks_of(rows, "target")] == ["code", "maths", ""]
    assert tasks_of(rows, "source") == [("prose", ("prose",))]
