"""The methods that can be trained, by name.

Importing this module also tells PEFT of rank_lab's own methods, so that it can load what they saved.
"""

import dataclasses
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from torch import nn

from rank_lab.errors import RankLabError
from rank_lab.kept_start import STARTS_ELSEWHERE
from rank_lab.training.bitfit import adapt_bitfit
from rank_lab.training.bottleneck import adapt_beside_linear, adapt_parallel, adapt_series
from rank_lab.training.compacter import adapt_compacter
from rank_lab.training.heads import check_kind
from rank_lab.training.low_rank import (
    adapt_adalora,
    adapt_ia3,
    adapt_loftq,
    adapt_sora,
    adapt_vera,
    lora_adapter,
)
from rank_lab.training.method import Method, MethodChoices
from rank_lab.training.prelayer import adapt_prelayer
from rank_lab.training.prompts import adapt_prefix, adapt_prompt

__all__ = ["METHODS", "method_named"]

_Adapt = Callable[[Any, MethodChoices, str], nn.Module]

_LORA = ("targets", "embeddings", "head", "rank", "alpha", "dropout")
_WITHOUT_EMBEDDINGS = ("targets", "head", "rank", "alpha", "dropout")
_SET_BY_TRAINER = ("steps",)  # says how long the training is, and chooses nothing by itself

# Where a search for the learning rate would begin, with AdamW.
_FULL_LR = 1e-5  # LoRA Learns Less and Forgets Less (2405.09673); PEFT's method comparison on MetaMathQA has the same
_LORA_LR = 2e-4  # 2405.09673: LoRA's best on mathematics; the same for what are LoRA's factors, scaled or split
_ADALORA_LR = 8e-4  # settings for SST-2 with the published code
_SHIPPED_WITH_SORA = 8e-4  # settings that SoRA's authors ship, for their own method, adapters and BitFit alike
_PEFT_PROMPTS = 1e-3  # PEFT's method comparison on MetaMathQA: prefix and prompt tuning
_PEFT_IA3 = 5e-3  # same: IA3
_VERA_LR = 5e-3  # IA3's: vectors as well, far above the rate of factors


def method_named(name: str) -> "Method":
    """The method of a name.

    Parameters
    ----------
    name
        A key of :data:`METHODS`.

    Raises
    ------
    RankLabError
        If there is none; the nearest names are offered.

    Examples
    --------
    >>> method_named("rslora").title
    'rsLoRA'
    """
    if name in METHODS:
        return METHODS[name]
    near = get_close_matches(name.lower(), METHODS, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(METHODS)}"
    raise RankLabError(f"method {name!r}: not known ({hint}).")


def _adapt_full(model: Any, _choices: MethodChoices, _kind: str) -> nn.Module:
    model.requires_grad_(True)
    trained: nn.Module = model
    return trained


def _checked(name: str, adapt: _Adapt, reads: tuple[str, ...]) -> _Adapt:
    """The same, refusing what the method would not read."""

    def checked(model: Any, choices: MethodChoices, kind: str) -> nn.Module:
        check_kind(model, kind)
        for field in dataclasses.fields(MethodChoices):
            given = getattr(choices, field.name)
            if field.name not in (*reads, *_SET_BY_TRAINER) and given != field.default:
                raise RankLabError(
                    f"method {name!r}: has no {field.name} to set to {given!r}; leave it out (it reads"
                    f" {', '.join(reads) or 'no choices'})."
                )
        return adapt(model, choices, kind)

    return checked


def _method(
    name: str, title: str, reference: str, learning_rate: float, adapt: _Adapt, *reads: str, at_start: str = ""
) -> Method:
    starts_elsewhere = name in STARTS_ELSEWHERE
    return Method(name, title, reference, learning_rate, _checked(name, adapt, reads), at_start, starts_elsewhere)


_ALL = (
    _method("full", "Full fine-tuning", "2405.09673", _FULL_LR, _adapt_full),
    _method("bitfit", "BitFit", "2106.10199", _SHIPPED_WITH_SORA, adapt_bitfit, "targets"),
    _method("lora", "LoRA", "2106.09685", _LORA_LR, lora_adapter(), *_LORA),
    _method("rslora", "rsLoRA", "2312.03732", _LORA_LR, lora_adapter(use_rslora=True), *_LORA),
    _method("dora", "DoRA", "2402.09353", _LORA_LR, lora_adapter(use_dora=True), *_LORA),
    _method(
        "pissa",
        "PiSSA",
        "2404.02948",
        _LORA_LR,
        lora_adapter(init_lora_weights="pissa"),
        *_LORA,
        at_start="equal but for rounding: the base weight is split into factors and a remainder",
    ),
    _method(
        "loftq",
        "LoftQ",
        "2310.08659",
        _LORA_LR,
        adapt_loftq,
        *_WITHOUT_EMBEDDINGS,
        at_start="the base weights are rounded to NF4, which the factors make up for in part",
    ),
    _method("adalora", "AdaLoRA", "2303.10512", _ADALORA_LR, adapt_adalora, *_WITHOUT_EMBEDDINGS),
    _method("sora", "SoRA", "2311.11696", _SHIPPED_WITH_SORA, adapt_sora, *_WITHOUT_EMBEDDINGS, "threshold", "gate_lr"),
    _method("vera", "VeRA", "2310.11454", _VERA_LR, adapt_vera, "targets", "head", "rank", "dropout"),
    _method("ia3", "IA3", "2205.05638", _PEFT_IA3, adapt_ia3, "targets"),
    _method(
        "prefix",
        "Prefix tuning",
        "2101.00190",
        _PEFT_PROMPTS,
        adapt_prefix,
        "prompt_tokens",
        at_start="attention also reads random keys and values",
    ),
    _method(
        "prompt",
        "Prompt tuning (PreEmbed)",
        "2104.08691",
        _PEFT_PROMPTS,
        adapt_prompt,
        "prompt_tokens",
        at_start="the embeddings of random tokens stand before the input",
    ),
    _method(
        "prelayer",
        "Prefix-layer tuning (PreLayer)",
        "2106.09685",
        _PEFT_PROMPTS,
        adapt_prelayer,
        "prompt_tokens",
        at_start="random tokens stand before the input",
    ),
    _method("series", "Series adapter", "1902.00751", _SHIPPED_WITH_SORA, adapt_series, "bottleneck", "place"),
    _method("parallel", "Parallel adapter", "2110.04366", _SHIPPED_WITH_SORA, adapt_parallel, "bottleneck", "place"),
    _method(
        "parallel_linear",
        "Parallel adapter beside linear layers",
        "2304.01933",
        _SHIPPED_WITH_SORA,
        adapt_beside_linear,
        "bottleneck",
        "targets",
    ),
    _method("compacter", "Compacter", "2106.04647", _SHIPPED_WITH_SORA, adapt_compacter, "bottleneck", "place"),
)

METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})
"""Every method by its name."""
