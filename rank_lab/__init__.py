"""rank_lab: what fine-tuning changed, in numbers that can be trusted.

The public names are loaded when they are first used, so that importing the
package costs nothing and ``rank-lab --help`` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rank_lab.amplification import amplifications, projected_cores
    from rank_lab.analysis import analyze
    from rank_lab.budget import RankAllocator, budget_curve, plan_ranks
    from rank_lab.bulk import gavish_donoho_rank, marchenko_pastur_rank, tail_exponent
    from rank_lab.checkpoint import Checkpoint
    from rank_lab.decomposition import spectrum_of
    from rank_lab.directions import ModuleSpectrum
    from rank_lab.errors import RankLabError
    from rank_lab.extraction import RankChoice, extract
    from rank_lab.functional import weighted_spectrum
    from rank_lab.functional_report import FunctionalReport
    from rank_lab.intruders import intruder_counts, weight_directions
    from rank_lab.lora_config import peft_config
    from rank_lab.measurement import MeasurementOptions
    from rank_lab.metrics import METRICS, Metric
    from rank_lab.module_comparison import ComparisonOptions
    from rank_lab.null import factor_null, null_ranks, null_spectrum
    from rank_lab.pairing import plan_updates
    from rank_lab.planned import RunSource, Settings
    from rank_lab.quantities import (
        effective_rank,
        effective_rank_energy,
        energy_rank,
        frobenius_norm,
        intrinsic_dimension,
        nuclear_norm,
        nuclear_ratio,
        numerical_rank,
        numerical_rank_tolerance,
        participation_ratio,
        participation_ratio_energy,
        spectral_norm,
        stable_rank,
    )
    from rank_lab.rank_plan import RankPlan
    from rank_lab.report import RankReport
    from rank_lab.report_spectra import module_spectra
    from rank_lab.spec import UpdateSpec, read_update
    from rank_lab.spectrum import Spectrum
    from rank_lab.subspace import chordal_distance, geodesic_distance, phi, phi_null, principal_angles
    from rank_lab.subspace_analysis import compare_runs
    from rank_lab.subspace_null import random_angles
    from rank_lab.subspace_report import SubspaceReport
    from rank_lab.trajectory import open_run
    from rank_lab.update import DenseUpdate, LowRankUpdate, MemoryMatrix, Update

__version__ = "0.1.0"

_HOMES = {
    "amplification": (
        "amplifications",
        "projected_cores",
    ),
    "analysis": ("analyze",),
    "budget": ("RankAllocator", "budget_curve", "plan_ranks"),
    "bulk": ("gavish_donoho_rank", "marchenko_pastur_rank", "tail_exponent"),
    "checkpoint": ("Checkpoint",),
    "decomposition": ("spectrum_of",),
    "directions": ("ModuleSpectrum",),
    "errors": ("RankLabError",),
    "extraction": ("RankChoice", "extract"),
    "intruders": (
        "intruder_counts",
        "weight_directions",
    ),
    "lora_config": ("peft_config",),
    "measurement": ("MeasurementOptions",),
    "metrics": ("METRICS", "Metric"),
    "module_comparison": ("ComparisonOptions",),
    "null": ("factor_null", "null_ranks", "null_spectrum"),
    "pairing": ("plan_updates",),
    "planned": ("RunSource", "Settings"),
    "quantities": (
        "effective_rank",
        "effective_rank_energy",
        "energy_rank",
        "frobenius_norm",
        "intrinsic_dimension",
        "nuclear_norm",
        "nuclear_ratio",
        "numerical_rank",
        "numerical_rank_tolerance",
        "participation_ratio",
        "participation_ratio_energy",
        "spectral_norm",
        "stable_rank",
    ),
    "rank_plan": ("RankPlan",),
    "report": ("RankReport",),
    "report_spectra": ("module_spectra",),
    "spec": ("UpdateSpec", "read_update"),
    "spectrum": ("Spectrum",),
    "subspace": (
        "chordal_distance",
        "geodesic_distance",
        "phi",
        "phi_null",
        "principal_angles",
    ),
    "functional": ("weighted_spectrum",),
    "functional_report": ("FunctionalReport",),
    "subspace_analysis": ("compare_runs",),
    "subspace_null": ("random_angles",),
    "subspace_report": ("SubspaceReport",),
    "trajectory": ("open_run",),
    "update": ("DenseUpdate", "LowRankUpdate", "MemoryMatrix", "Update"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "METRICS",
    "Checkpoint",
    "ComparisonOptions",
    "DenseUpdate",
    "FunctionalReport",
    "LowRankUpdate",
    "MeasurementOptions",
    "MemoryMatrix",
    "Metric",
    "ModuleSpectrum",
    "RankAllocator",
    "RankChoice",
    "RankLabError",
    "RankPlan",
    "RankReport",
    "RunSource",
    "Settings",
    "Spectrum",
    "SubspaceReport",
    "Update",
    "UpdateSpec",
    "__version__",
    "amplifications",
    "analyze",
    "budget_curve",
    "chordal_distance",
    "compare_runs",
    "effective_rank",
    "effective_rank_energy",
    "energy_rank",
    "extract",
    "factor_null",
    "frobenius_norm",
    "gavish_donoho_rank",
    "geodesic_distance",
    "intrinsic_dimension",
    "intruder_counts",
    "marchenko_pastur_rank",
    "module_spectra",
    "nuclear_norm",
    "nuclear_ratio",
    "null_ranks",
    "null_spectrum",
    "numerical_rank",
    "numerical_rank_tolerance",
    "open_run",
    "participation_ratio",
    "participation_ratio_energy",
    "peft_config",
    "phi",
    "phi_null",
    "plan_ranks",
    "plan_updates",
    "principal_angles",
    "projected_cores",
    "random_angles",
    "read_update",
    "spectral_norm",
    "spectrum_of",
    "stable_rank",
    "tail_exponent",
    "weight_directions",
    "weighted_spectrum",
]


def __getattr__(name: str) -> object:
    """Load a public name from its module on first use."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rank_lab' has no attribute {name!r}")
    value = getattr(import_module(f"rank_lab.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)
