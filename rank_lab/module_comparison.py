"""Two updates of one module compared: the rows of the tables of :mod:`rank_lab.subspace_report`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rank_lab.amplification import amplifications, projected_cores
from rank_lab.composed_matrix import MatrixSum, WhiteNoise
from rank_lab.errors import RankLabError
from rank_lab.intruders import EPSILONS, IntruderCount, WeightDirections, intruder_counts, weight_directions
from rank_lab.leading_vectors import leading_vectors
from rank_lab.plain_text import plain
from rank_lab.resolved import directions, resolved_directions
from rank_lab.spec import UpdateSpec, read_update
from rank_lab.spectrum import Spectrum
from rank_lab.subspace import chordal_distance, geodesic_distance, phi, phi_null, principal_angles, relative_gap
from rank_lab.subspace_null import random_angles
from rank_lab.subspace_schema import SUBSPACE_TABLES
from rank_lab.tuned_weight import WeightPlace, tuned_weight
from rank_lab.update import DenseUpdate, LowRankUpdate, Update, return_freed_memory

__all__ = ["ComparisonOptions", "Member", "Rows", "compare_module", "coverage_row"]

Array = npt.NDArray[np.float64]
Record = dict[str, Any]
Rows = dict[str, list[Record]]
"""Rows of each table of the report; a record whose values are arrays stands for as many rows."""

_OWN_FACTORS = frozenset({"lora", "adalora", "sora"})


@dataclass(frozen=True)
class ComparisonOptions:
    """What is compared.

    Parameters
    ----------
    k
        Leading directions for angles, similarity and amplification.
    intruder_ks
        How many leading directions of the tuned weight are looked at for intruders.
    epsilons
        Thresholds of an intruder's largest cosine.
    intruders
        Whether to look for them: of all, this costs the most.
    null_draws
        White noise matrices that their null is the mean of; each costs a Gram matrix.
    device
        ``"cpu"`` or ``"cuda"``.
    """

    k: int = 16
    intruder_ks: tuple[int, ...] = (10, 64)
    epsilons: tuple[float, ...] = EPSILONS
    intruders: bool = True
    null_draws: int = 1
    device: str = "cpu"


@dataclass(frozen=True)
class Member:
    """One of the two updates.

    Parameters
    ----------
    run, step
        Where it is from.
    spec
        Of the update.
    place
        Of its base weight.
    """

    run: str
    step: int | None
    spec: UpdateSpec
    place: WeightPlace


@dataclass(frozen=True, eq=False)
class _Read:
    """A member with its leading directions."""

    member: Member
    update: Update
    spectrum: Spectrum
    count: int
    resolved: int

    @property
    def left(self) -> Array:
        return np.asarray(self.spectrum.U)[:, : self.count]

    @property
    def right(self) -> Array:
        return np.asarray(self.spectrum.Vh)[: self.count].T

    @property
    def gaps(self) -> list[float]:
        return [relative_gap(self.spectrum.values, k) for k in range(1, self.count + 1)]


def compare_module(pair: tuple[Member, Member], options: ComparisonOptions) -> Rows:
    """All rows of one module, among them one of coverage.

    A tensor that cannot be read, or holds NaN, costs this module and not the comparison.

    Parameters
    ----------
    pair
        Updates of one module in both runs.
    options
        What is compared.

    Returns
    -------
    dict
        Table to rows.

    Notes
    -----
    Factors without a base: milliseconds. A stored difference: a Gram matrix and, where rounding could
    matter, another for :func:`rank_lab.resolved.resolved_directions`. Intruders: all eigenvectors of the weight's
    Gram matrix, once if both updates share the weight, and two more Gram matrices for each update: 3.6 s for
    2048 x 2048 and one update on one thread of a server, eight times as long for twice the size.
    """
    rows: Rows = {name: [] for name in SUBSPACE_TABLES}
    key = _key(*pair)
    first, second = pair
    if first.spec.shape != second.spec.shape:
        shapes = " and ".join(str(list(member.spec.shape)) for member in pair)
        rows["coverage"].append(coverage_row(key, pair, "refused", f"updates of shape {shapes}", failed=True))
        return rows
    try:
        read = _read(first, options), _read(second, options)
        if all(each.count for each in read):
            for name, records in _similarity(read).items():
                rows[name] += [key | record for record in records]
        failures = _in_weights(read, options, rows)
    except (RankLabError, OSError) as error:
        rows = {name: [] for name in SUBSPACE_TABLES}
        rows["coverage"].append(coverage_row(key, pair, "refused", _one_line(error), failed=True))
        return rows
    finally:
        return_freed_memory()
    zero = [each.member.run for each in read if not each.count]
    reasons = [f"the update of {run} is zero" for run in zero] + _notes(pair) + failures
    status, failed = "zero" if zero else "compared", bool(failures)
    rows["coverage"].append(coverage_row(key, pair, status, "; ".join(reasons), failed=failed))
    return rows


def coverage_row(
    key: Mapping[str, Any], members: Sequence[Member | None], status: str, reason: str, *, failed: bool = False
) -> Record:
    """A row of ``coverage``.

    Parameters
    ----------
    key
        What identifies the module.
    members
        First and second; None where a run lacks it.
    status, reason, failed
        Its fate.
    """
    first, second = members
    spec = next((member.spec for member in members if member is not None), None)
    return dict(key) | {
        "status": status,
        "reason": plain(reason),
        "failed": failed,
        "out_features": None if spec is None else spec.shape[0],
        "in_features": None if spec is None else spec.shape[1],
        "update_kind": None if first is None else first.spec.update_kind,
        "other_update_kind": None if second is None else second.spec.update_kind,
    }


def _key(first: Member, second: Member | None = None) -> Record:
    return {
        "run": first.run,
        "step": first.step,
        "other_run": "" if second is None else second.run,
        "other_step": None if second is None else second.step,
        "module": first.spec.module,
        "layer": first.spec.identity.layer,
        "kind": first.spec.identity.kind,
    }


def _read(member: Member, options: ComparisonOptions) -> _Read:
    spec, update = member.spec, read_update(member.spec)
    spectrum = leading_vectors(update, options.k, device=options.device)
    stored = spec.update_kind == "dense"
    resolved = resolved_directions(
        update, spectrum, stored=stored, base_rounded=spec.base_rounded, device=options.device
    )
    return _Read(member, update, spectrum, directions(spectrum), resolved)


def _similarity(read: tuple[_Read, _Read]) -> Rows:
    first, second = read
    found: Rows = {"angles": [], "phi": []}
    for side in ("left", "right"):
        vectors = getattr(first, side), getattr(second, side)
        known = {"side": side, "dimension": len(vectors[0])}
        known |= {"resolved_a": first.resolved, "resolved_b": second.resolved}
        found["angles"] += [known | row for row in _angle_rows(*vectors)]
        found["phi"].append(known | _phi_grid(*vectors, first.gaps, second.gaps))
    for row in found["angles"]:
        row |= {"gap_a": first.gaps[-1], "gap_b": second.gaps[-1]}
    matrices = [_adaptation_matrix(each) for each in read]
    if all(matrix is not None for matrix in matrices):
        spectra = [_right_vectors(matrix) for matrix in matrices if matrix is not None]
        (one, gaps), (other, other_gaps) = ((v[:, : e.count], g) for (v, g), e in zip(spectra, read, strict=True))
        known = {"side": "A", "dimension": len(one), "resolved_a": one.shape[1], "resolved_b": other.shape[1]}
        found["phi"].append(known | _phi_grid(one, other, gaps, other_gaps))
    return found


def _angle_rows(first: Array, second: Array) -> Iterator[Record]:
    dimension, k_a, k_b = len(first), first.shape[1], second.shape[1]
    angles, null = principal_angles(first, second), random_angles(dimension, k_a, k_b)
    whole = {
        "k_a": k_a,
        "k_b": k_b,
        "geodesic": geodesic_distance(angles),
        "null_geodesic": null.geodesic,
        "chordal": chordal_distance(angles),
        "null_chordal": null.chordal,
    }
    for index, angle in enumerate(angles):
        yield whole | {
            "index": index + 1,
            "cosine": math.cos(angle),
            "angle": float(angle),
            "null_cosine": float(null.cosines[index]),
            "null_cosine_high": float(null.high[index]),
        }


def _phi_grid(first: Array, second: Array, gaps: Sequence[float], other_gaps: Sequence[float]) -> Record:
    values, dimension = phi(first, second), len(first)
    i, j = (index.ravel() + 1 for index in np.indices(values.shape))
    return {
        "i": i,
        "j": j,
        "phi": values.ravel(),
        "null": np.array([phi_null(*pair, dimension) for pair in zip(i.tolist(), j.tolist(), strict=True)]),
        "gap_a": np.asarray(gaps)[i - 1],
        "gap_b": np.asarray(other_gaps)[j - 1],
    }


def _adaptation_matrix(read: _Read) -> torch.Tensor | None:
    """LoRA's A ``(r, in)`` without rows whose gate is zero, where the factors are the adapter's own alone."""
    spec, update = read.member.spec, read.update
    own = spec.update_kind in _OWN_FACTORS and spec.previous is None and not spec.recipe
    roles = {role for role, _ in spec.sources}
    if not own or not isinstance(update, LowRankUpdate) or not roles <= {"A", "B", "gate"}:
        return None
    across = (update.B.T if spec.transposed else update.A).to(torch.float64)
    return across if update.gate is None else across[update.gate != 0]


def _right_vectors(matrix: torch.Tensor) -> tuple[Array, list[float]]:
    _, values, Vh = torch.linalg.svd(matrix, full_matrices=False)
    sigma = values.numpy()
    kept = int((sigma > max(matrix.shape) * np.finfo(np.float64).eps * sigma.max(initial=0.0)).sum())
    return Vh[:kept].T.numpy(), [relative_gap(sigma, k) for k in range(1, kept + 1)]


def _in_weights(read: tuple[_Read, _Read], options: ComparisonOptions, rows: Rows) -> list[str]:
    """Fill amplification and intruders; what went wrong."""
    failures = []
    whole: dict[object, WeightDirections] = {}
    for each in read:
        place, key = each.member.place, _key(each.member)
        if place.reason or not each.count:
            continue
        try:
            base, tuned = tuned_weight(place, each.update)
            if options.intruders:
                same = _weight_key(each.member)
                whole = whole if same in whole else {same: weight_directions(base, device=options.device)}
                rows["intruders"] += [key | row for row in _intruder_rows(whole[same], tuned, each, options)]
                weight = whole[same].spectrum
            else:
                weight = leading_vectors(base, options.k, device=options.device)
            rows["amplification"] += [key | row for row in _amplification_rows(each, base, weight)]
        except RankLabError as error:
            failures.append(f"{each.member.run}, in its weight: {_one_line(error)}")
    return failures


def _weight_key(member: Member) -> tuple[object, ...]:
    """Equal for two updates whose base weight is the same tensor, read in the same way."""
    spec = member.spec
    if spec.update_kind == "dense" and spec.source("base") is not None:
        return spec.source("base"), spec.transposed, spec.rows
    if spec.factored or spec.update_kind == "dense":
        return member.place.weight, member.place.transposed, None
    return (spec,)


def _amplification_rows(read: _Read, base: DenseUpdate, weight: Spectrum) -> Iterator[Record]:
    spectrum = replace(read.spectrum, U=read.left, Vh=read.right.T)
    core = projected_cores(base, spectrum)
    ranks = tuple(dict.fromkeys([*(2**n for n in range(read.count.bit_length())), read.count]))
    for row in amplifications(spectrum, weight, core, ranks):
        yield asdict(row) | {"resolved": read.resolved, "gap": read.gaps[row.r - 1]}


def _intruder_rows(
    weight: WeightDirections, tuned: DenseUpdate, read: _Read, options: ComparisonOptions
) -> Iterator[Record]:
    norm, base = read.spectrum.frobenius_norm, weight.weight
    nulls = []
    for seed in range(options.null_draws):
        noisy = MatrixSum(base.tuned, WhiteNoise(base.stored_shape, norm, seed))
        nulls.append(_counted(weight, replace(base, tuned=noisy), options))
    for position, count in enumerate(_counted(weight, tuned, options)):
        drawn = [null[position] for null in nulls]
        yield asdict(count) | {
            "null": float(np.mean([each.intruders for each in drawn])) if drawn else math.nan,
            "null_projected": float(np.mean([each.projected for each in drawn])) if drawn else math.nan,
            "relative_frobenius": norm / weight.frobenius_norm if weight.frobenius_norm else math.nan,
        }


def _counted(weight: WeightDirections, tuned: DenseUpdate, options: ComparisonOptions) -> tuple[IntruderCount, ...]:
    found = leading_vectors(tuned, max(options.intruder_ks), device=options.device)
    return intruder_counts(weight, found, ks=options.intruder_ks, epsilons=options.epsilons)


def _notes(pair: tuple[Member, Member]) -> list[str]:
    notes = [f"{member.run}: {member.spec.note}" for member in pair if member.spec.note]
    places = {member.place.reason for member in pair if member.place.reason}
    nothing = "no amplification and no intruders"
    if len(places) == 1 and all(member.place.reason for member in pair):
        return [*notes, f"{nothing}: {places.pop()}"]
    return notes + [f"{nothing} of {member.run}: {member.place.reason}" for member in pair if member.place.reason]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
