"""What an ``adapter_config.json`` says about the size of an update; all else is refused by name."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from rank_lab.bounded_pattern import refuse_slow
from rank_lab.errors import CheckpointError, UnsupportedUpdateError

__all__ = ["AdapterRecipe", "read_recipe", "refuse_other_settings"]

_METHODS: dict[str, Literal["lora", "adalora", "sora"]] = {
    "LORA": "lora",
    "LOFTQ": "lora",  # rank_lab's own, which rounds the base itself
    "ADALORA": "adalora",
    "SORA": "sora",
}
_ADALORA_EPS = 1e-5  # PEFT divides by ranknum + 1e-5

# Fields that do not change the update that the files hold.
_HARMLESS = frozenset(
    {
        "task_type",
        "peft_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "lora_dropout",
        "fan_in_fan_out",
        "bias",
        "use_rslora",
        "modules_to_save",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "megatron_config",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "qalora_group_size",
        "runtime_config",
        "lora_bias",
        "ensure_weight_tying",
        "target_r",
        "init_r",
        "tinit",
        "tfinal",
        "deltaT",
        "beta1",
        "beta2",
        "orth_reg_weight",
        "total_step",
        "init_lora_weights",
        "trainable_token_indices",
        "corda_config",
        "lora_ga_config",
        "gate_init",
        "sparse_lambda",
        "threshold",
        "threshold_mode",
        "operator",
        "gate_lr",
        "l1_weight",
        "prox_start_step",
        "adam_rms",
        "revive",
        "leave_out_zeros",
        "gate_clip",
        "target_parameters",
        "velora_config",
        "monteclora_config",
        "kasa_config",
        "use_bdlora",
    }
)

_KEEPS_BASE = frozenset({"gaussian", "eva", "orthogonal", "mica"})
_CHANGES_BASE = re.compile(r"pissa|pissa_niter_\d+|olora|corda|lora_ga|loftq")


@dataclass(frozen=True)
class AdapterRecipe:
    """How large the update of each module is.

    Parameters
    ----------
    method
        ``lora``, ``adalora`` or ``sora``.
    alpha, r
        Defaults; for AdaLoRA ``r`` is the initial rank.
    rslora
        Whether the scaling is alpha / sqrt(r).
    rank_pattern, alpha_pattern
        PEFT's exceptions by module pattern.
    pruned
        AdaLoRA: kept rows by module, of the initial ones.
    stored
        Rank by module where no config gives it: that of the factors themselves.
    start
        Initialisation that took something out of the base weights (``pissa``,
        ``olora``, ``kasa`` ...); empty if the base is as it was.
    parameters
        PEFT's ``target_parameters``: parameters, not modules, that are adapted.
    blocks
        BD-LoRA: number of blocks of a block-diagonal factor.
    blocked_a, blocked_b
        BD-LoRA: parts of the names of modules whose factor is block-diagonal.
    """

    method: Literal["lora", "adalora", "sora"]
    alpha: float
    r: int
    rslora: bool = False
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    pruned: Mapping[str, int] = field(default_factory=dict)
    stored: Mapping[str, int] = field(default_factory=dict)
    start: str = ""
    parameters: tuple[str, ...] = ()
    blocks: int = 1
    blocked_a: tuple[str, ...] = ()
    blocked_b: tuple[str, ...] = ()

    def ranks(self, module: str) -> tuple[int, ...]:
        """Ranks that the config may have given a module at training; the first is what PEFT gives it on loading.

        PEFT lets the first pattern that matches decide, and sorts them when it
        saves: of several that match, any may have been the first at training.
        """
        if module in self.stored:
            return (self.stored[module],)
        return tuple(self.rank_pattern[key] for key in _matching(self.rank_pattern, module)) or (self.r,)

    def scaling(self, module: str, rank: int | None = None) -> float:
        r"""The factor of the module's update: :math:`\alpha/r` and its kin, rsLoRA's and AdaLoRA's.

        Parameters
        ----------
        module
            Path in the model.
        rank
            That of the stored factors, if nothing can have been cut out of them.

        Examples
        --------
        >>> AdapterRecipe("lora", alpha=16, r=8).scaling("layers.0.q_proj")
        2.0
        >>> AdapterRecipe("lora", alpha=16, r=16, rslora=True, alpha_pattern={"q_proj": 8}).scaling("layers.0.q_proj")
        2.0
        """
        if self.method == "adalora":
            # PEFT takes the rank for an alpha that is not positive: the kept rank once a module was pruned.
            alpha = self.alpha if self.alpha > 0 else self.pruned.get(module, self.r)
            return alpha / (self.r + _ADALORA_EPS)
        alpha = next(iter(self._alphas(module)))
        rank = self.ranks(module)[0] if rank is None else rank
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank

    def block_counts(self, module: str) -> tuple[int, int]:
        """Number of diagonal blocks of a module's A and of its B; 1 for a factor that is stored whole."""
        leaf = module.rsplit(".", 1)[-1]
        in_A, in_B = (any(part in leaf for part in parts) for parts in (self.blocked_a, self.blocked_b))
        return (self.blocks if in_A else 1), (self.blocks if in_B else 1)

    def doubt(self, module: str) -> str:
        """What the config leaves open about a module's scaling; empty if nothing."""
        alphas = self._alphas(module)
        if len(set(alphas)) < 2:
            return ""
        return (
            f"alpha_pattern gives {', '.join(f'{alpha:g}' for alpha in alphas)}: PEFT sorts patterns when it saves, so"
            " that training may have used another than the first, which PEFT loads and which is used here"
        )

    def _alphas(self, module: str) -> tuple[float, ...]:
        return tuple(self.alpha_pattern[key] for key in _matching(self.alpha_pattern, module)) or (self.alpha,)


def read_recipe(config: Mapping[str, Any], source: str) -> AdapterRecipe:
    """Read an adapter's config.

    Parameters
    ----------
    config
        Content of ``adapter_config.json``.
    source
        The file, for messages.

    Raises
    ------
    UnsupportedUpdateError
        If the method, the initialisation or any other setting makes the update
        something else than scaled factors; it is named.
    CheckpointError
        If a needed entry is missing or no number.
    """
    peft_type = str(config.get("peft_type", "missing"))
    if peft_type not in _METHODS:
        raise UnsupportedUpdateError(
            f"{source}: peft_type {peft_type} is not a method whose factors are read (LORA, ADALORA and SORA are);"
            " merge the adapter into its base and compare the two with --base."
        )
    refuse_other_settings(config, source)
    method = _METHODS[peft_type]
    try:
        alpha, r = _number(config, "lora_alpha"), _rank(config, "init_r" if method == "adalora" else "r")
        patterns, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
        _check_patterns(*patterns, *alphas)
        if method == "adalora":
            pruned = {str(key).removesuffix(".lora_E"): _kept(mask, key) for key, mask in patterns.items()}
            return AdapterRecipe(method, alpha, r, pruned=pruned)
        ranks = {str(key): _rank(patterns, key) for key in patterns}
        scales = {str(key): _number(alphas, key) for key in alphas}
        blocks = _blocks(config)
        parameters = tuple(sorted({str(name) for name in config.get("target_parameters") or ()}))
    except (TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{source}: its ranks and alphas cannot be read ({error}); restore the file that PEFT saved."
        ) from error
    return AdapterRecipe(
        method,
        alpha,
        r,
        bool(config.get("use_rslora")),
        ranks,
        scales,
        start=_start(config),
        parameters=parameters,
        **blocks,
    )


def _blocks(config: Mapping[str, Any]) -> dict[str, Any]:
    given = config.get("use_bdlora")
    if not given:
        return {}
    patterns = {f"blocked_{side}": tuple(given.get(f"target_modules_bd_{side}") or ()) for side in "ab"}
    return {"blocks": _rank(given, "nblocks")} | patterns


def _start(config: Mapping[str, Any]) -> str:
    if config.get("kasa_config"):
        return "kasa"
    if config.get("peft_type") == "LOFTQ":
        return "loftq"
    init = config.get("init_lora_weights", True)
    return init.lower() if isinstance(init, str) and init.lower() not in _KEEPS_BASE else ""


def _number(entries: Mapping[str, Any], name: str) -> float:
    value = entries.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} is {'missing' if value is None else repr(value)}, expected a number")
    return float(value)


def _rank(entries: Mapping[str, Any], name: str) -> int:
    value = _number(entries, name)
    if value < 1 or value != int(value):
        raise ValueError(f"{name} is {entries[name]!r}, expected a rank of at least 1")
    return int(value)


def _kept(mask: Any, name: str) -> int:
    if not isinstance(mask, list) or not all(isinstance(kept, bool) for kept in mask):
        raise ValueError(f"rank_pattern of {name} is {str(mask)[:40]!r}, expected AdaLoRA's list of true and false")
    return sum(mask)


def _check_patterns(*patterns: str) -> None:
    for pattern in patterns:
        refuse_slow(pattern)
        try:
            _anchored(pattern)
        except re.error as error:
            raise ValueError(f"pattern {pattern!r} is no regular expression: {error}") from error


def refuse_other_settings(config: Mapping[str, Any], source: str) -> None:
    """Refuse by name what may make an update something else than scaled factors.

    Raises
    ------
    UnsupportedUpdateError
        With the setting and its value.
    """
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower() not in _KEEPS_BASE and not _CHANGES_BASE.fullmatch(init.lower()):
        raise UnsupportedUpdateError(
            f"{source}: init_lora_weights={init!r} is unknown here and may have changed the base weights at the start,"
            " so that B A alone is not the update. Merge the adapter and compare with the original base by --base."
        )
    other = sorted(
        name for name, value in config.items() if name not in _HARMLESS and value not in (None, False, "", [], {})
    )
    if other:
        raise UnsupportedUpdateError(
            f"{source}: setting {other[0]}={str(config[other[0]])[:80]!r} changes the update or is unknown here; not"
            " analysed yet. Merge the adapter and compare with --base."
        )


def _matching(patterns: Mapping[str, object], module: str) -> list[str]:
    """Those patterns that PEFT would apply, in order: regular expressions for the end of the path."""
    return [key for key in patterns if _anchored(key).match(module)]


@cache  # re's own cache of 512 thrashes on a pattern per module of a large model
def _anchored(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")
