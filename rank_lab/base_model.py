"""Loading a base model for a kind of task, and refusing one that would start at random or does not fit its data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rank_lab.errors import DataError, RankLabError
from rank_lab.plain_text import first_line, plain
from rank_lab.tasks import TaskData

__all__ = ["AUTO_CLASSES", "load_base", "load_tokenizer", "refuse_unfit_data"]

AUTO_CLASSES: Mapping[str, str] = {
    "causal": "AutoModelForCausalLM",
    "masked": "AutoModelForMaskedLM",
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
}
"""transformers' class that loads a model for each kind of task."""

_NEW_HEAD = ("classification", "regression")


def _refuse_no_model(source: str) -> None:
    """A folder of other things, such as a trainer's, of which transformers says less."""
    folder = Path(source).expanduser()
    if folder.is_dir() and not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise RankLabError(
            f"{source}: has no config.json, so that it is no model's folder; give the one that holds the model, such as"
            " a checkpoint-N of a trainer's folder."
        )


def load_base(source: str | Path, kind: str, *, classes: int | None = None, dtype: str = "auto") -> Any:
    """A base model, all of whose weights but a classifier's new head are those of its files.

    Parameters
    ----------
    source
        Folder or hub id.
    kind
        One of :data:`AUTO_CLASSES`.
    classes
        Of a classification.
    dtype
        Of the weights, as torch names it; ``"auto"`` for that of the files.

    Returns
    -------
    transformers.PreTrainedModel

    Raises
    ------
    RankLabError
        If there is no such model, it is an adapter, or weights would start at random.

    Examples
    --------
    >>> from rank_lab.demo import BASE
    >>> load_base(BASE, "classification", classes=3).score.weight.shape
    torch.Size([3, 128])
    """
    import transformers
    from safetensors import SafetensorError

    if kind not in AUTO_CLASSES:
        raise RankLabError(f"kind {kind!r}: no model is known for it; expected one of {', '.join(AUTO_CLASSES)}.")
    # Not asked for, transformers takes a "yes" from standard input to run what a model's folder holds as code.
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, "trust_remote_code": False}
    if kind in _NEW_HEAD:
        problem = "regression" if kind == "regression" else "single_label_classification"
        options |= {"num_labels": classes or 1, "problem_type": problem, "ignore_mismatched_sizes": True}
    _refuse_no_model(str(source))
    try:
        model, loaded = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(str(source), **options)
    except (OSError, ValueError, SafetensorError) as error:
        raise RankLabError(f"{source}: no model for a {kind} task could be loaded ({first_line(error)}).") from error
    if getattr(model, "_hf_peft_config_loaded", False):
        raise RankLabError(f"{source}: is an adapter, with its base loaded beneath; give the base model itself.")
    _refuse_random_weights(source, model, loaded, head=kind in _NEW_HEAD)
    return model


def load_tokenizer(source: str, purpose: str) -> Any:
    """The tokenizer of a base model.

    Parameters
    ----------
    source
        Folder or hub id.
    purpose
        What needs a base and no adapter, for the message.

    Raises
    ------
    DataError
        If there is no such folder, or no tokenizer in it.
    RankLabError
        If it is an adapter.

    Examples
    --------
    >>> from rank_lab.demo import BASE
    >>> len(load_tokenizer(str(BASE), "training starts from a model"))
    1024
    """
    from transformers import AutoTokenizer

    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith("/")
    if looks_local and not Path(source).exists():
        raise DataError(f"{source}: no such folder; give the base's, or a hub id such as org/name.")
    _refuse_adapter(source, purpose)
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: no tokenizer could be loaded ({first_line(error)}).") from error


def _refuse_adapter(source: str, purpose: str) -> None:
    file = Path(source) / "adapter_config.json"
    if not file.is_file():
        return
    try:
        kind = json.loads(file.read_text(encoding="utf-8")).get("peft_type")
    except (ValueError, AttributeError):
        kind = "unreadable"
    raise RankLabError(
        f"{source}: is an adapter ({plain(str(kind))}), and {purpose}; give the base model, or merge the adapter into"
        " it first."
    )


def refuse_unfit_data(model: Any, data: TaskData, source: str | Path) -> None:
    """Refuse tokens that the model has no embedding or no position for: they would stop it in the middle of training.

    Parameters
    ----------
    model
        The base.
    data
        Both sets.
    source
        What messages call the model.

    Raises
    ------
    RankLabError
        Naming the token or the length.
    """
    config, rows = model.config, [row for part in (data.train, data.validation) for row in part["input_ids"]]
    largest, longest = max(map(max, rows)), max(map(len, rows))
    vocabulary = model.get_input_embeddings().num_embeddings
    if largest >= vocabulary:
        raise RankLabError(f"{source}: token {largest} of its tokenizer, but {vocabulary} embeddings; they do not fit.")
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and longest > positions:
        raise RankLabError(f"{source}: an example of {longest} tokens, and {positions} positions; give --max-length.")


def _refuse_random_weights(source: str | Path, model: Any, loaded: Mapping[str, Any], *, head: bool) -> None:
    """A new head is meant to be new; any other weight that the files lack would be random without a word."""
    inner = f"{model.base_model_prefix}."
    absent = [*loaded.get("missing_keys", ()), *(str(entry[0]) for entry in loaded.get("mismatched_keys", ()))]
    random = sorted(name for name in absent if not head or name.startswith(inner))
    pooler = [name for name in random if "pooler." in name]
    if random and (len(pooler) < len(random) or not head):
        raise RankLabError(
            f"{source}: its files lack {len(random)} weights of {type(model).__name__}, or have them in another shape"
            f" ({random[0]} ...), which would start at random; is its config.json another model's, or a file missing?"
        )
