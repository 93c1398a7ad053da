r"""Controls of Algorithm 1: what its thresholds would have to beat.

Each control starts from the dense adapter of stage 0 and trains nothing: it
leaves out gates or directions until the same number of parameters remains
(:data:`BUDGET_CONTROLS`), or repeats what the published script does in its later
stages (:func:`as_shipped`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rank_lab.decomposition import spectrum_of
from rank_lab.errors import NonFiniteError, RankLabError, ShapeMismatchError
from rank_lab.sora.factors import GatedFactors, gated_factors, set_factors
from rank_lab.sora.gates import importance
from rank_lab.sora.thresholds import MODES, OPERATORS, check_threshold, is_whole
from rank_lab.spectrum import Spectrum

__all__ = [
    "AS_SHIPPED",
    "BUDGET_CONTROLS",
    "GatedFactors",
    "as_shipped",
    "gated_factors",
    "one_shot",
    "one_shot_importance",
    "set_factors",
    "shipped_thresholds",
    "svd_truncated",
]

AS_SHIPPED = "as_shipped"
"""The control that goes by thresholds; all others, by a number of parameters, are in :data:`BUDGET_CONTROLS`."""


def one_shot(factors: Sequence[GatedFactors], parameters: int) -> list[GatedFactors]:
    r"""Close gates at once by their size :math:`|g_i|`, until no more than so many parameters remain.

    A gate of module :math:`m` costs :math:`\mathrm{in}_m + \mathrm{out}_m`.
    Non-zero gates are gone through over all modules, the largest first and equal
    ones in the order of modules, and each is kept if its cost still fits the
    budget: where modules differ in size, a dear one that no longer fits is passed
    over and cheaper ones may follow. What is left of the budget is less than any
    closed gate costs. Factors are not changed.

    Parameters
    ----------
    factors
        Of the dense adapter.
    parameters
        The budget: exact non-zero parameters, 0 or more.

    Raises
    ------
    RankLabError
        If the budget is no such number.
    NonFiniteError
        If a factor or gate is not finite.

    Examples
    --------
    >>> factors = GatedFactors("up", torch.ones(3, 4), torch.tensor([0.5, -2.0, 1.0]), torch.ones(6, 3), scaling=1.0)
    >>> one_shot([factors], parameters=25)[0].gate
    tensor([ 0., -2.,  1.])
    """
    _check(factors, parameters)
    return _closed_but(factors, [each.gate.abs() for each in factors], parameters)


def one_shot_importance(factors: Sequence[GatedFactors], parameters: int) -> list[GatedFactors]:
    r"""The same by :math:`|s|\,|g_i|\,\|A_i\|\,\|B_i\|`, which does not depend on how a direction is scaled.

    See :func:`one_shot` for the rule, and :func:`rank_lab.sora.importance`.

    Examples
    --------
    >>> A = torch.tensor([[1.0, 0.0], [9.0, 0.0]])
    >>> factors = GatedFactors("up", A, torch.tensor([1.0, 0.5]), torch.ones(3, 2), scaling=1.0)
    >>> one_shot([factors], parameters=5)[0].gate, one_shot_importance([factors], parameters=5)[0].gate
    (tensor([1., 0.]), tensor([0.0000, 0.5000]))
    """
    _check(factors, parameters)
    return _closed_but(factors, [importance(each.update) for each in factors], parameters)


def svd_truncated(factors: Sequence[GatedFactors], parameters: int) -> list[GatedFactors]:
    r"""Keep the leading singular directions of all updates within a budget of parameters.

    With :math:`s B\,\mathrm{diag}(g) A = U \Sigma V^T` of each module (from the
    r x r core between the QR factors of both sides, never the whole matrix), a
    direction that is kept becomes a row of :math:`A' = \sqrt{\Sigma/|s|}\,V^T` and
    a column of :math:`B' = \mathrm{sign}(s)\,U\sqrt{\Sigma/|s|}`, with a gate of
    one; rank and scaling stay, so that it is a SoRA adapter again. Directions are
    chosen over all modules by energy per parameter,
    :math:`\sigma^2 / (\mathrm{in} + \mathrm{out})`, by the rule of :func:`one_shot`.

    Where all modules have one shape, nothing of the same number of parameters is
    closer to the dense update. The budget then allows :math:`K` directions in all;
    modules of ranks :math:`k_m` are at least :math:`\sum_m \sum_{i > k_m}
    \sigma_{m,i}^2` away (Eckart and Young, of each module), and with
    :math:`\sum_m k_m \le K` that is least where the :math:`K` largest of all
    singular values are kept. Where shapes differ, energy per parameter is the
    greedy choice: what it keeps is short of the best by less than the first
    direction that did not fit.

    Parameters
    ----------
    factors
        Of the dense adapter.
    parameters
        The budget: exact non-zero parameters, 0 or more.

    Returns
    -------
    list of GatedFactors
        In the types of the given ones: at full budget equal to them to the
        rounding of those types. Singular values that float64 cannot tell from zero
        count as zero.

    Raises
    ------
    RankLabError
        If the budget is no such number.
    NonFiniteError
        If a factor or gate is not finite.
    ConvergenceError
        If LAPACK gives up.

    Examples
    --------
    >>> factors = GatedFactors("up", torch.eye(2), torch.tensor([3.0, 2.0]), torch.eye(2), scaling=2.0)
    >>> truncated = svd_truncated([factors], parameters=4)[0]
    >>> truncated.gate.tolist(), [[round(x, 4) for x in row] for row in truncated.update.to_dense().tolist()]
    ([1.0, 0.0], [[6.0, 0.0], [0.0, 0.0]])
    """
    _check(factors, parameters)
    spectra = [spectrum_of(each.update, vectors=len(each.gate)) for each in factors]
    energies = [_energies(each, spectrum) for each, spectrum in zip(factors, spectra, strict=True)]
    above = [energy > 0 for energy in energies]
    kept = _within(energies, above, factors, parameters)
    return [_directions(*parts) for parts in zip(factors, spectra, kept, strict=True)]


def _energies(factors: GatedFactors, spectrum: Spectrum) -> Tensor:
    """Energy per parameter, as many as gates; zero where float64 sees no direction."""
    values = torch.tensor(spectrum.values * (spectrum.values > spectrum.floor))
    energies = torch.zeros(len(factors.gate), dtype=torch.float64)
    energies[: len(values)] = values.square() / sum(spectrum.shape)
    return energies


def _directions(factors: GatedFactors, spectrum: Spectrum, kept: Tensor) -> GatedFactors:
    """The kept directions as factors of the same rank."""
    A, B = torch.zeros_like(factors.A), torch.zeros_like(factors.B)
    count = int(kept.sum())  # the leading ones: all of a module cost the same
    if count:
        U, values, Vh = (torch.tensor(part) for part in (spectrum.U, spectrum.values, spectrum.Vh))
        sizes = (values[:count] / abs(factors.scaling)).sqrt()
        A[:count] = Vh[:count] * sizes[:, None]
        B[:, :count] = U[:, :count] * (sizes if factors.scaling > 0 else -sizes)
    return replace(factors, A=A, B=B, gate=kept.to(factors.gate))


def _check(factors: Sequence[GatedFactors], parameters: int) -> None:
    if not is_whole(parameters) or parameters < 0:
        raise RankLabError(f"parameters {parameters!r}: expected a number of parameters, 0 or more.")
    for each in factors:
        for role, values in (("A", each.A), ("gate", each.gate), ("B", each.B)):
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteError(
                    f"{each.module}: {role} holds NaN or infinite values; start from an adapter whose training did not"
                    " diverge."
                )


def _within(
    scores: Sequence[Tensor], among: Sequence[Tensor], factors: Sequence[GatedFactors], budget: int
) -> list[Tensor]:
    """Which to keep, by the rule of `one_shot`, of those marked in ``among``."""
    costs = [sum(each.update.shape) for each in factors]
    order = sorted(
        (-float(score), module, place)
        for module, each in enumerate(scores)
        for place, score in enumerate(each)
        if bool(among[module][place])
    )
    kept = [torch.zeros(len(each), dtype=torch.bool) for each in scores]
    for _, module, place in order:
        if costs[module] <= budget:
            kept[module][place] = True
            budget -= costs[module]
    return kept


def _closed_but(factors: Sequence[GatedFactors], scores: Sequence[Tensor], budget: int) -> list[GatedFactors]:
    kept = _within(scores, [each.gate != 0 for each in factors], factors, budget)
    return [
        replace(each, gate=torch.where(open_.to(each.gate.device), each.gate, torch.zeros_like(each.gate)))
        for each, open_ in zip(factors, kept, strict=True)
    ]


def shipped_thresholds(
    mode: str,
    threshold: float,
    rates: Sequence[float],
    denominators: Tensor | None = None,
    *,
    prox_start_step: int = 0,
) -> Iterator[float | Tensor]:
    r"""What one stage's proximal steps subtract, step by step, when nothing else moves.

    Mode ``constant``: the threshold, in every step; ``lr``: :math:`\lambda \eta_t`;
    ``adam``: :math:`\lambda \eta_t / (\sqrt{\hat v} + \epsilon)` of each gate, with
    the second moments as the dense stage left them. The published script shrinks
    by a constant at a learning rate of zero; the other modes give its idea, the
    same shrink on gates that do not move, the rates that the stage would have had.

    Parameters
    ----------
    mode
        As in :class:`rank_lab.sora.ProximalStep`.
    threshold
        Of the stage.
    rates
        Learning rate of the gates in each step of the stage.
    denominators
        Mode ``adam``: :math:`\sqrt{\hat v} + \epsilon` of all gates, in the order of
        :func:`gated_factors`; see :func:`rank_lab.sora.adam_metric.gate_denominators`.
    prox_start_step
        First step after which gates are shrunk.

    Yields
    ------
    float or Tensor
        A number, or one value for each gate.

    Raises
    ------
    RankLabError
        If there is no such mode, a value is no threshold, or denominators are missing.

    Examples
    --------
    >>> list(shipped_thresholds("lr", 2.0, [0.5, 0.25], prox_start_step=1))
    [0.0, 0.5]
    """
    if mode not in MODES:
        raise RankLabError(f"mode {mode!r}: expected one of {', '.join(MODES)}.")
    check_threshold(threshold, "threshold")
    if mode == "adam" and denominators is None:
        raise RankLabError(
            "mode 'adam' divides by the optimizer's second moments: give gate_denominators of the dense stage's"
            " optimizer."
        )
    return _thresholds(mode, threshold, rates, denominators, prox_start_step)


def _thresholds(
    mode: str, threshold: float, rates: Sequence[float], denominators: Tensor | None, start: int
) -> Iterator[float | Tensor]:
    for step, rate in enumerate(rates):
        size = threshold if mode == "constant" else threshold * check_threshold(rate, f"rate of step {step}")
        if step < start:
            yield 0.0
        elif mode == "adam" and denominators is not None:
            yield size / denominators
        else:
            yield size


def as_shipped(
    factors: Sequence[GatedFactors], thresholds: Sequence[Iterable[float | Tensor]], operator: str
) -> list[list[GatedFactors]]:
    r"""What the published script makes of the dense adapter in its later stages.

    There the learning rate has fallen to zero for good, so that factors stay as
    they are and gates are only shrunk, step after step, each stage from where the
    last one ended. With the operator ``soft`` that is one soft threshold of all
    that was subtracted so far.

    Parameters
    ----------
    factors
        Of the dense adapter.
    thresholds
        Of each later stage: the thresholds of its steps, from :func:`shipped_thresholds`.
    operator
        ``soft`` or ``gapped`` (as published).

    Returns
    -------
    list of list of GatedFactors
        One adapter for each stage.

    Raises
    ------
    RankLabError
        If there is no such operator.
    ShapeMismatchError
        If thresholds are not one number, nor one for each gate.
    NonFiniteError
        If a factor or gate is not finite.

    Examples
    --------
    >>> dense = GatedFactors("up", torch.ones(2, 4), torch.tensor([1.0, 0.5]), torch.ones(3, 2), scaling=1.0)
    >>> stages = as_shipped([dense], [[0.25], [0.125] * 2], "soft")
    >>> [stage[0].gate.tolist() for stage in stages]
    [[0.75, 0.25], [0.5, 0.0]]
    """
    if operator not in OPERATORS:
        raise RankLabError(f"operator {operator!r}: expected one of {', '.join(OPERATORS)}.")
    _check(factors, 0)
    shrink, gates = OPERATORS[operator], torch.cat([each.gate for each in factors])
    lengths, stages = [len(each.gate) for each in factors], []
    for steps in thresholds:
        for threshold in steps:
            if isinstance(threshold, Tensor) and threshold.shape != gates.shape:
                raise ShapeMismatchError(
                    f"thresholds of shape {list(threshold.shape)} for {len(gates)} gates; give gate_denominators of the"
                    " same model."
                )
            gates = shrink(gates, threshold)
        parts = zip(factors, gates.split(lengths), strict=True)
        stages.append([replace(each, gate=gate.clone()) for each, gate in parts])
    return stages


BUDGET_CONTROLS: Mapping[str, Callable[[Sequence[GatedFactors], int], list[GatedFactors]]] = {
    "one_shot": one_shot,
    "one_shot_importance": one_shot_importance,
    "svd": svd_truncated,
}
"""From the dense factors and a number of parameters to the control's factors, by the name that curves have."""
