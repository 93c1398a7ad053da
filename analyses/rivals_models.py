"""Whole models whose change is known, and what each tool says of it: one function a case."""

import copy
from pathlib import Path
from typing import Any

import torch

from analyses.known_changes import QUERY, Adapted, Row, adapted, in_float64, llama, move
from analyses.rivals_readings import (
    Answer,
    Values,
    converted_by_peft,
    delta_of_peft,
    energy_rank,
    matrix_rank,
    our_refusal,
    our_row,
    values_of,
    watched,
)

__all__ = ["added_words", "bfloat16", "inserted_layer", "recast", "small_change"]


def inserted_layer(folder: Path, width: int) -> list[Row]:
    """A layer more in the middle: the numbers of all that follow move on by one."""
    base = llama(width, layers=3)
    tuned = copy.deepcopy(base)
    move(tuned, 1e-3)
    weights = in_float64(base), in_float64(tuned)
    tuned.model.layers.insert(1, copy.deepcopy(tuned.model.layers[1]))
    tuned.config.num_hidden_layers = 4
    base.save_pretrained(folder / "base")
    tuned.save_pretrained(folder / "tuned")
    refusal, seen = our_refusal(folder / "tuned", folder / "base"), watched(tuned, base)
    rows = []
    for number, original in ((0, 0), (2, 1), (3, 2)):
        before, after = (side[f"model.layers.{original}.self_attn.q_proj.weight"] for side in weights)
        true, raw = float((after - before).norm()), float(after.norm())
        found = seen.norm(f"model.layers.{number}.self_attn.q_proj")
        rows.append(
            Row(
                "a layer inserted at place 1",
                f"Frobenius norm of the change of q_proj in layer {number}, layer {original} of the base",
                true,
                "refused" if refusal else "not refused",
                found,
                tolerance=1e-5 * true,
                cause=f"weightwatcher pairs in order: {_mistaken(found, raw)}",
                note=f"rank_lab refuses the inserted layer: “{refusal}”",
            )
        )
    return rows


def _mistaken(norm: Answer, raw: float) -> str:
    alone = not isinstance(norm, str) and abs(norm - raw) < 1e-5 * raw
    return "no layer is left, and the raw weight is given" if alone else "the difference to another layer"


def added_words(folder: Path, width: int) -> list[Row]:
    """Four words more: the rows of the old ones were tuned."""
    base, module = llama(width), "model.embed_tokens"
    tuned = copy.deepcopy(base)
    move(tuned, 1e-3)
    before, after = (in_float64(model)[f"{module}.weight"] for model in (base, tuned))
    true = float((after - before).norm())
    tuned.resize_token_embeddings(len(before) + 4, mean_resizing=False)
    base.save_pretrained(folder / "base")
    tuned.save_pretrained(folder / "tuned")
    return [
        Row(
            "four tokens added",
            "Frobenius norm of the change of the old tokens' embeddings",
            true,
            float(our_row(folder / "tuned", folder / "base", module)["frobenius_norm"]),
            watched(tuned, base).norm(module),
            tolerance=1e-5 * true,
            cause="weightwatcher puts zeros where shapes differ, and says so in its log only",
        )
    ]


def small_change(folder: Path, width: int) -> list[Row]:
    """Noise of 1e-5 on every weight, of full rank; and a thousand times as much, whose tail has the same exponent."""
    base = llama(width)
    models = {"tuned": copy.deepcopy(base), "more": copy.deepcopy(base)}
    base.save_pretrained(folder / "base")
    for (name, model), by in zip(models.items(), (1e-5, 1e-2), strict=True):
        move(model, by)
        model.save_pretrained(folder / name)
    ours = [our_row(folder / name, folder / "base", QUERY) for name in models]
    seen = [watched(model, base) for model in models.values()]
    lost, few, many = seen[0].answer(QUERY, "weak_rank_loss"), *(found.answer(QUERY, "alpha") for found in seen)
    change = in_float64(models["tuned"])[f"{QUERY}.weight"] - in_float64(base)[f"{QUERY}.weight"]
    case = "a change of 1e-5 of every weight"
    return [
        Row(
            case,
            "directions, of a change of full rank",
            float(width),
            float(ours[0]["numerical_rank"]),
            lost if isinstance(lost, str) else width - lost,
            numpy=matrix_rank(change),
            cause="weightwatcher counts eigenvalues below 1e-6 as lost (weak_rank_loss), however small the change",
        ),
        Row(
            case,
            "exponent of the tail, over that of 1000 times the change",
            1.0,
            float(ours[0]["tail_exponent"]) / float(ours[1]["tail_exponent"]),
            few if isinstance(few, str) or isinstance(many, str) else few / many,
            tolerance=0.02,
            cause="weightwatcher fits eigenvalues above 1e-5 only, and gives -1 where there are none",
        ),
    ]


def bfloat16(folder: Path, width: int) -> list[Row]:
    """A LoRA of rank 8 in bfloat16: as an adapter, and merged into a bfloat16 model."""
    options = {"r": 8, "lora_alpha": 16}
    made = adapted(folder, llama(width).to(torch.bfloat16), options=options, scaling=2.0, by=5e-4)
    true = values_of(made.change(QUERY))[:8]
    rank = float(our_row(folder / "adapter", None, QUERY)["numerical_rank"])
    asked = "rank; PEFT: save_as_lora with all energy"
    by_default = converted_by_peft(_loaded(folder), 1.0, folder / "converted by default")
    rows = [
        Row(
            "a LoRA of rank 8, kept in bfloat16",
            asked,
            8.0,
            rank,
            watched(made.model).answer(QUERY, "matrix_rank"),
            float(converted_by_peft(made.model, 1.0, folder / "converted")[QUERY][0]),
            matrix_rank(delta_of_peft(made.model, QUERY)),
            cause="B A is rounded to bfloat16 before it is decomposed (numpy gets PEFT's get_delta_weight)",
        ),
        Row("the same, widened to float32 as PEFT's loading does", asked, 8.0, rank, peft=float(by_default[QUERY][0])),
    ]
    return rows + _merged(made, true)


def _loaded(folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(_model(folder / "base"), folder / "adapter")


def _model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def _merged(made: Adapted, true: Values) -> list[Row]:
    base, tuned = made.folder / "base", made.folder / "tuned"
    made.model.merge_and_unload().save_pretrained(tuned)
    ours = our_row(tuned, base, QUERY)
    after, before = (in_float64(_model(folder))[f"{QUERY}.weight"] for folder in (tuned, base))
    raw = values_of(after - before)
    case = "the same, merged into its bfloat16 model"
    cause = "the rounding of the file is taken for directions that were learned"
    return [
        Row(
            case,
            "directions learned; rank_lab: rank_above_rounding, others: matrix_rank",
            8.0,
            float(ours["rank_above_rounding"]),
            watched(_model(tuned), _model(base)).answer(QUERY, "matrix_rank"),
            numpy=matrix_rank(after - before),
            cause=cause,
            note=f"rank_lab's raw numerical_rank of the merged model is {ours['numerical_rank']}, too; beside it stand"
            f" rank_above_rounding and the regime, “{ours['noise_regime']}”.",
        ),
        Row(
            case,
            "90 % energy rank; rank_lab: energy_rank_90_denoised",
            energy_rank(true, 0.9),
            float(ours["energy_rank_90_denoised"]),
            numpy=energy_rank(raw, 0.9),
            cause=cause,
        ),
        Row(
            case,
            "99 % energy rank; rank_lab: energy_rank_99_denoised",
            energy_rank(true, 0.99),
            float(ours["energy_rank_99_denoised"]),
            numpy=energy_rank(raw, 0.99),
            cause=cause,
        ),
    ]


def recast(folder: Path, width: int) -> list[Row]:
    """A float16 model saved again in bfloat16: nothing was learned."""
    base = llama(width).to(torch.float16)
    base.save_pretrained(folder / "base")
    tuned = copy.deepcopy(base).to(torch.bfloat16)
    tuned.save_pretrained(folder / "tuned")
    ours = our_row(folder / "tuned", folder / "base", QUERY)
    change = in_float64(tuned)[f"{QUERY}.weight"] - in_float64(base)[f"{QUERY}.weight"]
    case, cause = "a float16 model saved again in bfloat16", "the rounding of the file is all there is"
    return [
        Row(
            case,
            "directions learned; rank_lab: rank_above_rounding, others: matrix_rank",
            0.0,
            float(ours["rank_above_rounding"]),
            watched(tuned, base).answer(QUERY, "matrix_rank"),
            numpy=matrix_rank(change),
            cause=cause,
            note=f"rank_lab warns of the model saved again: “{ours['warning']}”",
        ),
        Row(
            case,
            "90 % energy rank; rank_lab: energy_rank_90_denoised",
            0.0,
            float(ours["energy_rank_90_denoised"]),
            numpy=energy_rank(values_of(change), 0.9),
            cause=cause,
        ),
    ]
