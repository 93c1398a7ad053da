"""New heads: what a model has been given to predict classes or numbers, and what PEFT is told of the task."""

from typing import Any

from peft import TaskType

from rank_lab.errors import RankLabError, UnsupportedUpdateError
from rank_lab.training.method import KINDS

__all__ = ["check_kind", "new_heads", "task_type"]

_WITH_NEW_HEAD = ("classification", "regression")
_FOUND_BY_PEFT = ("classifier", "score")


def check_kind(model: Any, kind: str) -> None:
    """Refuse a kind that is none, or that the model is not of.

    Parameters
    ----------
    model
        Of transformers.
    kind
        One of :data:`rank_lab.training.method.KINDS`.

    Raises
    ------
    RankLabError
        If the kind is unknown.
    UnsupportedUpdateError
        If the model's class is for another one.
    """
    if kind not in KINDS:
        raise RankLabError(f"kind {kind!r}: expected one of {', '.join(KINDS)}.")
    name = type(model).__name__
    other = {
        "causal": name.endswith("ForMaskedLM") or _translates(model),
        "masked": name.endswith(("ForCausalLM", "LMHeadModel")) and not name.endswith("WithLMHeadModel"),
    }
    classifies = name.endswith("ForSequenceClassification")
    if classifies != (kind in _WITH_NEW_HEAD) or other.get(kind, False):
        raise UnsupportedUpdateError(
            f"kind {kind!r} with a {name}: load the model by the Auto class for that kind (AutoModelForCausalLM,"
            " AutoModelForMaskedLM, AutoModelForSequenceClassification)."
        )


def _translates(model: Any) -> bool:
    """Whether a model writes with a decoder of its own, behind an encoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def task_type(kind: str) -> Any:
    """What PEFT calls a kind; None where it has no name for it.

    Examples
    --------
    >>> task_type("causal").value, task_type("regression").value, task_type("masked")
    ('CAUSAL_LM', 'SEQ_CLS', None)
    """
    if kind == "causal":
        return TaskType.CAUSAL_LM
    return TaskType.SEQ_CLS if kind in _WITH_NEW_HEAD else None


def new_heads(model: Any, kind: str) -> list[str]:
    """Modules beside the body of a model that predicts classes or numbers, less those that PEFT finds by itself.

    Parameters
    ----------
    model
        Of transformers.
    kind
        One of :data:`rank_lab.training.method.KINDS`.

    Raises
    ------
    UnsupportedUpdateError
        If the model has no body of its own, so that its head cannot be told from it.

    Examples
    --------
    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> size = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    >>> model = BertForSequenceClassification(BertConfig(vocab_size=9, **size))
    >>> new_heads(model, "classification")  # its classifier PEFT finds
    []
    """
    if kind not in _WITH_NEW_HEAD:
        return []
    body = getattr(model, "base_model_prefix", "")
    children = {name: child for name, child in model.named_children() if any(True for _ in child.parameters())}
    if body not in children:
        raise UnsupportedUpdateError(
            f"{type(model).__name__}: has no part {body!r} beside its head, so that what is new in it cannot be told;"
            " use the method full."
        )
    return [name for name in children if name != body and name not in _FOUND_BY_PEFT]
