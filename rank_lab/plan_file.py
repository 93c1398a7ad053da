"""A plan of ranks as a file: what was asked, what each module gets, and the config that trains it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.lora_config import peft_config
from rank_lab.plain_file import parse_json, size_of
from rank_lab.rank_plan import RankPlan
from rank_lab.report_spectra import plan_table

__all__ = ["PLAN_VERSION", "Promise", "StoredPlan", "plan_content", "read_plan"]

PLAN_VERSION = 1


@dataclass(frozen=True)
class Promise:
    """What a plan says of one module.

    Parameters
    ----------
    rank
        0 where it has none.
    shape
        ``(out, in)`` of its update.
    frobenius_norm, relative_error
        Of the update, and of its best approximation of that rank; NaN where not known.
    reason
        Why it has no rank, or what else is to be known.
    """

    rank: int
    shape: tuple[int, int]
    frobenius_norm: float
    relative_error: float
    reason: str = ""


@dataclass(frozen=True)
class StoredPlan:
    """A plan that was read from a file.

    Parameters
    ----------
    promises
        By module.
    asked
        What was prescribed, for the record.
    """

    promises: Mapping[str, Promise]
    asked: Mapping[str, Any]


def plan_content(
    plan: RankPlan,
    choices: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    base: str = "",
    task: str | None = None,
) -> dict[str, Any]:
    """What is written as ``NAME.plan.json``: plain values, without NaN.

    Parameters
    ----------
    plan
        Any.
    choices
        What was asked for beside budget and method: caps, noise.
    provenance
        Where the spectra are from.
    base, task
        See :func:`rank_lab.lora_config.peft_config`.
    """
    rows = plan_table(plan).to_dict(orient="records")
    return {
        "plan_version": PLAN_VERSION,
        "asked": {plan.asked: plan.target, "method": plan.method} | dict(choices),
        "totals": {
            "parameters": plan.parameters,
            "full_parameters": plan.full_parameters,
            "kept_energy": plan.kept_energy,
            "relative_error": plan.relative_error,
            "reached": plan.reached,
            "energy_bound": plan.energy_bound,
            "parameters_bound": plan.parameters_bound,
            "modules": len(plan.ranks),
            "modules_capped": plan.capped,
        },
        "config": peft_config(plan, base=base, task=task),
        "modules": [{name: None if pd.isna(value) else value for name, value in row.items()} for row in rows],
        "provenance": dict(provenance),
    }


def read_plan(file: Path) -> StoredPlan:
    """Read ``NAME.plan.json``.

    Raises
    ------
    SchemaError
        If it is no plan, or one of a version that is not read.
    """
    try:
        size_of(file)
        content = parse_json(file.read_bytes())
        version = content["plan_version"]
    except (OSError, CheckpointError, ValueError, KeyError, TypeError) as error:
        raise SchemaError(f"{file}: is no plan of ranks ({error}); make one with 'rank-lab plan STUDY'.") from error
    if version != PLAN_VERSION:
        raise SchemaError(
            f"{file}: a plan of version {version!r}, this rank_lab reads {PLAN_VERSION}; make it again with 'rank-lab"
            " plan STUDY', or use the rank_lab that wrote it."
        )
    try:
        promises = {str(row["module"]): _promise(row) for row in content["modules"]}
        asked = dict(content["asked"])
    except (KeyError, TypeError, ValueError) as error:
        raise SchemaError(f"{file}: its modules cannot be read ({error}); make it again.") from error
    if not any(promise.rank for promise in promises.values()):
        raise SchemaError(f"{file}: gives no module a rank; make it again with 'rank-lab plan STUDY'.")
    return StoredPlan(promises, asked)


def _promise(row: Mapping[str, Any]) -> Promise:
    rank, shape = row["rank"], (row["out_features"], row["in_features"])
    if any(isinstance(value, bool) or not isinstance(value, int) for value in (rank, *shape)):
        raise ValueError(f"{row['module']}: rank {rank!r} of shape {list(shape)}, expected whole numbers")
    if not 0 <= rank <= min(shape):
        raise ValueError(f"{row['module']}: rank {rank} of shape {list(shape)}, expected 0 to {min(shape)}")
    norm, error = (_number(row[name]) for name in ("frobenius_norm", "relative_error"))
    if rank and not (0.0 < norm < math.inf and 0.0 <= error <= 1.0):
        raise ValueError(f"{row['module']}: rank {rank} of an update of norm {norm} with the error {error}")
    return Promise(rank, shape, norm, error, str(row.get("reason") or ""))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
