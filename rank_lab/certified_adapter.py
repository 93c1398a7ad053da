r"""A LoRA out of any update: the leading directions of each module, written, read again and checked.

One update at a time is in memory. What is written is the truncated SVD,
:math:`B = U_k \Sigma_k^{1/2}`, :math:`A = \Sigma_k^{1/2} V_k^T`, with alpha / r = 1. Then the folder is read as
anyone's adapter would be, and :math:`\lVert \Delta W - s B A \rVert_F` is measured against the update itself, read
again: it must be what the spectrum promised, but for the rounding of the factors, which is stated.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rank_lab.carried import Part
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import BudgetError, CheckpointError, NonFiniteError, RankLabError
from rank_lab.extraction_report import ExtractedModule
from rank_lab.lora_config import lora_config
from rank_lab.pairing import plan_updates
from rank_lab.plan_file import Promise
from rank_lab.safetensors_writer import STORED_TYPES, SafetensorsWriter
from rank_lab.spec import UpdateSpec, read_update
from rank_lab.truncation import RELATIVE_TOLERANCE, error_tolerance, residual_and_norm, truncated_factors
from rank_lab.update import LowRankUpdate, return_freed_memory

__all__ = ["ADAPTER_FILE", "CONFIG_FILE", "Step", "extract_modules"]

ADAPTER_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"

Step = Callable[[str], None]
"""Called with the module that was finished."""

_PREFIX = "base_model.model."


def extract_modules(
    parts: Sequence[Part],
    promises: Mapping[str, Promise],
    out: Path,
    *,
    dtype: str = "float32",
    config: Mapping[str, Any] | None = None,
    device: str = "cpu",
    step: Step | None = None,
) -> tuple[ExtractedModule, ...]:
    """Write the adapter of a plan into a new folder, read it again and measure its errors.

    Parameters
    ----------
    parts
        Updates that a LoRA can carry.
    promises
        By module; those of rank 0 are left out.
    out
        Folder to be made; not there yet.
    dtype
        Of the stored factors: ``float32``, ``bfloat16`` or ``float16``.
    config
        Entries that go over those of :func:`rank_lab.lora_config.lora_config`, such as ``base_model_name_or_path``.
    device
        Where to compute.
    step
        Called twice for each module: written, and checked.

    Raises
    ------
    BudgetError
        If the plan is of other updates.
    NonFiniteError
        If values do not fit into the type.
    RankLabError
        If what was read again has another error than was promised. Nothing is left in ``out``.
    """
    if dtype not in STORED_TYPES:
        raise BudgetError(f"dtype {dtype!r}: expected one of {', '.join(STORED_TYPES)}.")
    chosen = [part for part in parts if not part.refusal and promises[part.spec.module].rank]
    if not chosen:
        raise BudgetError("no module that a LoRA can carry has a rank in this plan: there is nothing to extract.")
    if out.exists():
        raise CheckpointError(f"{out}: is there already; name a new folder for the adapter.")
    out.mkdir(parents=True)
    try:
        written = _write(chosen, promises, out, dtype, device, step)
        ranks = {part.path: promises[part.spec.module].rank for part in chosen}
        content = lora_config(
            ranks, [part.path for part in parts], transposed=any(part.kind == "conv1d" for part in chosen)
        )
        (out / CONFIG_FILE).write_text(
            json.dumps(content | {"inference_mode": True} | dict(config or {}), indent=2) + "\n", encoding="utf-8"
        )
        return _checked(chosen, promises, out, written, step)
    except BaseException:
        shutil.rmtree(out)
        raise


def _write(
    chosen: Sequence[Part], promises: Mapping[str, Promise], out: Path, dtype: str, device: str, step: Step | None
) -> dict[str, tuple[str, float]]:
    """Method, and what rounding to the type adds to the error, by module."""
    shapes: dict[str, tuple[int, ...]] = {}
    for part in chosen:
        (rows, columns), rank = part.spec.shape, promises[part.spec.module].rank
        first, second = ((columns, rank), (rank, rows)) if part.kind == "embedding" else ((rows, rank), (rank, columns))
        name_a, name_b = _names(part)
        shapes |= {name_a: second, name_b: first}
    found = {}
    with SafetensorsWriter(out / ADAPTER_FILE, shapes, dtype) as writer:
        for part in chosen:
            promise = promises[part.spec.module]
            update = read_update(part.spec)
            best, method = truncated_factors(
                update, promise.rank, promise.relative_error * promise.frobenius_norm, device=device
            )
            B, A = (best.A.T, best.B.T) if part.kind == "embedding" else (best.B, best.A)
            stored_a, stored_b = (_rounded(values, dtype, part.path) for values in (A, B))
            for name, values in zip(_names(part), (stored_a, stored_b), strict=True):
                writer.add(name, values)
            kept = (
                LowRankUpdate(stored_a.T, stored_b.T) if part.kind == "embedding" else LowRankUpdate(stored_b, stored_a)
            )
            found[part.spec.module] = (method, best.minus(kept).frobenius_norm())
            del update
            return_freed_memory()
            if step is not None:
                step(part.spec.module)
    return found


def _names(part: Part) -> tuple[str, str]:
    if part.kind == "embedding":
        return f"{_PREFIX}{part.path}.lora_embedding_A", f"{_PREFIX}{part.path}.lora_embedding_B"
    return f"{_PREFIX}{part.path}.lora_A.weight", f"{_PREFIX}{part.path}.lora_B.weight"


def _rounded(values: Tensor, dtype: str, path: str) -> Tensor:
    import torch

    stored = values.to(getattr(torch, dtype))
    if not bool(torch.isfinite(stored).all()):
        raise NonFiniteError(f"{path}: a factor does not fit into {dtype}; store it as float32 (--dtype float32).")
    return stored


def _checked(
    chosen: Sequence[Part],
    promises: Mapping[str, Promise],
    out: Path,
    written: Mapping[str, tuple[str, float]],
    step: Step | None,
) -> tuple[ExtractedModule, ...]:
    """What is in the folder, read as an adapter, against the updates, read again."""
    there = {spec.module: spec for spec in plan_updates(Checkpoint.open(out)).specs}
    found = []
    for part in chosen:
        promise, (method, rounding) = promises[part.spec.module], written[part.spec.module]
        adapter = there.pop(part.path, None)
        if adapter is None:
            raise RankLabError(f"{out}: {part.path} is not in the adapter that was written: a fault of rank_lab.")
        update = read_update(part.spec)
        error, norm = residual_and_norm(update, _factors(adapter))
        _refuse_another(part.spec, promise, norm)
        optimum = promise.relative_error * norm
        known = error_tolerance(part.spec.shape) * norm
        if not optimum - known <= error <= optimum * (1.0 + RELATIVE_TOLERANCE) + rounding + known:
            raise RankLabError(
                f"{part.spec.module}: the adapter that was written misses the update by {error / norm:.6g} of its norm,"
                f" where the spectrum promised {promise.relative_error:.6g} and rounding explains"
                f" {rounding / norm:.2g}: the plan is of another checkpoint, or a file changed meanwhile; make"
                " the plan again."
            )
        found.append(
            ExtractedModule(
                module=part.spec.module, path=part.path, kind=part.kind, out_features=part.spec.shape[0],
                in_features=part.spec.shape[1], rank=promise.rank, frobenius_norm=norm,
                promised_error=promise.relative_error, relative_error=error / norm, rounding_error=rounding / norm,
                method=method,
            )
        )  # fmt: skip
        if step is not None:
            step(part.spec.module)
    if there:
        raise RankLabError(f"{out}: {next(iter(there))} is in the adapter and in no plan: a fault of rank_lab.")
    return tuple(found)


def _factors(adapter: UpdateSpec) -> LowRankUpdate:
    update = read_update(adapter)
    if not isinstance(update, LowRankUpdate):
        raise RankLabError(f"{adapter.module}: was not written as factors: a fault of rank_lab.")
    return update


def _refuse_another(spec: UpdateSpec, promise: Promise, norm: float) -> None:
    if not math.isclose(norm, promise.frobenius_norm, rel_tol=1e-6):
        raise BudgetError(
            f"{spec.module}: its update has the norm {norm:.6g}, in the plan {promise.frobenius_norm:.6g}: the plan is"
            " of another checkpoint; make one of this run (rank-lab plan)."
        )
