"""The table of quantities: complete, unambiguous, and true about what each one needs."""

import math
import re

import numpy as np
import pytest
import torch

from rank_lab import bulk, quantities
from rank_lab.decomposition import spectrum_of
from rank_lab.errors import IncompleteSpectrumError
from rank_lab.metrics import ENERGY_SHARES, METRICS, Metric, evaluate
from rank_lab.quantities import energy_rank
from rank_lab.spectrum import Spectrum
from rank_lab.update import LowRankUpdate
from tests.spectra import power_law, white_noise

# definitions.md, section 2, first column: the quantities of a weight update's spectrum, by our names.
DEFINED = {
    "num_rank": ("numerical_rank", "numerical_rank_tolerance"),
    "k_p": ("energy_rank_50", "energy_rank_90", "energy_rank_95", "energy_rank_99"),
    "stable rank": ("stable_rank",),
    "erank_s": ("effective_rank",),
    "erank_e": ("effective_rank_energy",),
    "participation": ("participation_ratio", "participation_ratio_energy"),
    "nuclear ratio": ("nuclear_ratio", "intrinsic_dimension", "nuclear_norm"),
    "Gavish-Donoho": ("gavish_donoho_rank",),
    "MP edge": ("marchenko_pastur_rank",),
    "alpha": ("tail_exponent",),
    "spectral growth": ("spectral_norm", "frobenius_norm"),
}
NOT_RANKS = {"frobenius_norm", "spectral_norm", "nuclear_norm", "numerical_rank_tolerance", "tail_exponent"}


def test_the_table_holds_the_defined_quantities_and_no_other() -> None:
    assert set(METRICS) == {name for names in DEFINED.values() for name in names}


def test_a_metric_can_be_looked_up_under_its_own_name() -> None:
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize("field", ["name", "symbol", "formula"])
def test_what_identifies_a_metric_is_given_and_unique(field: str) -> None:
    texts = [getattr(metric, field) for metric in METRICS.values()]
    assert all(text.strip() == text != "" for text in texts)
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
class TestRow:
    def test_formula_is_balanced_latex_without_dollars(self, metric: Metric) -> None:
        assert "$" not in metric.formula
        assert len(re.findall(r"(?<!\\)\{", metric.formula)) == len(re.findall(r"(?<!\\)\}", metric.formula))
        for left, right in (("(", ")"), (r"\{", r"\}")):
            assert metric.formula.count(left) == metric.formula.count(right)

    def test_symbol_is_plain_text(self, metric: Metric) -> None:
        assert "\\" not in metric.symbol
        assert len(metric.symbol) <= 12, "an axis label"

    def test_reference_can_be_found(self, metric: Metric) -> None:
        """Author and year with a DOI, an arXiv id or a venue with pages; or the function that set the convention."""
        pattern = r".+ \(\d{4}\), (doi:10\.\d{4,}/\S+|arXiv:\d{4}\.\d{5}|[A-Z]\w+, pp\. \d+-\d+)|numpy\.\w+\.\w+"
        assert metric.reference == "" or re.fullmatch(pattern, metric.reference)

    def test_counts_directions_if_it_is_called_a_rank(self, metric: Metric) -> None:
        assert metric.rank == (metric.name not in NOT_RANKS)

    def test_needs_what_it_says(self, metric: Metric) -> None:
        """On the five largest of 60 values, which hold more than 99 % of the energy and end below the tolerance."""
        values = 10.0 ** -np.arange(5.0)
        truncated = Spectrum(values, (60, 70), 60, float(np.linalg.norm(values)) * (1 + 1e-9), floor=1e-4)
        if metric.needs == "complete":
            with pytest.raises(IncompleteSpectrumError, match=metric.name):
                metric.function(truncated)
        else:
            assert math.isfinite(metric.function(truncated))

    def test_needs_values_unless_it_is_a_norm_of_the_stream(self, metric: Metric) -> None:
        nothing = Spectrum(np.zeros(0), (60, 70), 60, 2.0)
        if metric.needs == "norm":
            assert metric.function(nothing) == 2.0
        else:
            with pytest.raises(IncompleteSpectrumError):
                metric.function(nothing)

    def test_is_the_function_of_its_name(self, metric: Metric) -> None:
        name = "energy_rank" if metric.name.startswith("energy_rank_") else metric.name
        home = bulk if name in bulk.__all__ else quantities
        assert getattr(metric.function, "func", metric.function) is getattr(home, name)


class TestEvaluate:
    def test_gives_every_metric_in_the_order_of_the_table(self) -> None:
        values = evaluate(Spectrum.from_values(power_law(60), shape=(60, 70)))
        assert list(values) == list(METRICS)
        assert all(math.isfinite(value) for value in values.values())

    def test_gives_what_the_functions_give(self) -> None:
        spectrum = Spectrum.from_values(power_law(60), shape=(60, 70))
        for name, value in evaluate(spectrum).items():
            assert value == METRICS[name].function(spectrum)
        for percent in ENERGY_SHARES:
            assert evaluate(spectrum)[f"energy_rank_{percent}"] == energy_rank(spectrum, percent / 100)

    def test_has_no_number_where_a_metric_does_not_apply_to_factors(self, generator: torch.Generator) -> None:
        values = evaluate(spectrum_of(LowRankUpdate(white_noise((90, 8), generator), white_noise((8, 70), generator))))
        missing = {name for name, value in values.items() if math.isnan(value)}
        assert missing == {"gavish_donoho_rank", "marchenko_pastur_rank", "tail_exponent"}

    def test_has_only_what_is_zero_for_a_zero_update(self) -> None:
        values = evaluate(Spectrum.from_values([], shape=(60, 70)))
        counted = {"numerical_rank", "gavish_donoho_rank", "marchenko_pastur_rank"} | {
            f"energy_rank_{percent}" for percent in ENERGY_SHARES
        }
        norms = {"frobenius_norm", "spectral_norm", "nuclear_norm", "numerical_rank_tolerance"}
        assert {name for name, value in values.items() if value == 0.0} == counted | norms
        assert all(math.isnan(values[name]) for name in set(METRICS) - counted - norms)

    def test_is_made_of_plain_floats(self) -> None:
        assert {type(value) for value in evaluate(Spectrum.from_values([2.0, 1.0], shape=(2, 3))).values()} == {float}
