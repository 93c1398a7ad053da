"""Every method of PEFT and rank_lab's own, and what there is to analyse; one that is not in here is refused by name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MERGED", "REFUSED", "VECTORS", "WITHOUT_UPDATE", "Merging", "lora_variant"]


@dataclass(frozen=True)
class Merging:
    """A method whose update only merging shows, and how its tensors are named.

    Parameters
    ----------
    prefix
        Start of the names of its parameters.
    shared
        Whether tensors without a module belong to all of them, in shapes that the largest module decides.
    bias
        Whether merging changes the bias too.
    dtype
        Type in which PEFT must set the layer up: some start from a decomposition that it takes in float32 only.
    """

    prefix: str
    shared: bool = False
    bias: bool = False
    dtype: str = "float64"


MERGED: Mapping[str, Merging] = {
    "BOFT": Merging("boft_"),
    "C3A": Merging("c3a_"),
    "DEFT": Merging("deft_"),
    "DELORA": Merging("delora_"),
    "FOURIERFT": Merging("fourierft_"),
    "GLORA": Merging("glora_", bias=True),
    "GRALORA": Merging("gralora_"),
    "HIRA": Merging("hira_"),
    "HRA": Merging("hra_"),
    "IA3": Merging("ia3_", bias=True),
    "LOHA": Merging("hada_"),
    "LOKR": Merging("lokr_"),
    "MISS": Merging("miss_"),
    "OFT": Merging("oft_"),
    "OSF": Merging("osf_"),
    "PEANUT": Merging("peanut_"),
    "PSOFT": Merging("psoft_", dtype="float32"),
    "PVERA": Merging("pvera_", shared=True),
    "RANDLORA": Merging("randlora_", shared=True),
    "ROAD": Merging("road_", bias=True),
    "SHIRA": Merging("shira_"),
    "SUPERTUNING": Merging("supertuning_"),
    "VBLORA": Merging("vblora_", shared=True),
    "VERA": Merging("vera_", shared=True),
    "WAVEFT": Merging("waveft_"),
}
"""Methods whose update is the difference that PEFT's own merge makes, layer by layer."""

VECTORS: Mapping[str, str] = {"BEFT": "beft_", "BITFIT": "bitfit_", "LN_TUNING": "ln_tuning_"}
"""Methods that train biases and norms, and how their tensors' names start."""

_PROMPT = "virtual tokens before the input: they change activations, no weight"

WITHOUT_UPDATE: Mapping[str, str] = {
    "ADAPTION_PROMPT": "prompts that attention reads through a gate: they change activations, no weight",
    "BOTTLENECK": "networks behind or beside attention and feed-forward: they change activations, no weight",
    "CARTRIDGE": "keys and values put before the input's: they change activations, no weight",
    "COMPACTER": "networks behind attention and feed-forward: they change activations, no weight",
    "CPT": _PROMPT,
    "LILY": "experts that a router weighs by the input: the change differs from input to input, no weight changes",
    "MULTITASK_PROMPT_TUNING": _PROMPT,
    "POLY": "experts that a router weighs by the task: the change differs from task to task, no weight changes",
    "PRELAYER": "virtual tokens before the input of every layer: they change activations, no weight",
    "PREFIX_TUNING": "keys and values put before the input's: they change activations, no weight",
    "PROMPT_TUNING": _PROMPT,
    "P_TUNING": _PROMPT,
    "SHADOW": "a network beside the model with its own state: it changes activations, no weight",
    "XLORA": "experts that a router weighs by the input: the change differs from input to input, no weight changes",
}
"""Methods that change no weight, and what they do instead."""

_BY_ORDER = "shares its vectors by the order of the modules in the model, which the files do not record"

REFUSED: Mapping[str, str] = {
    "ADAMSS": "clusters the base weight anew when it is loaded, so that files alone do not fix the update",
    "FROD": "decomposes the base weights of all layers together when it is loaded, more than one layer at a time",
    "TINYLORA": _BY_ORDER,
    "UNILORA": _BY_ORDER,
}
"""Methods whose update the files do not determine, and why."""


def lora_variant(config: Mapping[str, Any]) -> str:
    """What a LoRA config makes of its factors: ``""``, ``"merged"``, or why there is no update of a weight.

    Examples
    --------
    >>> lora_variant({"r": 8}), lora_variant({"use_dora": True})
    ('', 'merged')
    """
    if config.get("alora_invocation_tokens"):
        return "activated LoRA applies behind its invocation tokens only: the change differs from token to token"
    if config.get("arrow_config"):
        return "Arrow routes every token among adapters: the change differs from token to token"
    return "merged" if config.get("use_dora") else ""
