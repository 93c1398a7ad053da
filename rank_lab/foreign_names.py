"""Adapter formats that are not PEFT's: which one a file is of, and which tensors of it belong together.

Names as their own programs write them: kohya's sd-scripts (``networks/lora.py``)
and LyCORIS 4.1 (``custom_state_dict`` of its modules), diffusers 0.42
(``loaders/lora_base.py``, ``utils/state_dict_utils.py``), mlx-lm 0.32
(``tuner/lora.py``), torchtune 0.6 (``modules/peft/lora.py``).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import UnsupportedUpdateError
from rank_lab.names import strip_wrappers
from rank_lab.stored_tensor import StoredTensor

__all__ = ["ForeignGroup", "Format", "foreign_format", "grouped", "refuse_merged_factors", "saved_in_full"]

Format = Literal["kohya", "diffusers", "mlx", "torchtune"]

_LYCORIS = r"hada_(w[12]_[ab]|t[12])|lokr_(w[12]|w[12]_[ab]|t[12])|diff|diff_b"
_PATTERNS: dict[Format, re.Pattern[str]] = {
    "kohya": re.compile(rf"(?P<module>.+)\.(?P<role>lora_(down|up|mid)\.weight|alpha|{_LYCORIS})"),
    "diffusers": re.compile(
        r"(?P<module>.+?)(\.lora\.|_lora\.|\.lora_linear_layer\.|\.(?=lora_[AB]\.)|\.(?=alpha$))"
        r"(?P<role>(down|up|lora_A|lora_B)\.weight|lora_B\.bias|alpha)"
    ),
    "mlx": re.compile(r"(?P<module>.+)\.(?P<role>lora_[ab])"),
    "torchtune": re.compile(r"(?P<module>.+)\.(?P<role>lora_[ab]\.weight)"),
}
_ROLES = {
    "lora_down.weight": "A", "lora_up.weight": "B", "lora_mid.weight": "mid",
    "down.weight": "A", "up.weight": "B", "lora_A.weight": "A", "lora_B.weight": "B", "lora_B.bias": "bias",
    "lora_a": "A", "lora_b": "B", "lora_a.weight": "A", "lora_b.weight": "B",
}  # fmt: skip
_KOHYA = re.compile(r".+\.(lora_(down|up|mid)\.weight|hada_(w[12]_[ab]|t[12])|lokr_(w[12]|w[12]_[ab]|t[12]))")
_DIFFUSERS = re.compile(r".+(\.lora\.|_lora\.|\.lora_linear_layer\.)(down|up)\.weight")
_FACTOR = re.compile(r".+\.lora_[AB]\.weight")
_DIFFUSION_MODEL = re.compile(
    r"(unet|text_encoder(_\d)?|diffusion_model)\..+|(.+\.)?((single_)?transformer|down|mid|up)_blocks?\..+"
)
METADATA = "lora_adapter_metadata"
"""Entry of a safetensors header in which diffusers keeps the adapter's config."""


@dataclass(frozen=True)
class ForeignGroup:
    """The tensors of one module.

    Parameters
    ----------
    module
        Its path, as the file has it.
    parts
        Role to tensor: ``B``, ``A``, ``mid``, ``alpha``, ``bias``, or LyCORIS' own names.
    """

    module: str
    parts: dict[str, StoredTensor] = field(default_factory=dict)


def foreign_format(checkpoint: Checkpoint) -> Format | None:
    """Which of the formats a file is of; None if it is PEFT's, loralib's or a full checkpoint.

    Factors named as PEFT names them are diffusers' if there is no
    ``adapter_config.json`` and the file's own name, its header or the paths of
    its modules are a diffusion model's.
    """
    names = list(checkpoint.tensors)
    peft = "peft_type" in (checkpoint.adapter_config or {})  # whose LoHa and LoKr are named as LyCORIS'
    differences = all(_PATTERNS["kohya"].fullmatch(name) for name in names)  # "diff" alone may be any model's
    if not peft and (differences or any(_KOHYA.fullmatch(name) for name in names)):
        return "kohya"
    if not peft and any(_DIFFUSERS.fullmatch(name) for name in names):
        return "diffusers"
    for kind in ("mlx", "torchtune"):
        if any(_PATTERNS[kind].fullmatch(name) for name in names):
            return kind
    factors = [name for name in names if _FACTOR.fullmatch(name)]
    if not factors or checkpoint.adapter_config is not None:
        return None
    stem = checkpoint.tensors[factors[0]].file.stem
    own = stem == "pytorch_lora_weights" or METADATA in checkpoint.metadata
    return "diffusers" if own or all(_DIFFUSION_MODEL.fullmatch(name) for name in factors) else None


def refuse_merged_factors(checkpoint: Checkpoint) -> None:
    """Refuse the factors of several weights side by side: loralib's MergedLinear, LitGPT's ``qkv``.

    Which rows of ``lora_B`` belong to which part of the weight only the script
    that trained them says.

    Raises
    ------
    UnsupportedUpdateError
        If ``lora_A`` has a multiple of the rank of ``lora_B``.
    """
    for name, A in checkpoint.tensors.items():
        B = checkpoint.tensors.get(name.replace("lora_A", "lora_B"))
        if "lora_A" not in name or B is None or len(A.shape) != 2 or len(B.shape) != 2 or not B.shape[1]:
            continue
        if A.shape[0] > B.shape[1] and A.shape[0] % B.shape[1] == 0:
            raise UnsupportedUpdateError(
                f"{A.file}: {name!r} is {list(A.shape)} and its lora_B {list(B.shape)}: factors of"
                f" {A.shape[0] // B.shape[1]} weights side by side in a fused one (loralib's MergedLinear, LitGPT's"
                " qkv); which is where, the file does not say. Merge the adapter and compare with --base."
            )


def saved_in_full(checkpoint: Checkpoint) -> bool:
    """Whether this is what mlx-lm saves beside an ``adapter_config.json`` when it trains the weights themselves."""
    config = checkpoint.adapter_config or {}
    return config.get("fine_tune_type") == "full" and "peft_type" not in config


def grouped(checkpoint: Checkpoint, kind: Format) -> dict[str, ForeignGroup]:
    """Tensors by module.

    Raises
    ------
    UnsupportedUpdateError
        If a tensor is none that is read in this format; it is named.
    """
    groups: dict[str, ForeignGroup] = {}
    for name, tensor in checkpoint.tensors.items():
        match = _PATTERNS[kind].fullmatch(strip_wrappers(name))
        if match is None:
            raise UnsupportedUpdateError(
                f"{tensor.file}: tensor {name!r} of this {_OWNERS[kind]} adapter makes the update something else than"
                f" scaled factors{_guess(name)}; not analysed. Merge the adapter into its base and compare with --base."
            )
        module = match["module"] if kind != "diffusers" else _diffusers_module(match["module"], name)
        role = _ROLES.get(match["role"], match["role"])
        groups.setdefault(module, ForeignGroup(module)).parts[role] = tensor
    return groups


_OWNERS: Mapping[Format, str] = {
    "kohya": "kohya/LyCORIS", "diffusers": "diffusers", "mlx": "MLX", "torchtune": "torchtune",
}  # fmt: skip
_KNOWN = {
    r"dora_scale|lora_magnitude_vector|\.m|magnitude": "DoRA",
    r"oft_|boft|\.rescale": "OFT or BOFT",
    r"\.[ab][12]\.weight": "GLoRA",
    r"\.on_input": "IA3",
    r"w_norm|b_norm": "trained norms",
}


def _guess(name: str) -> str:
    return next((f" ({method})" for pattern, method in _KNOWN.items() if re.search(pattern, name)), "")


def _diffusers_module(module: str, name: str) -> str:
    # Older files name the factors of attention by what they are for, not by the layers that they change.
    if "_lora." in name and ".self_attn.to_" in module:
        parent, _, leaf = module.rpartition(".to_")
        return f"{parent}.{leaf}_proj"
    if ".processor." not in name:
        return module
    module = module.replace(".processor.", ".")
    return f"{module}.0" if module.endswith(".to_out") else module
