"""A model in training as a checkpoint: its tensors are planned and read like those of files, where they lie."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from rank_lab.checkpoint import Checkpoint
from rank_lab.coverage import CoverageRow, Plan
from rank_lab.sora.callback import active_adapter
from rank_lab.spec import UpdateSpec
from rank_lab.stored_tensor import StoredTensor

__all__ = ["LiveTensor", "inner_model", "is_adapted", "live_checkpoint", "only_trained", "with_copies"]

_LIVE, _COPY = Path("model-in-training"), Path("copy-from-before-training")
_CHUNK = 1 << 20
_UNTRAINED = "not trained: requires_grad is off"


@dataclass(frozen=True)
class LiveTensor(StoredTensor):
    """A tensor in memory that is read as if it were in a file, in its values at that moment.

    Parameters
    ----------
    values
        On any device; what is read is a copy on the CPU.

    Examples
    --------
    >>> weight = torch.arange(6.0).reshape(2, 3)
    >>> tensor = LiveTensor("q.weight", (2, 3), "float32", Path("memory"), values=weight)
    >>> _ = weight.add_(1.0)
    >>> tensor.block(slice(1, 2), slice(0, 2)).tolist()
    [[4.0, 5.0]]
    """

    values: Tensor = field(kw_only=True, compare=False, repr=False)

    @classmethod
    def of(cls, name: str, values: Tensor, file: Path) -> "LiveTensor":
        """The whole of a tensor, by the name that it has in a state dict."""
        return cls(name, tuple(values.shape), str(values.dtype).removeprefix("torch."), file, values=values.detach())

    def read(self) -> Tensor:
        """A copy of the whole tensor."""
        if self.selection is not None:
            return super().read()
        return self._mapped().to("cpu", copy=True).contiguous()

    def block(self, rows: slice, columns: slice) -> Tensor:
        """A copy of ``tensor[rows, columns]``."""
        if self.selection is not None:
            return super().block(rows, columns)
        return self._mapped()[rows, columns].to("cpu", copy=True).contiguous()

    def chunks(self) -> Iterator[Tensor]:
        """Copies of flat pieces in row-major order."""
        if self.selection is not None:
            yield from super().chunks()
            return
        flat = self._mapped().reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            yield flat[start : start + _CHUNK].to("cpu", copy=True)

    def _mapped(self) -> Tensor:
        if tuple(self.values.shape) == self.shape and not self.start:
            return self.values
        return self.values.reshape(-1)[self.start : self.start + self.elements].reshape(self.shape)


def inner_model(model: Any) -> Any:
    """The model without what torch wraps around it to spread or compile it."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod
        else:
            return model


def is_adapted(model: Any) -> bool:
    """Whether PEFT adapts this model."""
    return bool(getattr(model, "peft_config", None)) and hasattr(model, "get_base_model")


def live_checkpoint(model: Any, source: str, step: int | None = None) -> Checkpoint:
    """The model as it would be saved now, without saving it: names, shapes, configs, and tensors in place.

    Parameters
    ----------
    model
        Plain, or adapted by PEFT: then its active adapter, as PEFT saves it.
    source
        What it is called in reports.
    step
        Optimizer steps taken.

    Raises
    ------
    RankLabError
        If several adapters are active.

    Examples
    --------
    >>> checkpoint = live_checkpoint(nn.Linear(3, 2), "a layer")
    >>> {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    config = model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else {}
    if not is_adapted(model):
        named = _without_ties(model.state_dict())
        return Checkpoint(source, _LIVE, _tensors(named, _LIVE), config, step=step)
    from peft import get_peft_model_state_dict

    adapter = active_adapter(model)
    named = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    settings = _saved_config(model.peft_config[adapter])
    return Checkpoint(source, _LIVE, _tensors(named, _LIVE), {}, adapter_config=settings, step=step)


def with_copies(checkpoint: Checkpoint, trained: frozenset[str]) -> Checkpoint:
    """The same with a copy on the CPU of what will be trained; the rest stays where it is."""
    tensors = {
        name: LiveTensor.of(name, tensor.read(), _COPY) if name in trained else replace(tensor, file=_COPY)
        for name, tensor in checkpoint.tensors.items()
    }
    return replace(checkpoint, source="its weights before training", tensors=tensors)


def only_trained(plan: Plan, trained: frozenset[str]) -> Plan:
    """The plan without updates of tensors that no gradient reaches; their rows say so.

    Parameters
    ----------
    plan
        Of a model that is trained itself.
    trained
        Names of its parameters that require a gradient.
    """
    specs = tuple(spec for spec in plan.specs if _is_trained(spec, trained))
    vectors = tuple(vector for vector in plan.vectors if vector.tensor in trained)
    rows = tuple(_row(row, trained) for row in plan.coverage)
    return replace(plan, specs=specs, vectors=vectors, coverage=rows)


def _is_trained(spec: UpdateSpec, trained: frozenset[str]) -> bool:
    return spec.required("tuned").name in trained


def _row(row: CoverageRow, trained: frozenset[str]) -> CoverageRow:
    if row.side == "base" or row.tensor in trained or row.status not in {"analysed", "vector"}:
        return row
    return replace(row.but("skipped", _UNTRAINED), module="", parts=())


def _tensors(named: Mapping[str, Tensor], file: Path) -> dict[str, StoredTensor]:
    return {name: LiveTensor.of(name, values, file) for name, values in named.items()}


def _without_ties(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once, under its first name, as transformers saves it."""
    found: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, values in named.items():
        found.setdefault((values.data_ptr() or id(values), values.shape, values.stride()), name)
    return {name: named[name] for name in found.values()}


def _saved_config(config: Any) -> dict[str, Any]:
    """An adapter's config as PEFT writes it."""
    with TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        return dict(json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8")))
