"""Adapters whose change is known, and what each tool says of it: one function a case."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analyses.known_changes import QUERY, VALUE, Adapted, Row, adapted, llama
from analyses.rivals_readings import (
    converted_by_peft,
    delta_of_peft,
    energy_rank,
    error_of,
    merged_by_peft,
    our_change,
    our_row,
    values_of,
    watched,
)

__all__ = ["dora", "plain", "residual", "share_of_energy"]

_ALMOST = 1e-5


def plain(folder: Path, width: int, *, case: str, options: Mapping[str, Any], scaling: float) -> list[Row]:
    """A LoRA whose change is its scaling times B A.

    Parameters
    ----------
    folder, width
        As of every case.
    case
        What is made, in words.
    options
        Of ``LoraConfig``.
    scaling
        What the method's formula makes of them for the values' projection.
    """
    made = adapted(folder, llama(width), options=options, scaling=scaling)
    true = values_of(made.change(VALUE))
    ours = our_row(folder / "adapter", None, VALUE)
    seen, delta = watched(made.model), delta_of_peft(made.model, VALUE)
    return [
        Row(
            case,
            "largest singular value",
            float(true[0]),
            float(ours["spectral_norm"]),
            seen.answer(VALUE, "sv_max"),
            float(values_of(delta)[0]),
            tolerance=_ALMOST * float(true[0]),
            cause="the scaling is left out: weightwatcher gives B A",
        )
    ]


def dora(folder: Path, width: int) -> list[Row]:
    """A DoRA: the rows of W + s B A, each scaled to its trained magnitude."""
    made = adapted(folder, llama(width), options={"use_dora": True})
    cause = "the scaling of the rows is left out: PEFT gives s B A, weightwatcher B A"
    return _against_base(made, "DoRA", cause)


def residual(folder: Path, width: int, *, start: str) -> list[Row]:
    """A start that takes its factors out of the base, against the original base.

    Parameters
    ----------
    folder, width
        As of every case.
    start
        PiSSA or OLoRA.
    """
    made = adapted(folder, llama(width), options={"init_lora_weights": start.lower()})
    case = f"{start}, against the original base"
    rows = _against_base(
        made, case, "what the start took out of the base is left out: PEFT gives s B A, weightwatcher B A"
    )
    made.model.save_pretrained(folder / "kept", path_initial_model_for_weight_conversion=str(folder / "initial"))
    true = made.change(QUERY)
    kept = Row(
        case,
        "the same where the initial adapter was kept; PEFT: save_pretrained with it; rank_lab: --initial-adapter",
        0.0,
        error_of(our_change(folder / "adapter", None, QUERY, folder / "initial"), true),
        peft=error_of(our_change(folder / "kept", None, QUERY), true),
        tolerance=_ALMOST,
    )
    return [*rows, kept]


def _against_base(made: Adapted, case: str, cause: str) -> list[Row]:
    """The largest value, and the error of the whole change by every way that PEFT has."""
    true, adapter, base = made.change(QUERY), made.folder / "adapter", made.folder / "base"
    largest = float(values_of(true)[0])
    delta = delta_of_peft(made.model, QUERY)
    rank, converted = converted_by_peft(made.model, 1.0, made.folder / "converted")[QUERY]
    ours = error_of(our_change(adapter, base, QUERY), true)
    first = Row(
        case,
        "largest singular value; PEFT: of get_delta_weight",
        largest,
        float(our_row(adapter, base, QUERY)["spectral_norm"]),
        watched(made.model).answer(QUERY, "sv_max"),
        float(values_of(delta)[0]),
        tolerance=_ALMOST * largest,
        cause=cause,
    )
    ways = {
        "PEFT: get_delta_weight": delta,
        f"PEFT: save_as_lora with all energy, which takes rank {rank}": converted,
        "PEFT: merge_and_unload, less the original base": (
            merged_by_peft(made.model, QUERY) - made.before[f"{QUERY}.weight"]
        ),
    }
    errors = [
        Row(
            case,
            f"error of the change over its norm; {way}",
            0.0,
            ours,
            peft=error_of(found, true),
            tolerance=_ALMOST,
            cause=cause,
        )
        for way, found in ways.items()
    ]
    return [first, *errors]


def share_of_energy(folder: Path, width: int) -> list[Row]:
    """What 90 % means: of the energy, as PEFT and this tool take it, or of the norm."""
    made = adapted(folder, llama(width), options={"r": 32, "lora_alpha": 32}, scaling=1.0)
    true = values_of(made.change(QUERY))
    by_energy, by_norm = energy_rank(true, 0.9), energy_rank(true, 0.9**2)
    return [
        Row(
            "a LoRA of rank 32",
            "directions that hold 90 % of the energy; PEFT: save_as_lora",
            by_energy,
            float(our_row(folder / "adapter", None, QUERY)["energy_rank_90"]),
            peft=float(converted_by_peft(made.model, 0.9, folder / "converted")[QUERY][0]),
            numpy=energy_rank(values_of(delta_of_peft(made.model, QUERY)), 0.9),
            note=f"90 % of the norm are 81 % of the energy: who asks for that share of the norm keeps {by_norm:.0f}"
            f" directions of the LoRA of rank 32, not {by_energy:.0f}.",
        ),
    ]
