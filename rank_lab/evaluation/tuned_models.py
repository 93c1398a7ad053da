"""Loading tuned models one after the other; a base that several adapters share is loaded once."""

import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rank_lab import __version__
from rank_lab.base_model import AUTO_CLASSES, load_base
from rank_lab.errors import CheckpointError, DataError, RankLabError, UnsupportedUpdateError
from rank_lab.evaluation.sources import Tuned, kind_of_source
from rank_lab.plain_text import first_line, plain

__all__ = ["EvaluatedModel", "LoadOptions", "Shelf", "base_tuned", "context_of", "refuse_unknown_tokens"]

_NO_LIMIT = 1_000_000
_WITH_HEAD = ("classification", "regression")
# Inits that take something out of the base which loading cannot take out again: it depends on chance or on data.
_NOT_REPEATABLE = re.compile("pissa_niter_|corda|lora_ga|eva_base")
_CHANGES_BASE = re.compile("pissa|olora|loftq|corda|lora_ga")


@dataclass(frozen=True)
class LoadOptions:
    """How models are loaded.

    Parameters
    ----------
    base
        What adapters are put on, and what divergences are from; empty for what the adapters name.
    device, dtype
        Where models run, and in which type of number, as torch names them; ``"auto"`` for the files' own.
    kind
        What the models predict; None for what their files say.
    """

    base: str = ""
    device: str = "cpu"
    dtype: str = "auto"
    kind: str | None = None

    def __post_init__(self) -> None:
        """Refuse what torch does not know."""
        import torch

        if self.kind is not None and self.kind not in AUTO_CLASSES:
            raise RankLabError(f"--kind {self.kind}: expected one of {', '.join(AUTO_CLASSES)}.")
        if self.dtype != "auto" and not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise RankLabError(f"--dtype {self.dtype}: expected auto, float32, bfloat16 or float16.")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise RankLabError(f"--device {self.device}: torch sees no such device here; use cpu.")
        try:
            torch.device(self.device)
        except RuntimeError as error:
            raise RankLabError(f"--device {self.device}: expected cpu or cuda ({first_line(error)}).") from error


@dataclass(frozen=True)
class EvaluatedModel:
    """A model in memory, and what tables call it.

    Parameters
    ----------
    tuned
        Which.
    kind
        What it predicts.
    model, tokenizer
        Of transformers, or PEFT around one; in evaluation mode.
    """

    tuned: Tuned
    kind: str
    model: Any
    tokenizer: Any

    @property
    def named(self) -> dict[str, Any]:
        """Run, method and step, as a score has them."""
        return {"run": self.tuned.run, "method": self.tuned.method, "step": self.tuned.step}

    @property
    def harness(self) -> dict[str, Any]:
        """rank_lab itself, as a score has it."""
        return {"harness": "rank_lab", "harness_version": __version__}


def base_tuned(source: str) -> Tuned:
    """The untuned model, as the score table has it: run ``base`` of method ``base`` at step 0."""
    return Tuned("base", "base", 0, source)


def context_of(model: EvaluatedModel, asked: int | None) -> int:
    """Tokens of the longest input: of model and tokenizer, less a prompt's virtual tokens, and no more than asked for.

    Raises
    ------
    DataError
        If more is asked for than there is, or neither says how much that is.
    """
    positions = getattr(model.model.config, "max_position_embeddings", None)
    limits = [positions] if isinstance(positions, int) else []
    if model.tokenizer.model_max_length < _NO_LIMIT:
        limits.append(int(model.tokenizer.model_max_length))
    virtual = getattr(getattr(model.model, "active_peft_config", None), "num_virtual_tokens", None) or 0
    most = min(limits) - virtual if limits else None
    if asked is None and most is None:
        raise DataError(
            f"{model.tuned.source}: neither model nor tokenizer says how long texts may be; give --max-length."
        )
    if asked is not None and (asked < 2 or (most is not None and asked > most)):
        raise DataError(f"--max-length {asked}: expected 2 to {most or 'any number of'} tokens, which the model takes.")
    return asked if asked is not None else int(most or 0)


def refuse_unknown_tokens(model: Any, largest: int) -> None:
    """Refuse tokens that a model has no embedding for, which would stop it in the middle.

    Parameters
    ----------
    model
        In memory.
    largest
        Token.

    Raises
    ------
    DataError
        If there are fewer embeddings.
    """
    table = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    known = getattr(table, "num_embeddings", None)
    if known is not None and largest >= known:
        raise DataError(
            f"the tokenizer gives token {largest}, and the model has {known} embeddings: it is another model's; put the"
            " right tokenizer beside the model."
        )


@dataclass
class Shelf:
    """The base that was loaded last, kept as its files have it, and models made from it.

    Parameters
    ----------
    options
        How models are loaded.

    Examples
    --------
    >>> from rank_lab.demo import BASE
    >>> shelf = Shelf(LoadOptions())
    >>> with shelf.loaded(base_tuned(str(BASE))) as found:
    ...     found.kind, type(found.model).__name__, found.named["run"]
    ('causal', 'LlamaForCausalLM', 'base')
    """

    options: LoadOptions
    _base: Any = field(default=None, repr=False)
    _copy: Any = field(default=None, repr=False)
    _key: tuple[str, str, int | None] | None = None
    _state: dict[str, tuple[int, int]] = field(default_factory=dict, repr=False)

    @contextmanager
    def loaded(self, tuned: Tuned) -> Iterator[EvaluatedModel]:
        """A model, for as long as it is needed.

        Raises
        ------
        RankLabError
            If it cannot be loaded as it was trained; the reason is named.
        """
        source = self.base_source(tuned) if tuned.adapter is not None else tuned.source
        kind = self.options.kind or tuned.kind or kind_of_source(source)
        model = self._whole(tuned, kind) if tuned.adapter is None else self._adapted(tuned, source, kind)
        try:
            tokenizer = _tokenizer(tuned.source, self.options.base or tuned.base or source)
            if kind in _WITH_HEAD and model.config.pad_token_id is None:
                model.config.pad_token_id = (
                    tokenizer.pad_token_id
                )  # which a classifier looks for, to find the last token
            yield EvaluatedModel(tuned, kind, model.eval(), tokenizer)
        finally:
            if tuned.adapter is not None:
                self._take_back(model, tuned)

    def untuned(self, model: EvaluatedModel, source: str) -> Any:
        """The base beside a model that was made from it; only one that lent its layers to an adapter is loaded again.

        Parameters
        ----------
        model
            As :meth:`loaded` gave it.
        source
            Of the base.
        """
        if model.tuned.method == "base":
            return model.model
        if model.tuned.adapter is None:
            return self._shared(source, model.kind, None)
        if self._copy is None:
            self._copy = load_base(source, model.kind, dtype=self.options.dtype).to(self.options.device)
        return self._copy

    def base_source(self, tuned: Tuned) -> str:
        """Where the base of an adapter is: as asked for, else as the adapter says.

        Raises
        ------
        RankLabError
            If neither is there.
        """
        if self.options.base:
            return self.options.base
        if not tuned.base:
            raise RankLabError(f"{tuned.source}: does not say which base it adapts; give it with --base.")
        is_local = tuned.base.startswith((".", "/", "~")) or tuned.base.count("/") > 1
        if is_local and not Path(tuned.base).expanduser().is_dir():
            raise RankLabError(
                f"{tuned.source}: adapts {plain(tuned.base, limit=200)}, which is not there; give the base with --base."
            )
        return tuned.base

    def _whole(self, tuned: Tuned, kind: str) -> Any:
        if tuned.run == "base" and tuned.method == "base" and kind in ("causal", "masked"):
            return self._shared(tuned.source, kind, None)
        return _complete(tuned.source, kind, self.options.dtype).to(self.options.device)

    def _shared(self, source: str, kind: str, classes: int | None) -> Any:
        if self._base is None or self._key != (source, kind, classes):
            self._base = None
            gc.collect()
            base = load_base(source, kind, classes=classes, dtype=self.options.dtype)
            self._base, self._key = base.to(self.options.device), (source, kind, classes)
            self._state = _places(self._base)
        return self._base

    def _adapted(self, tuned: Tuned, source: str, kind: str) -> Any:
        _register_own_methods()
        _refuse_unrepeatable(tuned)
        classes = _classes_of(tuned) if kind in _WITH_HEAD else None
        base, self._base = self._shared(source, kind, classes), None  # lent: it comes back if it is as it was
        return _on_base(base, tuned, source)

    def _take_back(self, model: Any, tuned: Tuned) -> None:
        if _CHANGES_BASE.search(str((tuned.adapter or {}).get("init_lora_weights", "")).lower()):
            return
        try:
            base = model.unload() if hasattr(model.base_model, "unload") else model.get_base_model()
        except (AttributeError, NotImplementedError, RuntimeError, ValueError):
            return
        if hasattr(base, "peft_config"):
            del base.peft_config
        if _places(base) == self._state:
            self._base = base


def _places(model: Any) -> dict[str, tuple[int, int]]:
    """Where the values of each tensor are in memory, and how often they were written to."""
    return {name: (value.data_ptr(), value._version) for name, value in model.state_dict(keep_vars=True).items()}


def _complete(source: str, kind: str, dtype: str) -> Any:
    """A model all of whose weights, a classifier's head among them, are those of its files."""
    import transformers
    from safetensors import SafetensorError

    try:
        model, loaded = getattr(transformers, AUTO_CLASSES[kind]).from_pretrained(
            source, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{source}: no model for a {kind} task could be loaded ({first_line(error)}).") from error
    absent = sorted(map(str, loaded.get("missing_keys", ())))
    if absent:
        raise CheckpointError(
            f"{source}: its files lack {len(absent)} weights of {type(model).__name__} ({absent[0]} ...), which"
            " would be random; is a file missing, or is it not a model of that kind?"
        )
    return model


def _register_own_methods() -> None:
    """PEFT knows rank_lab's own methods once they are imported."""
    import rank_lab.training.methods  # noqa: F401


def _refuse_unrepeatable(tuned: Tuned) -> None:
    start = str((tuned.adapter or {}).get("init_lora_weights", "")).lower()
    if _NOT_REPEATABLE.search(start):
        raise UnsupportedUpdateError(
            f"{tuned.source}: was initialised by {start!r}, which takes out of the base what depends on chance or data,"
            " so that loading would give another model; save it with path_initial_model_for_weight_conversion, or"
            " merge it into its base and evaluate that."
        )


def _classes_of(tuned: Tuned) -> int:
    """Classes of an adapter's head: rows of the last matrix of what it saves beside the adapter."""
    from safetensors import safe_open

    file = Path(tuned.source) / "adapter_model.safetensors"
    if not file.is_file():
        raise CheckpointError(f"{file}: is not there, and of it the number of classes is known; give a local adapter.")
    with safe_open(file, framework="pt") as content:
        heads = [name for name in content.keys() if re.search(r"(score|classifier|out_proj)\.weight$", name)]  # noqa: SIM118
        sizes = {content.get_slice(name).get_shape()[0] for name in heads if ".layer" not in name}
    if len(sizes) != 1:
        raise CheckpointError(
            f"{file}: holds {'several' if sizes else 'no'} heads of a classifier ({', '.join(heads[:3]) or 'none'});"
            " train with the head among modules_to_save."
        )
    return int(sizes.pop())


def _on_base(base: Any, tuned: Tuned, source: str) -> Any:
    from peft import PeftModel
    from safetensors import SafetensorError

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            model = PeftModel.from_pretrained(base, tuned.source)
        except KeyError as error:
            raise UnsupportedUpdateError(
                f"{tuned.source}: PEFT knows no method {error}; is its package missing?"
            ) from error
        except (OSError, RuntimeError, ValueError, TypeError, SafetensorError) as error:
            raise CheckpointError(
                f"{tuned.source}: does not fit {source} ({first_line(error)[:300]}); give the base that it was trained"
                " on."
            ) from error
    missing = [str(each.message) for each in told if "missing adapter keys" in str(each.message).lower()]
    if missing:
        raise CheckpointError(
            f"{tuned.source}: lacks values that its own configuration asks for ({plain(missing[0], limit=200)}); is it"
            " whole, and of this base?"
        )
    return model


def _tokenizer(first: str, second: str) -> Any:
    """The tokenizer beside a checkpoint, or else that of its base; it can pad, on the left where text is generated."""
    from transformers import AutoTokenizer

    from rank_lab.encoding import padded_tokenizer

    reasons = []
    for source in dict.fromkeys([first, second]):
        folder = Path(source).expanduser()
        if folder.is_dir() and not any((folder / name).exists() for name in _TOKENIZER_FILES):
            continue
        try:
            return padded_tokenizer(AutoTokenizer.from_pretrained(source, trust_remote_code=False))[0]
        except (OSError, ValueError, KeyError) as error:
            reasons.append(f"{source}: {first_line(error)}")
    raise DataError(
        f"{first}: no tokenizer could be loaded ({'; '.join(reasons) or 'there is none'}); save the base's beside it,"
        " or give --base."
    )


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
