"""One update measured: its spectrum and what goes with it, as plain values that travel and can be stored."""

import hashlib
import json
import math
import os
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rank_lab.change import WeightNorms, change_statistics, weight_norms
from rank_lab.decomposition import spectrum_of
from rank_lab.errors import NonFiniteError, RankLabError
from rank_lab.noise import Noise, NoiseMode, noise_from, noise_of
from rank_lab.spec import UpdateSpec, read_update
from rank_lab.spectrum import Method, Spectrum
from rank_lab.stored_tensor import StoredTensor
from rank_lab.update import DenseUpdate, return_freed_memory

__all__ = ["Measurement", "MeasurementOptions", "measure", "measure_live"]

# Raise it when a change of the code changes stored numbers: older cache entries are then left alone.
_NUMERICS = 4
_NO_WEIGHT = WeightNorms(math.nan, math.nan)


@dataclass(frozen=True)
class MeasurementOptions:
    """How updates are measured.

    Parameters
    ----------
    method
        See :func:`rank_lab.decomposition.spectrum_of`.
    k
        Number of values for ``"randomized"``.
    device
        ``"cpu"`` or ``"cuda"``.
    noise
        Tests against rounding; see :func:`rank_lab.noise.noise_of`.
    cache
        Folder of measured updates by content, or None.
    """

    method: Method = "auto"
    k: int | None = None
    device: str = "cpu"
    noise: NoiseMode = "rounding"
    cache: Path | None = None


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was measured of one update.

    Parameters
    ----------
    content
        Digest of everything that the numbers depend on: bytes, scaling, method.
    source_digests
        Role and digest of each tensor read.
    values, frobenius_norm, method, floor
        Of the spectrum; empty and NaN if there is none.
    identical_fraction, tuned_grid, base_grid, recast, both_rounded
        Of a dense update; NaN and empty for factors.
    noise
        What rounding leaves of it; None for factors, which hold none.
    weight
        Norms of the base weight; NaN where there is none.
    failure
        Why there is no spectrum; empty if there is one.
    """

    content: str
    source_digests: tuple[tuple[str, str], ...]
    values: npt.NDArray[np.float64]
    frobenius_norm: float = math.nan
    method: str = ""
    floor: float = math.nan
    identical_fraction: float = math.nan
    tuned_grid: str = ""
    base_grid: str = ""
    recast: str = ""
    both_rounded: bool = False
    noise: Noise | None = None
    weight: WeightNorms = _NO_WEIGHT
    failure: str = ""

    @property
    def identical(self) -> bool:
        """Whether nothing was changed."""
        return self.identical_fraction == 1.0

    @property
    def is_of_bytes(self) -> bool:
        """Whether the digests of what was read are known, so that equal ones mean equal content."""
        return all(digest for _, digest in self.source_digests)

    def spectrum(self, spec: UpdateSpec) -> Spectrum:
        """The spectrum of the update that ``spec`` describes."""
        edge = math.nan if self.noise is None else self.noise.edge
        known = None if math.isnan(edge) else edge
        return Spectrum(
            self.values, spec.shape, spec.rank_bound, self.frobenius_norm, self.method, self.floor, noise=known
        )


def measure(spec: UpdateSpec, options: MeasurementOptions) -> Measurement:
    """Measure one update, or take it from the cache if the same bytes were measured before.

    A tensor that holds NaN or cannot be read gives a measurement with its
    ``failure``, so that one bad tensor costs one row and not the run.

    Parameters
    ----------
    spec
        From :func:`rank_lab.pairing.plan_updates`.
    options
        Method, device, cache.
    """
    try:
        digests = _digests(spec)
    except (RankLabError, OSError) as error:
        return Measurement("", (), np.zeros(0), failure=_one_line(error))
    content = _content_key(spec, digests, options)
    weight = _weight(spec, digests, options)
    found = _load(options.cache, content)
    if found is None:
        found = _measure(spec, options)
        _store(options.cache, content, found)
    return Measurement(content=content, source_digests=digests, weight=weight, **found)  # type: ignore[arg-type]


def measure_live(spec: UpdateSpec, options: MeasurementOptions, weight: WeightNorms = _NO_WEIGHT) -> Measurement:
    """Measure an update of tensors that lie in memory and go on changing: nothing is hashed or kept.

    Parameters
    ----------
    spec
        As :func:`measure` takes; its digests are empty.
    options
        Its cache is not used.
    weight
        Norms of the base weight, which do not change along a training.
    """
    roles = tuple((role, "") for role, _ in spec.sources)
    return Measurement(content="", source_digests=roles, weight=weight, **_measure(spec, options))  # type: ignore[arg-type]


def _measure(spec: UpdateSpec, options: MeasurementOptions) -> dict[str, object]:
    try:
        update = read_update(spec)
        if isinstance(update, DenseUpdate) and spec.update_kind == "dense":  # what is merged here, was never rounded
            return _measure_dense(update, spec, options)
        return _about_spectrum(spectrum_of(update, method=_method(spec, options), k=options.k, device=options.device))
    except (RankLabError, OSError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        return {"values": np.zeros(0), "failure": _one_line(error)}


def _measure_dense(update: DenseUpdate, spec: UpdateSpec, options: MeasurementOptions) -> dict[str, object]:
    statistics = change_statistics(update)
    about = {
        name: getattr(statistics, name)
        for name in ("identical_fraction", "tuned_grid", "base_grid", "recast", "both_rounded")
    }
    _refuse_non_finite(statistics.tuned_non_finite, statistics.base_non_finite, spec)
    if statistics.identical_fraction == 1.0:
        unchanged = Spectrum(np.zeros(spec.rank_bound), spec.shape, spec.rank_bound, 0.0, "identical")
        hidden = getattr(torch, statistics.tuned_grid).itemsize == 2  # a change that float32 loses is none
        return about | _about_spectrum(unchanged) | {"noise": Noise("unresolved" if hidden else "exact")}
    spectrum = spectrum_of(update, method=options.method, k=options.k, device=options.device)
    noise = noise_of(
        update, spectrum, statistics, mode=options.noise, base_rounded=spec.base_rounded, device=options.device
    )
    return_freed_memory()
    return about | _about_spectrum(spectrum) | {"noise": noise}


def _about_spectrum(spectrum: Spectrum) -> dict[str, object]:
    return {
        "values": spectrum.values,
        "frobenius_norm": spectrum.frobenius_norm,
        "method": spectrum.method,
        "floor": spectrum.floor,
    }


def _method(spec: UpdateSpec, options: MeasurementOptions) -> Method:
    # "gram" is a choice about dense updates; factors beside them stay exact.
    return "auto" if options.method == "gram" and spec.update_kind != "dense" else options.method


def _refuse_non_finite(tuned: int, base: int, spec: UpdateSpec) -> None:
    for side, count in (("tuned", tuned), ("base", base)):
        source = spec.source(side)
        if count and source is not None:
            raise NonFiniteError(
                f"{count} NaN or infinite values in the {side} tensor {source.name}; take an earlier checkpoint"
            )


def _digests(spec: UpdateSpec) -> tuple[tuple[str, str], ...]:
    own = tuple((role, _digest(tensor, _stamp(tensor))) for role, tensor in spec.sources)
    weight = (("weight", _digest(spec.weight, _stamp(spec.weight))),) if spec.weight is not None else ()
    earlier = (
        tuple((f"previous.{role}", digest) for role, digest in _digests(spec.previous))
        if spec.previous is not None
        else ()
    )
    return own + weight + earlier


def _stamp(tensor: StoredTensor) -> tuple[int, ...]:
    status = tensor.file.stat()
    return status.st_ino, status.st_ctime_ns, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4096)
def _digest(tensor: StoredTensor, stamp: tuple[int, ...]) -> str:  # noqa: ARG001 - a part of the key
    return tensor.digest()


def _content_key(spec: UpdateSpec, digests: tuple[tuple[str, str], ...], options: MeasurementOptions) -> str:
    parts = {
        "numerics": _NUMERICS,
        "sources": [pair for pair in digests if "weight" not in pair[0]],
        "kind": spec.update_kind == "dense",
        "scaling": [spec.scaling, spec.previous.scaling if spec.previous is not None else None],
        "layout": [spec.transposed, spec.rows, spec.rank_bound, list(spec.shape)],
        "recipe": [spec.recipe, spec.previous.recipe if spec.previous is not None else None],
        "method": [_method(spec, options), options.k, options.device.split(":")[0]],
        "noise": [options.noise, spec.base_rounded] if spec.update_kind == "dense" else [],
    }
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _weight(spec: UpdateSpec, digests: tuple[tuple[str, str], ...], options: MeasurementOptions) -> WeightNorms:
    if spec.weight is None or len(spec.weight.shape) != 2:
        return _NO_WEIGHT
    key = hashlib.blake2b(f"weight {_NUMERICS} {dict(digests)['weight']}".encode(), digest_size=16).hexdigest()
    found = _load(options.cache, key)
    if found is None:
        try:
            found = {"values": np.zeros(0), **asdict(weight_norms(spec.weight))}
        except (RankLabError, OSError):
            return _NO_WEIGHT
        _store(options.cache, key, found)
    return WeightNorms(float(found["frobenius"]), float(found["spectral"]))  # type: ignore[arg-type]


def _load(cache: Path | None, key: str) -> dict[str, object] | None:
    if cache is None:
        return None
    try:
        with (cache / f"{key}.npz").open("rb") as handle, np.load(handle, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            noise = {} if about.get("noise") is None else {"noise": noise_from(about["noise"])}
            return {**about, **noise, "values": stored["values"]}
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None  # not there, or damaged by a crash of the machine: it is measured again


def _store(cache: Path | None, key: str, found: dict[str, object]) -> None:
    if cache is None or found.get("failure"):
        return
    cache.mkdir(parents=True, exist_ok=True)
    about = json.dumps({name: value for name, value in found.items() if name != "values"}, default=asdict)
    descriptor, name = tempfile.mkstemp(dir=cache, suffix=".part")
    with os.fdopen(descriptor, "wb") as handle:
        np.savez(handle, values=np.asarray(found["values"]), about=np.asarray(about))
    Path(name).replace(cache / f"{key}.npz")  # whole or not at all


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
