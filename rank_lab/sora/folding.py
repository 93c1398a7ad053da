r"""A SoRA adapter as an ordinary LoRA adapter: zero gates cut out, the others taken into A."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from rank_lab.adapter_config import read_recipe
from rank_lab.checkpoint import Checkpoint
from rank_lab.errors import CheckpointError, NonFiniteError, RankLabError, UnsupportedUpdateError
from rank_lab.pairing import plan_updates
from rank_lab.sora.config import SoraConfig
from rank_lab.sora.output_check import model_difference
from rank_lab.spec import UpdateSpec, read_update
from rank_lab.update import LowRankUpdate

__all__ = ["FoldReport", "fold"]

REPORT_FILE = "fold.json"

_INPUTS = 16
_ALLOWED = 1e-5  # of the largest output: float32's rounding over a few thousand terms

_FIRST = "base_model.model."
_LAST = ".lora_A.weight"


@dataclass(frozen=True)
class FoldReport:
    """What folding did, and by how much outputs differ; stored as ``fold.json``.

    Parameters
    ----------
    source
        The SoRA adapter.
    ranks
        Module to rank, of those that are in the folded adapter.
    left_out
        Modules whose gates are all zero.
    parameters
        Number of values in the folded factors.
    largest_difference
        Over all modules, of the outputs for random inputs with unit variance, in float64.
    relative_difference
        The same, divided by the module's largest output.
    model_difference
        Largest difference of the model's outputs on a batch; None where no model was given.
    """

    source: str
    ranks: Mapping[str, int]
    left_out: tuple[str, ...]
    parameters: int
    largest_difference: float
    relative_difference: float
    model_difference: float | None = None


@dataclass(frozen=True)
class _Folded:
    """One module's plain factors and scaling; rank 0 where all gates are zero."""

    module: str
    names: tuple[str, str]
    B: Tensor
    A: Tensor
    scaling: float
    difference: float
    relative: float

    @property
    def rank(self) -> int:
        return int(self.A.shape[0])


def fold(
    adapter: str | Path,
    out: str | Path,
    *,
    model: nn.Module | str | Path | None = None,
    batch: Mapping[str, Tensor] | None = None,
) -> FoldReport:
    r"""Write a SoRA adapter as an ordinary LoRA adapter, which loads where rank_lab is not installed.

    With :math:`K = \{g_i \neq 0\}`: :math:`A' = \mathrm{diag}(g_K) A_K`,
    :math:`B' = B_K`, :math:`r' = |K|`. The scaling :math:`s` stays, by
    :math:`\alpha' = s r'` of each module (``rank_pattern``, ``alpha_pattern``).
    Modules of rank 0 are left out; classifiers and other modules that were saved
    whole are copied. Outputs before and after are compared for every module, and
    of the whole model where one is given; ``fold.json`` keeps the differences.

    Parameters
    ----------
    adapter
        Folder or hub id of a SoRA adapter.
    out
        New or empty folder.
    model
        The base model (itself, a folder or a hub id) to compare whole outputs with.
    batch
        Its inputs; default random tokens of its vocabulary.

    Raises
    ------
    CheckpointError
        If it is another method's adapter, or ``out`` is not empty.
    NonFiniteError
        If a factor or a gate is not finite.
    UnsupportedUpdateError
        If all gates are zero, or a setting is on that a plain LoRA cannot carry.
    RankLabError
        If outputs differ by more than rounding; nothing is left in ``out``.

    Examples
    --------
    >>> fold("no/adapter/here", "plain")
    Traceback (most recent call last):
    ...
    rank_lab.errors.CheckpointError: no/adapter/here...
    """
    checkpoint, target = Checkpoint.open(adapter), Path(out)
    config = _sora_settings(checkpoint)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target}: is there already; name a new or empty folder for the folded adapter.")
    folded, others = _folded_modules(checkpoint)
    kept = [part for part in folded if part.rank]
    if not kept:
        raise UnsupportedUpdateError(
            f"{checkpoint.source}: all gates of all {len(folded)} modules are zero: the adapter changes nothing, and"
            " PEFT knows no LoRA of rank 0; use the base model."
        )
    _refuse_difference(checkpoint.source, folded)
    report = FoldReport(
        source=checkpoint.source,
        ranks={part.module: part.rank for part in kept},
        left_out=tuple(part.module for part in folded if not part.rank),
        parameters=sum(part.A.numel() + part.B.numel() for part in kept),
        largest_difference=max(part.difference for part in folded),
        relative_difference=max(part.relative for part in folded),
    )
    target.mkdir(parents=True, exist_ok=True)
    try:
        _write(target, kept, others, _plain_config(config, kept))
        if model is not None:
            whole = model_difference(model, checkpoint.folder, target, batch)
            report = replace(report, model_difference=whole)
        (target / REPORT_FILE).write_text(json.dumps(asdict(report), indent=1) + "\n")
    except BaseException:
        shutil.rmtree(target)
        raise
    return report


def _sora_settings(checkpoint: Checkpoint) -> Mapping[str, Any]:
    config = checkpoint.adapter_config
    file = checkpoint.folder / "adapter_config.json"
    if config is None or config.get("peft_type") != "SORA":
        kind = "no adapter_config.json" if config is None else f"peft_type {config.get('peft_type')!r}"
        raise CheckpointError(f"{file}: {kind}, where fold expects a SoRA adapter (peft_type 'SORA').")
    if config.get("bias", "none") != "none":
        raise UnsupportedUpdateError(
            f"{file}: bias={config['bias']!r} trained the biases of adapted modules, which a module that is left out"
            " would lose; merge the adapter instead (merge_and_unload)."
        )
    return config


def _folded_modules(checkpoint: Checkpoint) -> tuple[list[_Folded], dict[str, Tensor]]:
    """Every gated module folded, and all other tensors as they are."""
    plan = plan_updates(checkpoint)
    failed = next((row for row in plan.coverage if row.failed), None)
    if failed is not None:
        raise CheckpointError(
            f"{checkpoint.source}: {failed.tensor!r} cannot be read ({failed.reason}); save it again."
        )
    specs = [spec for spec in plan.specs if spec.update_kind == "sora"]
    recipe = read_recipe(checkpoint.adapter_config or {}, checkpoint.source)
    for spec in specs:
        if recipe.doubt(spec.module):
            raise UnsupportedUpdateError(
                f"{checkpoint.source}: {spec.module}: {recipe.doubt(spec.module)}; leave one in adapter_config.json."
            )
    gated = {tensor.name for spec in specs for _, tensor in spec.sources}
    others = {name: tensor.read() for name, tensor in checkpoint.tensors.items() if name not in gated}
    return [_folded(spec) for spec in specs], others


def _folded(spec: UpdateSpec) -> _Folded:
    update = read_update(spec)
    if not isinstance(update, LowRankUpdate) or update.gate is None:
        raise UnsupportedUpdateError(f"{spec.module}: is no gated update; fold takes SoRA's factors only.")
    for role, values in (("gate", update.gate), ("A", update.A), ("B", update.B)):
        if not bool(torch.isfinite(values).all()):
            raise NonFiniteError(
                f"{spec.required(role).file}: {spec.required(role).name!r} holds NaN or infinite values; fold an"
                " earlier checkpoint of the run."
            )
    open_gates = update.gate != 0
    A = update.A.double()[open_gates] * update.gate.double()[open_gates, None]
    plain = LowRankUpdate(
        update.B[:, open_gates].contiguous(), A.to(torch.promote_types(update.A.dtype, torch.float32)), update.scaling
    )
    difference, largest = _difference(update, plain)
    return _Folded(
        module=_path(spec),
        names=(spec.required("B").name, spec.required("A").name),
        B=plain.B,
        A=plain.A,
        scaling=update.scaling,
        difference=difference,
        relative=difference / largest if largest else 0.0,
    )


def _difference(gated: LowRankUpdate, plain: LowRankUpdate) -> tuple[float, float]:
    """Largest difference of outputs, and the largest output."""
    generator = torch.Generator().manual_seed(gated.shape[1])
    inputs = torch.randn(gated.shape[1], _INPUTS, dtype=torch.float64, generator=generator)
    before = gated.matmul(inputs)
    return float((before - plain.matmul(inputs)).abs().max()), float(before.abs().max())


def _path(spec: UpdateSpec) -> str:
    """The module's path in the base model, where PEFT looks for it."""
    name = spec.required("A").name
    if not (name.startswith(_FIRST) and name.endswith(_LAST)):
        raise CheckpointError(
            f"{spec.required('A').file}: {name!r} is not named as PEFT saves a SoRA adapter"
            f" ({_FIRST}MODULE{_LAST}); load it by PeftModel and save it again."
        )
    return name.removeprefix(_FIRST).removesuffix(_LAST)


def _refuse_difference(source: str, folded: Sequence[_Folded]) -> None:
    worst = max(folded, key=lambda part: part.relative)
    if worst.relative > _ALLOWED:
        raise RankLabError(
            f"{source}: folding {worst.module} would change its outputs by {worst.relative:.3g} of their size, more"
            " than rounding explains; its factors cancel: keep the adapter as it is."
        )


def _plain_config(config: Mapping[str, Any], kept: Sequence[_Folded]) -> dict[str, Any]:
    """The config of plain LoRA: most modules by its defaults, the others by exact patterns."""
    own = {field.name for field in fields(SoraConfig)} - {field.name for field in fields(LoraConfig)}
    rank, scaling = Counter((part.rank, part.scaling) for part in kept).most_common(1)[0][0]
    names = [part.module for part in kept]
    other_ranks = {part.module: part.rank for part in kept if part.rank != rank}
    alphas = {part.module: part.scaling * part.rank for part in kept if (part.rank, part.scaling) != (rank, scaling)}
    changed = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": scaling * rank,
        "use_rslora": False,
        "rank_pattern": {_exactly(name): value for name, value in other_ranks.items()},
        "alpha_pattern": {_exactly(name): value for name, value in alphas.items()},
        "target_modules": names,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "inference_mode": True,
    }
    return {name: value for name, value in config.items() if name not in own} | changed


def _exactly(name: str) -> str:
    """A pattern that matches this path and no longer one that ends like it."""
    return "^" + re.escape(name)


def _write(target: Path, kept: Sequence[_Folded], others: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    tensors = dict(others)
    for part in kept:
        tensors |= dict(zip(part.names, (part.B, part.A), strict=True))
    save_file(
        {name: values.contiguous() for name, values in tensors.items()},
        target / "adapter_model.safetensors",
        metadata={"format": "pt"},
    )
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
