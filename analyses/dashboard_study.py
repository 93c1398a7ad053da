"""A large study of planted spectra, for the speed of what reads it."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.metrics import DENOISED_RANKS, METRICS
from rank_lab.null import null_ranks
from rank_lab.report import RankReport
from rank_lab.schema import COVERAGE, RANKS, SPECTRA, UPDATES
from rank_lab.spectrum import Spectrum

__all__ = ["write_study"]

_KINDS = (
    ("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("v", "self_attn.v_proj"), ("o", "self_attn.o_proj"),
    ("gate", "mlp.gate_proj"), ("up", "mlp.up_proj"), ("down", "mlp.down_proj"),
)  # fmt: skip

_SIZES = ("frobenius_norm", "spectral_norm", "nuclear_norm", "numerical_rank_tolerance", "noise_edge")
_PLANTED = 60  # different spectra; each matrix has one of them, times a factor of its own

Values = npt.NDArray[np.float64]


def write_study(folder: Path, *, runs: int, matrices: int, width: int, seed: int = 0) -> None:
    """Write reports as ``analyze`` does.

    Parameters
    ----------
    folder
        Gets ``run-00.rank`` and so on.
    runs, matrices
        How many, and of how many matrices each.
    width
        Rows and columns of every matrix: as many singular values.
    seed
        Of the spectra.
    """
    generator = np.random.default_rng(seed)
    nulls = {f"null_{name}": float(value) for name, value in null_ranks((width, width)).items() if name in RANKS}
    planted = [_measured(_spectrum(generator, width), width) for _ in range(_PLANTED)]
    for number in range(runs):
        run = f"run-{number:02d}"
        chosen = generator.integers(0, _PLANTED, matrices)
        scales = np.exp(generator.standard_normal(matrices))
        rows = [
            _row((run, index), planted[which][1], float(scale), nulls)
            for index, (which, scale) in enumerate(zip(chosen, scales, strict=True))
        ]
        spectra = [planted[which][0] * scale for which, scale in zip(chosen, scales, strict=True)]
        updates = pd.DataFrame(rows).reindex(columns=UPDATES.names)
        updates["change_share"] = updates["frobenius_norm"] ** 2 / (updates["frobenius_norm"] ** 2).sum()
        stored = pd.DataFrame(
            {"run": run, "step": 1000, "delta": "cumulative", "module": updates["module"], "values": spectra},
            columns=SPECTRA.names,
        )
        RankReport(updates, stored, _coverage(updates), _provenance(run)).save(folder / f"{run}.rank")


def _spectrum(generator: np.random.Generator, width: int) -> Values:
    """A power law with a cliff after some directions, and noise."""
    index = np.arange(1, width + 1)
    cliff = int(generator.integers(4, width // 8))
    values = index ** -float(generator.uniform(0.3, 0.9)) * np.where(index <= cliff, 1.0, 0.2)
    return np.sort(values * np.exp(0.02 * generator.standard_normal(width)))[::-1].copy()


def _measured(values: Values, width: int) -> tuple[Values, dict[str, Any]]:
    spectrum = Spectrum(values, (width, width), width, float(np.linalg.norm(values)))
    return values, {metric: METRICS[metric].function(spectrum) for metric in METRICS} | {
        "noise_edge": values[width // 2]
    }


def _row(place: tuple[str, int], measured: dict[str, Any], scale: float, nulls: dict[str, float]) -> dict[str, Any]:
    run, index = place
    kind, name = _KINDS[index % len(_KINDS)]
    layer = index // len(_KINDS)
    sizes = {metric: measured[metric] * scale for metric in _SIZES}
    width = int(measured["numerical_rank"])
    denoised = {f"{rank}_denoised{end}": measured[rank] for rank in DENOISED_RANKS for end in ("", "_low", "_high")}
    return {
        "run": run, "method": "full", "optimizer": "adamw_torch", "learning_rate": 1e-5, "step": 1000,
        "delta": "cumulative", "module": f"model.layers.{layer}.{name}", "stack": "model", "layer": layer, "kind": kind,
        "out_features": width, "in_features": width, "rank_bound": width, "update_kind": "dense",
        "base_dtype": "bfloat16", "tuned_dtype": "bfloat16", "base_grid": "bfloat16", "tuned_grid": "bfloat16",
        **measured, **sizes, **nulls, **denoised, "relative_frobenius": 0.01 * scale, "relative_spectral": 0.02 * scale,
        "identical_fraction": 0.3, "rounding_energy_fraction": 0.05, "noise_regime": "resolved",
        "rank_above_rounding": width // 2, "rank_above_rounding_low": width // 2,
        "rank_above_rounding_high": width // 2, "spectrum_method": "gram", "spectrum_floor": 0.0,
        "content": f"{run}-{index}", "warning": "",
    }  # fmt: skip


def _coverage(updates: pd.DataFrame) -> pd.DataFrame:
    about = {
        "run": updates["run"], "step": updates["step"], "tensor": updates["module"] + ".weight", "side": "both",
        "status": "analysed", "reason": "", "failed": False, "module": updates["module"], "tuned_dtype": "bfloat16",
        "base_dtype": "bfloat16", "frobenius_norm": updates["frobenius_norm"],
        "change_share": updates["change_share"],
    }  # fmt: skip
    return pd.DataFrame(about).reindex(columns=COVERAGE.names)


def _provenance(run: str) -> dict[str, object]:
    source = {"source": "planted spectra", "revision": None, "step": 1000, "tensors": 0, "files": []}
    return {"tuned": [source], "base": source, "settings": {"run": run}}
