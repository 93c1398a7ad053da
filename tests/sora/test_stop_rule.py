"""The stop rule on logs made by hand."""

from typing import Any

import pytest

from rank_lab.errors import RankLabError
from rank_lab.sora import Schedule, StopRule
from rank_lab.sora.stop_rule import gates_fell, stopped

RULE = StopRule(min_steps=0, max_steps=200, check_steps=10, patience=3, tolerance=0.1)


def log(losses: list[float], gates: list[int] | None = None, **more: Any) -> list[dict[str, Any]]:
    counts = [5] * len(losses) if gates is None else gates
    checks = [
        {"step": 10 * place, "loss": loss, "nonzero_gates": count, **more}
        for place, (loss, count) in enumerate(zip(losses, counts, strict=True), 1)
    ]
    return [*checks[:1], {"step": 10, "eval_loss": 9.0}, *checks[1:], {"step": 10 * len(checks), "train_loss": 1.0}]


FLAT, FALLING = [1.0] * 6, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]


@pytest.mark.parametrize(
    ("history", "stop"),
    [
        ([], None),
        (log(FLAT), "converged"),
        (log(FLAT[:5]), None),  # twice the patience is needed
        (log(FALLING), None),
        (log([9.0, *FLAT]), "converged"),  # only the last six count
        (log(FLAT, [9, 8, 7, 5, 5, 5]), "converged"),
        (log(FLAT, [5, 5, 5, 5, 6, 5]), None),
        (log([1.0, 1.0, 1.0, 1.0, 1.0, 1.29]), "converged"),  # 0.0967 of the mean
        (log([1.0, 1.0, 1.0, 1.0, 1.0, 1.31]), None),
        (log([-1.0] * 3 + [-1.05] * 3), "converged"),
        (log([0.0] * 6), None),  # nothing is less than a tenth of zero
        (log([1.0 - 0.04 * place for place in range(20)]), "max_steps"),
        (log(FLAT, target_reached=False), None),
        (log(FLAT, target_reached=True), "converged"),
        (log([1.0] * 20, target_reached=False), "target_not_reached"),
    ],
)
def test_when_a_stage_ends(history: list[dict[str, Any]], stop: str | None) -> None:
    assert stopped(RULE, history) == stop


def test_not_before_the_least_number_of_steps() -> None:
    rule = StopRule(min_steps=70, max_steps=200, check_steps=10, patience=3, tolerance=0.1)
    assert stopped(rule, log([1.0] * 6)) is None
    assert stopped(rule, log([1.0] * 7)) == "converged"


def test_a_loss_that_has_not_begun_to_fall_is_not_flat_yet() -> None:
    rule = StopRule(min_steps=0, max_steps=200, check_steps=10, patience=3, tolerance=0.1, fall=0.2)
    assert stopped(rule, log(FLAT)) is None
    assert stopped(rule, log([1.0] * 5 + [0.79] * 6)) == "converged"
    assert stopped(rule, log([1.0] * 5 + [0.81] * 6)) is None
    assert stopped(rule, log([1.0] * 20)) == "max_steps"
    assert Schedule(thresholds=(0.0, 1.0)).goals[0].rule.fall == 0.05
    assert Schedule(thresholds=(0.0, 1.0)).goals[1].rule.fall == 0.0
    assert Schedule(thresholds=(0.0, 1.0), dense_stop=StopRule()).goals[0].rule.fall == 0.0


@pytest.mark.parametrize(("patience", "fell"), [(1, 1 / 6), (2, 2 / 7), (3, 3 / 8), (4, 3 / 8)])
def test_how_far_gates_fell_in_the_last_checks(patience: int, fell: float) -> None:
    history = [{"loss": 1.0, "gate_sum": total} for total in (8.0, 7.0, 6.0, 5.0)]
    rule = StopRule(patience=patience)
    assert gates_fell(rule, history) == pytest.approx(fell)
    assert gates_fell(rule, history[:1]) == 0.0
    assert gates_fell(rule, [{"loss": 1.0, "gate_sum": 0.0}] * 5) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_steps": 0}, "max_steps 0"),
        ({"min_steps": 2000}, "min_steps 2000: expected 0 to max_steps, 1000"),
        ({"max_steps": 990}, "990 is no multiple of check_steps 20: .* give 980"),
        ({"patience": 0}, "patience 0"),
        ({"patience": 1.5}, "patience 1.5"),
        ({"tolerance": float("nan")}, "tolerance nan"),
        ({"tolerance": -0.1}, "tolerance -0.1"),
        ({"fall": 1.0}, "fall 1.0"),
        ({"fall": float("nan")}, "fall nan"),
    ],
)
def test_a_rule_that_is_none(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RankLabError, match=message):
        StopRule(**options)
