"""What the configs of foreign adapter formats say about the scaling of a module."""

import json
import math
from collections.abc import Mapping
from typing import Any

from rank_lab.adapter_config import read_recipe
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import CheckpointError, PairingError, UnsupportedUpdateError
from rank_lab.foreign_names import METADATA, Format

__all__ = ["diffusers_scaling", "mlx_scaling", "refuse_alpha", "torchtune_scaling"]


def mlx_scaling(tuned: Checkpoint) -> float:
    """The factor that mlx-lm's ``adapter_config.json`` gives for all modules.

    Raises
    ------
    CheckpointError
        If there is no config or it has no scale.
    UnsupportedUpdateError
        If it is DoRA's, or of an mlx-lm that scaled by more than ``scale``.
    """
    file = tuned.folder / "adapter_config.json"
    if tuned.adapter_config is None:
        raise CheckpointError(f"{file}: missing; MLX's adapters record their scale only there: restore it.")
    method = tuned.adapter_config.get("fine_tune_type", "lora")
    if method != "lora":
        raise UnsupportedUpdateError(
            f"{file}: fine_tune_type {method} is not scaled factors; fuse the adapter and compare with --base."
        )
    parameters = tuned.adapter_config.get("lora_parameters")
    scale = parameters.get("scale") if isinstance(parameters, dict) else None
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale):
        raise CheckpointError(
            f"{file}: lora_parameters.scale is {scale!r}, expected a number; restore the file that mlx-lm saved."
        )
    if isinstance(parameters, dict) and "alpha" in parameters:
        raise UnsupportedUpdateError(
            f"{file}: lora_parameters has an alpha: early versions of mlx-lm scaled by scale * alpha / rank, later ones"
            " by scale alone, and the file does not say which trained it. Remove alpha if it was not used, or fuse the"
            " adapter and compare with --base."
        )
    return float(scale)


def torchtune_scaling(tuned: Checkpoint, rank: int, lora_alpha: float | None) -> float:
    """Alpha / rank, from the config beside the weights or from the user."""
    config = tuned.adapter_config
    if config is None:
        if lora_alpha is None:
            raise CheckpointError(
                f"{tuned.source}: torchtune's adapter_model.pt does not record alpha; give it as --lora-alpha (the"
                f" scaling is alpha / rank, here rank {rank}; it is in the recipe that trained it)."
            )
        if not math.isfinite(lora_alpha):
            raise CheckpointError(f"--lora-alpha {lora_alpha}: expected a number; it is in the recipe that trained it.")
        return lora_alpha / rank
    file = str(tuned.folder / "adapter_config.json")
    refuse_alpha(file, lora_alpha)
    recipe = read_recipe({"peft_type": "LORA", **config}, file)
    if recipe.method != "lora" or rank != recipe.r:
        raise CheckpointError(
            f"{file}: gives {recipe.method} of rank {recipe.r}, but the factors have rank {rank}; restore the config"
            " that was saved with them."
        )
    return recipe.scaling("", rank)


def diffusers_scaling(tuned: Checkpoint, module: str, rank: int) -> float | None:
    """What the config in the header gives for a module; None if there is none, so that stored alphas decide.

    Raises
    ------
    CheckpointError
        If the config and the factors contradict each other.
    """
    text = tuned.metadata.get(METADATA)
    if text is None:
        return None
    where = f"{tuned.source}: {METADATA} of its header"
    try:
        metadata = json.loads(text)
        component, _, inner = module.partition(".")
        found = _of_component(metadata, component)
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{where}: no JSON object ({error}); save the adapter again.") from error
    name = inner if found is not metadata else module
    recipe = read_recipe({"peft_type": "LORA", **found}, where)
    if recipe.method != "lora" or rank not in recipe.ranks(name):
        raise CheckpointError(
            f"{where}: gives rank {recipe.ranks(name)[0]} for {module!r}, but its factors have rank {rank}; save the"
            " adapter again."
        )
    return recipe.scaling(name, rank)


def _of_component(metadata: Mapping[str, Any], component: str) -> Mapping[str, Any]:
    own = {
        name.removeprefix(f"{component}."): value
        for name, value in metadata.items()
        if name.startswith(f"{component}.")
    }
    return own or metadata


def refuse_alpha(source: str, lora_alpha: float | None, kind: Format | None = None) -> None:
    """Refuse an alpha from the user where the format has one of its own.

    Raises
    ------
    PairingError
        If one was given.
    """
    if lora_alpha is not None:
        owner = f"a {kind} adapter's" if kind else "its"
        raise PairingError(f"{source}: {owner} scaling is in the files; leave out --lora-alpha.")
