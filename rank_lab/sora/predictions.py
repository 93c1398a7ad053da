"""What a model predicts for every example of a data set, in a fixed order, and its loss."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from rank_lab.durable import move_into_place
from rank_lab.encoding import IGNORED
from rank_lab.errors import CheckpointError, NonFiniteError, RankLabError

__all__ = [
    "PREDICTIONS_FILE",
    "Predictions",
    "model_columns",
    "predictions_of",
    "predictions_table",
    "read_predictions",
    "save_predictions",
]

PREDICTIONS_FILE = "predictions.parquet"


@dataclass(frozen=True, eq=False)
class Predictions:
    """Of one data set, an entry an example.

    Parameters
    ----------
    labels
        Classes, values, or numbers of target tokens.
    predictions
        Classes, values, or numbers of target tokens that the model gets right.
    loss
        Mean over examples, of a causal model over target tokens; without any penalty.
    """

    labels: npt.NDArray[np.float64]
    predictions: npt.NDArray[np.float64]
    loss: float


@torch.no_grad()
def predictions_of(
    model: nn.Module, dataset: Any, collator: Any, kind: str, batch_size: int, *, show_labels: bool = True
) -> Predictions:
    """Ask a model for every example, without dropout and without anything random, in its own precision.

    Parameters
    ----------
    model
        Of transformers, or PEFT around one; its mode is as before afterwards.
    dataset
        Rows by number, each a mapping of what the model takes, with ``labels`` (or ``label``).
    collator
        From rows to a batch.
    kind
        ``classification``: the class of the largest output; ``regression``: the
        one output; ``causal``: how many target tokens are the argmax at their
        place, given all true tokens before.
    batch_size
        Examples at a time, in order.
    show_labels
        Whether the model sees the labels and gives the loss. Otherwise the loss is computed here, of its outputs:
        AdaLoRA as PEFT loads it for inference fails on a batch with labels.

    Raises
    ------
    RankLabError
        If the kind is unknown, the model gives no loss, or outputs are not of that kind.
    NonFiniteError
        If the loss is not finite.

    Examples
    --------
    >>> from transformers import BertConfig, BertForSequenceClassification, default_data_collator
    >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=20, num_labels=2, **sizes))
    >>> rows = [{"input_ids": [1, 2], "labels": 0}, {"input_ids": [3, 4], "labels": 1}]
    >>> predictions_of(model, rows, default_data_collator, "classification", 2).labels
    array([0., 1.])
    """
    if kind not in _READ:
        raise RankLabError(f"predictions of kind {kind!r}: expected one of {', '.join(_READ)}.")
    before, device = model.training, next(model.parameters()).device
    parts, losses, weights = [], [], []
    model.eval()
    try:
        for start in range(0, len(dataset), batch_size):
            rows = [dataset[index] for index in range(start, min(start + batch_size, len(dataset)))]
            batch = {name: value.to(device) for name, value in collator(rows).items()}
            loss, logits = _outputs(model, batch) if show_labels else _unlabelled(model, batch, kind)
            parts.append(_READ[kind](logits, batch["labels"]))
            weights.append(float(parts[-1][0].sum()) if kind == "causal" else float(len(rows)))
            losses.append(loss)
    finally:
        model.train(before)
    labels, predictions = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
    return Predictions(labels, predictions, _mean(losses, weights))


def model_columns(model: nn.Module) -> set[str]:
    """Names of what a model's forward pass takes, and of labels.

    Parameters
    ----------
    model
        Of transformers, or PEFT around one.
    """
    inner: Any = model
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    return {*inspect.signature(inner.forward).parameters, "label", "labels"}


def save_predictions(folder: Path, sets: Mapping[str, tuple[npt.NDArray[np.int64], Predictions]]) -> None:
    """Write ``predictions.parquet``: columns set, index (a row of the data set as it was given), label, prediction.

    Parameters
    ----------
    folder
        Of the stage.
    sets
        Name of the set to the numbers of its examples and what was predicted.
    """
    columns = {
        "set": np.concatenate([[name] * len(index) for name, (index, _) in sets.items()]),
        "index": np.concatenate([index for index, _ in sets.values()]),
        "label": np.concatenate([found.labels for _, found in sets.values()]),
        "prediction": np.concatenate([found.predictions for _, found in sets.values()]),
    }
    partial = folder / f".{PREDICTIONS_FILE}.partial"
    pq.write_table(pa.table(columns), partial)
    move_into_place(partial, folder / PREDICTIONS_FILE)


def read_predictions(folder: Path, name: str) -> npt.NDArray[np.float64]:
    """What a stage predicted for one set, in its order.

    Parameters
    ----------
    folder
        Of the stage.
    name
        Of the set.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    """
    return np.asarray(predictions_table(folder, name)["prediction"], dtype=np.float64)


def predictions_table(folder: Path, name: str) -> pd.DataFrame:
    """Index, label and prediction of one set, in its order.

    Parameters
    ----------
    folder, name
        See :func:`read_predictions`.

    Raises
    ------
    CheckpointError
        If the file cannot be read.
    """
    file = folder / PREDICTIONS_FILE
    try:
        table: pd.DataFrame = pq.read_table(file).to_pandas()
        return table.loc[table["set"] == name, ["index", "label", "prediction"]]
    except (OSError, pa.ArrowInvalid, KeyError) as error:
        raise CheckpointError(
            f"{file}: cannot be read ({' '.join(str(error).split())}), though the curve has a row of its stage; restore"
            " it, or run the schedule in a new folder."
        ) from error


def _outputs(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[float, Tensor]:
    if "labels" not in batch:
        raise RankLabError(f"batches of {sorted(batch)} hold no labels; rename the column of labels to 'labels'.")
    result = model(**batch)
    loss, logits = getattr(result, "loss", None), getattr(result, "logits", None)
    if loss is None or not isinstance(logits, Tensor):
        raise RankLabError(
            f"{type(model).__name__} returns no loss or no logits for {sorted(batch)}; use a model of transformers for"
            " sequence classification or causal language modelling."
        )
    return float(loss), logits


def _unlabelled(model: nn.Module, batch: Mapping[str, Tensor], kind: str) -> tuple[float, Tensor]:
    """The loss of outputs that the model gives without having seen the labels."""
    if kind not in _LOSS:
        raise RankLabError(f"predictions of kind {kind!r} without labels: expected one of {', '.join(_LOSS)}.")
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    _READ[kind](logits, batch["labels"])  # refuses outputs of another kind, of which there is no loss
    return float(_LOSS[kind](logits.float(), batch["labels"])), logits


def _mean(losses: list[float], weights: list[float]) -> float:
    parts = [loss * weight for loss, weight in zip(losses, weights, strict=True) if weight]
    mean = sum(parts) / sum(weights) if sum(weights) else np.nan
    if not np.isfinite(mean):
        raise NonFiniteError(
            f"the loss over {len(losses)} batches is {mean}: the model's outputs are not finite, or there are no"
            " labels; lower the learning rate, or look at the data."
        )
    return float(mean)


_Pair = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def _classes(logits: Tensor, labels: Tensor) -> _Pair:
    if logits.ndim != 2 or logits.shape[1] < 2 or labels.ndim != 1:
        raise RankLabError(
            f"classification: outputs {list(logits.shape)} for labels {list(labels.shape)}; expected (n, classes), at"
            " least 2, and (n,): set num_labels, or choose a score of the model's own kind."
        )
    return _array(labels), _array(logits.argmax(dim=-1))


def _values(logits: Tensor, labels: Tensor) -> _Pair:
    if logits.shape[1:] not in ((1,), ()) or labels.ndim != 1:
        raise RankLabError(
            f"regression: outputs {list(logits.shape)} for labels {list(labels.shape)}; expected (n, 1) and (n,): set"
            " num_labels=1, or choose a score of the model's own kind."
        )
    return _array(labels), _array(logits.reshape(-1))


def _tokens(logits: Tensor, labels: Tensor) -> _Pair:
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise RankLabError(
            f"causal: outputs {list(logits.shape)} for labels {list(labels.shape)}; expected (n, tokens, vocabulary)"
            " and (n, tokens): choose a score of the model's own kind."
        )
    guesses = logits.argmax(dim=-1)[:, :-1]  # a copy of all logits could be larger than the model
    targets = labels[:, 1:].to(guesses.device)
    scored = targets != IGNORED
    return _array(scored.sum(dim=1)), _array(((guesses == targets) & scored).sum(dim=1))


def _array(values: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(values.detach().cpu().double().numpy())


_READ: Mapping[str, Callable[[Tensor, Tensor], _Pair]] = {
    "classification": _classes,
    "regression": _values,
    "causal": _tokens,
}

_LOSS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "classification": nn.functional.cross_entropy,
    "regression": lambda logits, labels: nn.functional.mse_loss(logits.reshape(-1), labels.float()),
}
