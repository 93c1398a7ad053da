"""Reports for figures: spectra are chosen first, and every quantity is that of the spectrum."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.metrics import evaluate
from rank_lab.null import null_ranks
from rank_lab.report import RankReport
from rank_lab.schema import COVERAGE, RANKS, SPECTRA, UPDATES
from rank_lab.spectrum import Spectrum

Values = npt.NDArray[np.float64]


def row(
    values: Sequence[float] | Values, *, run: str = "full", step: int | None = 10, layer: int | None = 0,
    kind: str = "q", shape: tuple[int, int] | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A row of ``updates`` of a matrix with these singular values."""
    size = (len(values), len(values)) if shape is None else shape
    found: dict[str, Any] = dict.fromkeys(UPDATES.names)
    module = f"layers.{layer}.{kind}_proj" if layer is not None else kind
    found |= {"run": run, "method": "full", "step": step, "delta": "cumulative", "module": module, "kind": kind}
    found |= {"stack": "" if layer is None else "layers", "layer": layer, "update_kind": "dense"}
    found |= {"out_features": size[0], "in_features": size[1], "rank_bound": min(size)}
    spectrum = Spectrum.from_values(list(values), shape=size)
    found |= {name: None if np.isnan(value) else value for name, value in evaluate(spectrum).items()}
    nulls = null_ranks(size)
    found |= {f"null_{name}": nulls[name] for name in RANKS}
    found |= {"noise_regime": "exact", "spectrum_floor": 0.0, "change_share": 0.25, "warning": ""}
    return found | changes


def frame(*rows: Mapping[str, Any]) -> pd.DataFrame:
    """Typed as a report that was read has it."""
    return report(rows).updates


def tensor(run: str, step: int | None, name: str, status: str, **changes: Any) -> dict[str, Any]:
    """A row of ``coverage``."""
    found: dict[str, Any] = dict.fromkeys(COVERAGE.names)
    found |= {"run": run, "step": step, "tensor": name, "side": "both", "status": status, "reason": "", "failed": False}
    return found | changes


def report(
    rows: Sequence[Mapping[str, Any]],
    spectra: Mapping[str, Sequence[float] | Values] | None = None,
    coverage: Sequence[Mapping[str, Any]] = (),
) -> RankReport:
    """Of these rows; ``spectra`` by module, of every row that has one of these modules."""
    known = spectra or {}
    stored = [
        {name: one[name] for name in ("run", "step", "delta", "module")} | {"values": list(known[one["module"]])}
        for one in rows
        if one["module"] in known
    ]
    run = str(rows[0]["run"]) if rows else "empty"
    provenance = {"tuned": [{"source": run}], "base": None, "settings": {"run": run}, "training": None}
    tables = ((rows, UPDATES), (stored, SPECTRA), (coverage, COVERAGE))
    frames = [pd.DataFrame(list(each), columns=schema.names) for each, schema in tables]
    return RankReport(*frames, provenance)


def noisy(values: Sequence[float] | Values, regime: str, **changes: Any) -> dict[str, Any]:
    """A row of which rounding hides the ranks, but for those given."""
    return row(values, noise_regime=regime, **changes)
