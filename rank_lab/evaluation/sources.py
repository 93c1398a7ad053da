"""What is to be evaluated: which run, method and step a source is, and what it predicts."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_lab.base_model import AUTO_CLASSES
from rank_lab.errors import CheckpointError, RankLabError
from rank_lab.evaluation.model_folders import model_folder
from rank_lab.plain_file import json_object
from rank_lab.plain_text import first_line, plain
from rank_lab.training_record import record_beside
from rank_lab.trajectory import run_name

__all__ = ["Tuned", "kind_of_model", "kind_of_source", "refuse_twice", "tuned_of"]

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_PEFT_KINDS = {"CAUSAL_LM": "causal", "SEQ_CLS": "classification"}
_KINDS_BY_CLASS = (
    ("ForCausalLM", "causal"), ("LMHeadModel", "causal"), ("ForMaskedLM", "masked"),
    ("ForSequenceClassification", "classification"),
)  # fmt: skip


@dataclass(frozen=True)
class Tuned:
    """One model to evaluate.

    Parameters
    ----------
    run, method, step
        As in a report: the name of the run's folder, the trainer's record or else the adapter's type or ``"full"``, and
        the optimizer step where it is known.
    source
        Folder or hub id.
    adapter
        Content of its ``adapter_config.json``; None of a model with all its weights.
    kind
        What it predicts, where that is known without its base.
    base
        What it was tuned from, as its files say; empty where they do not.
    """

    run: str
    method: str
    step: int | None
    source: str
    adapter: Mapping[str, Any] | None = None
    kind: str | None = None
    base: str = ""


def tuned_of(source: str | Path, *, name: str = "") -> tuple[Tuned, ...]:
    """The models of a source, in the order of their steps.

    Parameters
    ----------
    source
        A checkpoint, an adapter, a trainer's folder of ``checkpoint-N``, or a hub id.
    name
        Of the run; empty for the folder's, of a ``checkpoint-N`` alone that of the run's folder above it.

    Raises
    ------
    RankLabError
        If nothing is there.

    Examples
    --------
    >>> from rank_lab.demo import BASE
    >>> [(found.run, found.method, found.step, found.kind) for found in tuned_of(BASE)]
    [('base', 'full', None, 'causal')]
    """
    path, text = model_folder(source), str(source)
    steps = sorted((int(match[1]), child) for child in path.iterdir() if (match := _CHECKPOINT.fullmatch(child.name)))
    called = _of_hub(text)
    if Path(source).expanduser().is_dir():
        called = path.absolute().resolve().name if len(steps) > 1 else run_name(path)
    run = name or called
    if not steps:
        return (_one(str(path), run),)
    return tuple(_one(str(folder), run) for _, folder in steps)


def kind_of_model(config: Any, source: str) -> str:
    """What a model predicts, by the class that its configuration names.

    Parameters
    ----------
    config
        Of transformers, or the content of ``config.json``.
    source
        For messages.

    Raises
    ------
    RankLabError
        If it names none that is known.
    """
    content = config if isinstance(config, Mapping) else config.to_dict()
    names = [str(name) for name in content.get("architectures") or ()]
    for ending, kind in _KINDS_BY_CLASS:
        if any(name.endswith(ending) for name in names):
            regression = kind == "classification" and content.get("problem_type") == "regression"
            return "regression" if regression else kind
    raise RankLabError(
        f"{source}: its config.json names {plain(', '.join(names)) or 'no class'}, of which it is not known what it"
        f" predicts; say so with --kind ({', '.join(AUTO_CLASSES)})."
    )


def kind_of_source(source: str) -> str:
    """What a model of a folder or of the hub predicts; see :func:`kind_of_model`.

    Raises
    ------
    RankLabError
        If there is no such model.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise RankLabError(f"{source}: no model could be loaded ({first_line(error)}).") from error
    return kind_of_model(config, source)


def _one(source: str, run: str) -> Tuned:
    folder = Path(source).absolute()  # "." has no name, and nothing above it
    record = record_beside(folder)
    adapter = json_object(folder / "adapter_config.json")
    kind = record.kind if record is not None else None
    if adapter is not None:
        method = record.method if record is not None else str(adapter.get("peft_type") or "adapter").lower()
        kind = kind or _PEFT_KINDS.get(str(adapter.get("task_type")))
        base = record.base if record is not None else str(adapter.get("base_model_name_or_path") or "")
        return Tuned(run, method, _step(folder), source, adapter, kind, base)
    config = json_object(folder / "config.json")
    if config is None:
        there = ", ".join(sorted(child.name for child in folder.iterdir())[:6]) or "nothing"
        raise CheckpointError(
            plain(
                f"{source}: has neither config.json nor adapter_config.json, it holds {there}; give a model's folder."
            )
        )
    method = record.method if record is not None else "full"
    base = record.base if record is not None else ""
    return Tuned(run, method, _step(folder), source, None, kind or kind_of_model(config, source), base)


def _of_hub(source: str) -> str:
    return source.partition("@")[0].rsplit("/", 1)[-1]


def _step(folder: Path) -> int | None:
    file, match = folder / "trainer_state.json", _CHECKPOINT.fullmatch(folder.name)
    try:
        step = json.loads(file.read_text(encoding="utf-8")).get("global_step") if file.is_file() else None
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{file}: not JSON ({error}); restore the file that the trainer saved.") from error
    found = int(match[1]) if match else None
    if step is not None and found is not None and step != found:
        raise CheckpointError(f"{folder}: its trainer_state.json says step {step}; the folder was renamed: restore it.")
    return found if step is None else int(step)


def refuse_twice(models: Sequence[Tuned]) -> None:
    """Refuse two models that rows could not tell apart.

    Raises
    ------
    RankLabError
        Naming both.
    """
    seen: dict[tuple[str, int | None], str] = {}
    for model in models:
        other = seen.setdefault((model.run, model.step), model.source)
        if other != model.source:
            raise RankLabError(
                f"{model.source}: run {model.run!r} at step {model.step} is also {other}; evaluate one of them with"
                " another --name."
            )
