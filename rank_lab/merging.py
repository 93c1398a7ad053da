"""Updates that only merging shows: PEFT builds one layer, loads its adapter, merges; nothing of it is written here.

Only the layer in question is ever in memory. Every other module of the model is
left out, or stands in by its shape where a method sizes shared tensors by it.
"""

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.errors import CheckpointError, UnsupportedUpdateError
from rank_lab.stored_tensor import StoredTensor

__all__ = ["OWN", "SHARED", "initial_factors", "merged_layer", "recipe_text"]

OWN = "adapter."
"""Start of the role of an adapter tensor of the module itself."""

SHARED = "shared."
"""Start of the role of an adapter tensor that belongs to all modules."""

_ADAPTER = "default"
_STAND_IN = "stand_in"

# What PEFT raises where a layer, a setting or a tensor is none that a method knows.
_REFUSALS = (
    ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError, RuntimeError,
    TypeError, ValueError,
)  # fmt: skip

# The adapter lies on one module here, whatever it lay on in its model; the rest says nothing about a layer.
_ABOUT_THE_MODEL = (
    "target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern",
    "target_parameters", "trainable_token_indices", "task_type", "auto_mapping", "base_model_name_or_path", "revision",
    "peft_version", "inference_mode", "bias", "layer_replication", "ensure_weight_tying",
)  # fmt: skip


def recipe_text(
    config: Mapping[str, Any], *, layer: str, dtype: str = "float64", shapes: Sequence[tuple[int, ...]] = ()
) -> str:
    """What, beside the tensors, an update depends on, as text that travels and can be hashed.

    Parameters
    ----------
    config
        Content of ``adapter_config.json``.
    layer
        ``linear``, ``conv1d`` (transformers'), ``embedding`` or ``conv``.
    dtype
        Type in which PEFT sets the layer up.
    shapes
        Of all weights that the adapter lies on, as ``(out, in)``, where they decide about shared tensors.
    """
    about = {name: value for name, value in config.items() if name not in {"auto_mapping", "base_model_name_or_path"}}
    recipe = {"config": about, "layer": layer, "dtype": dtype, "shapes": sorted(set(shapes)), "peft": version("peft")}
    return json.dumps(recipe, sort_keys=True)


@torch.no_grad()
def merged_layer(module: str, recipe: str, sources: Mapping[str, StoredTensor]) -> tuple[Tensor, Tensor]:
    """A layer's weight with its adapter merged and without, in float64, as stored.

    Parameters
    ----------
    module
        Path in the model, on which PEFT's patterns are matched.
    recipe
        From :func:`recipe_text`.
    sources
        ``base``, perhaps ``bias``, and the adapter's tensors by :data:`OWN` and :data:`SHARED`.

    Raises
    ------
    UnsupportedUpdateError
        If PEFT cannot set up, load or merge this layer; with its own words.
    """
    plan = json.loads(recipe)
    base = sources["base"].read()
    bias = sources["bias"].read() if "bias" in sources else None
    with _quietly():
        model, layer = _injected(module, plan, _layer(plan["layer"], base, bias, getattr(torch, plan["dtype"])))
        _load(model, module, sources)
        try:
            model.double()
            model.get_submodule(f"base_model.model.{module}").merge(adapter_names=[_ADAPTER])
        except _REFUSALS as error:
            raise _refused(module, plan, "merge", error) from error
    return layer.weight.detach().reshape(base.shape), base.double()


@torch.no_grad()
def initial_factors(module: str, recipe: str, weight: StoredTensor) -> tuple[Tensor, Tensor, float]:
    """The factors with which PEFT starts on this weight, and their scaling: what it takes out of the base.

    Parameters
    ----------
    module, recipe
        As for :func:`merged_layer`.
    weight
        Of the original model.

    Returns
    -------
    B, A, scaling
        ``(out, r)`` and ``(r, in)``.

    Raises
    ------
    UnsupportedUpdateError
        If PEFT cannot set up this layer.
    """
    plan = json.loads(recipe)
    stored = weight.read()
    with _quietly():  # in float32, in which PEFT takes the factors out before it rounds any
        model, _ = _injected(module, plan, _layer(plan["layer"], stored, None, torch.float32))
    layer = model.get_submodule(f"base_model.model.{module}")
    B, A, rank = layer.lora_B[_ADAPTER].weight, layer.lora_A[_ADAPTER].weight, layer.r[_ADAPTER]
    if plan["config"].get("kasa_config"):
        # KaSA starts at zero, but cuts the weight's smallest directions, as many as the rank.
        original = stored.to(torch.float32)
        U, values, Vh = torch.linalg.svd(original, full_matrices=False)
        return U[:, -rank:] * values[-rank:], Vh[-rank:], 1.0
    return B.detach(), A.detach(), float(layer.scaling[_ADAPTER])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without PEFT's remarks on the model that is left out, and leaving the caller's random numbers alone."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def _layer(kind: str, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> nn.Module:
    layer = _empty_layer(kind, tuple(weight.shape), bias is not None)
    layer.weight = nn.Parameter(weight.to(dtype, copy=True), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(dtype, copy=True), requires_grad=False)
    return layer


def _empty_layer(kind: str, shape: tuple[int, ...], with_bias: bool) -> nn.Module:
    with torch.device("meta"):
        if kind == "embedding":
            return nn.Embedding(shape[0], shape[1])
        if kind == "conv":
            convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(shape) - 3]
            return convolution(shape[1], shape[0], shape[2:], bias=with_bias)  # type: ignore[no-any-return]
        if kind == "conv1d":
            from transformers.pytorch_utils import Conv1D

            return Conv1D(shape[1], shape[0])  # type: ignore[no-any-return]
        return nn.Linear(shape[1], shape[0], bias=with_bias)


def _injected(module: str, plan: Mapping[str, Any], layer: Any) -> tuple[Any, Any]:
    """PEFT's model around this one layer, and the layer."""
    from peft import PeftModel

    root = nn.Module()
    _put(root, module, layer)
    stored = tuple(layer.weight.shape[:2])
    own = stored[::-1] if plan["layer"] == "conv1d" else stored
    for number, (out, across) in enumerate(plan["shapes"]):
        if (out, across) != own:
            stand_in = nn.Linear(1, 1, bias=False, dtype=layer.weight.dtype)
            stand_in.in_features, stand_in.out_features = across, out
            stand_in.weight = nn.Parameter(stand_in.weight.new_zeros(1).expand(out, across), requires_grad=False)
            _put(root, f"{_STAND_IN}.{number}", stand_in)
    targets = [name for name, found in root.named_modules() if hasattr(found, "weight")]
    try:
        model = PeftModel(root, _config(plan["config"], targets), _ADAPTER, autocast_adapter_dtype=False)
    except _REFUSALS as error:
        raise _refused(module, plan, "set up", error) from error
    return model, layer


def _put(root: nn.Module, path: str, layer: nn.Module) -> None:
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root.get_submodule(name)
    root.add_module(leaf, layer)


@lru_cache(maxsize=1)
def _known_settings() -> Any:
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def _config(stored: Mapping[str, Any], targets: Sequence[str]) -> Any:
    method = stored["peft_type"]
    cls = _known_settings().get(method)
    if cls is None:
        raise ValueError(f"peft {version('peft')} has no method {method}")
    known = cls.__dataclass_fields__
    unknown = sorted(name for name, value in stored.items() if name not in known and value not in (None, False, {}, []))
    if unknown:
        raise ValueError(f"peft {version('peft')} knows no setting {unknown[0]} of {method}; use that which saved it")
    about = {name: value for name, value in stored.items() if name in known and name not in _ABOUT_THE_MODEL}
    about.pop("peft_type", None)
    config = cls(**about, inference_mode=True)
    config.target_modules = set(targets)  # behind its checks, which compare with other settings
    return config


def _load(model: Any, module: str, sources: Mapping[str, StoredTensor]) -> None:
    from peft import set_peft_model_state_dict

    state = {}
    for role, tensor in sources.items():
        if role.startswith(OWN):
            state[f"base_model.model.{module}.{role.removeprefix(OWN)}"] = tensor.read()
        elif role.startswith(SHARED):
            state[f"base_model.{role.removeprefix(SHARED)}"] = tensor.read()
    file = next(iter(sources.values())).file
    try:
        found = set_peft_model_state_dict(model, state, adapter_name=_ADAPTER)
    except _REFUSALS as error:
        raise CheckpointError(
            f"{file}: PEFT cannot load the adapter of {module!r}: {' '.join(str(error).split())[:200]}; are config and"
            " weights of one adapter, and is the base its own?"
        ) from error
    here = model.state_dict(keep_vars=True)
    passed_over = {name: f"{name}.{_ADAPTER}" for name in found.unexpected_keys if _has_place(name, state, here)}
    for name, place in passed_over.items():  # PEFT 0.20 draws VeRA's projections again instead of loading them
        here[place].data.copy_(state[name])
    unexpected = [name for name in found.unexpected_keys if name not in passed_over]
    missing = set(found.missing_keys) - set(passed_over.values())
    loaded = {value.data_ptr() for name, value in here.items() if name not in missing}
    expected = [
        name
        for name in found.missing_keys
        if name in missing
        and f".{_ADAPTER}." in f"{name}."
        and _STAND_IN not in name
        and here[name].data_ptr() not in loaded  # a layer's name for a tensor that it shares
    ]
    if unexpected or expected:
        what = f"surplus {unexpected[0]}" if unexpected else f"lacks {expected[0]}"
        raise CheckpointError(
            f"{file}: the adapter of {module!r}: {what}, against what PEFT {version('peft')} makes of its config; save"
            " the adapter again, with that version."
        )


def _has_place(name: str, state: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> bool:
    """Whether the model holds a tensor of the adapter under its name with the adapter's behind it."""
    place = here.get(f"{name}.{_ADAPTER}")
    return place is not None and name in state and place.shape == state[name].shape


def _refused(module: str, plan: Mapping[str, Any], what: str, error: Exception) -> UnsupportedUpdateError:
    method = plan["config"].get("peft_type")
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return UnsupportedUpdateError(f"{module}: PEFT {version('peft')} cannot {what} {method} on this layer: {words}")
