"""What :mod:`analyses.learning_vs_forgetting` compares: methods with their learning rates, and the texts."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rank_lab.demo.text import Corpus, code, prose
from rank_lab.durable import write_whole
from rank_lab.training.method import MethodChoices

__all__ = ["Arm", "Texts", "arms", "quick_arms", "texts_of"]

_PIECE = 400  # characters of a held-out text: some 115 tokens of the demo's base, one window
_HELD_OUT = 24


@dataclass(frozen=True)
class Arm:
    """One method in one size, at every learning rate.

    Parameters
    ----------
    name
        Start of the names of its runs.
    title
        What figures call it.
    method
        Of the registry.
    choices
        Of the method.
    learning_rates
        Ascending.
    """

    name: str
    title: str
    method: str
    choices: MethodChoices
    learning_rates: tuple[float, ...]


def _sora(steps: int) -> MethodChoices:
    """Gates start at one and shrink by rate x threshold a step: 1.2 in all, so that many close and some do not."""
    gate_lr = 0.1
    return MethodChoices(rank=32, gate_lr=gate_lr, threshold=round(1.2 / (gate_lr * steps), 4))


def arms(steps: int) -> tuple[Arm, ...]:
    """All arms for runs of so many steps."""
    adapters = (5e-4, 2e-3, 8e-3)
    return (
        Arm("full", "full fine-tuning", "full", MethodChoices(), (1e-4, 4e-4, 1.6e-3)),
        Arm("lora-r4", "LoRA, r = 4", "lora", MethodChoices(rank=4), adapters),
        Arm("lora-r32", "LoRA, r = 32", "lora", MethodChoices(rank=32), adapters),
        Arm("sora-r32", "SoRA, r at most 32", "sora", _sora(steps), adapters),
    )


def quick_arms(steps: int) -> tuple[Arm, ...]:
    """Two arms of one rate, to see that everything runs."""
    full, lora = arms(steps)[:2]
    return tuple(Arm(arm.name, arm.title, arm.method, arm.choices, arm.learning_rates[1:2]) for arm in (full, lora))


@dataclass(frozen=True)
class Texts:
    """Files of the study.

    Parameters
    ----------
    folder
        Holds ``train.jsonl`` and ``validation.jsonl``, of code.
    target, source
        Held-out pieces of code and of prose.
    sha256
        Of both corpora, which depend on the version of Python.
    """

    folder: Path
    target: Path
    source: Path
    sha256: str


def texts_of(folder: Path, *, quick: bool = False) -> Texts:
    """Write the standard library's code to learn, and held-out code and prose to measure on.

    Parameters
    ----------
    folder
        Receives the files.
    quick
        Little of each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    learnt, known = code(), prose()
    pieces = 6 if quick else _HELD_OUT
    target, source = (_spread(list(_pieces(corpus.held_out)), pieces) for corpus in (learnt, known))
    training = learnt.training[:40] if quick else learnt.training
    for name, rows in (("train", training), ("validation", target), ("code", target), ("prose", source)):
        lines = [json.dumps({"text": text}) + "\n" for text in rows]
        write_whole(folder / f"{name}.jsonl", "".join(lines))
    return Texts(folder, folder / "code.jsonl", folder / "prose.jsonl", _hash(learnt, known))


def _hash(*corpora: Corpus) -> str:
    return hashlib.sha256("".join(corpus.sha256 for corpus in corpora).encode()).hexdigest()


def _pieces(documents: Sequence[str]) -> Iterator[str]:
    for document in documents:
        for first in range(0, len(document) - _PIECE // 2, _PIECE):
            yield document[first : first + _PIECE]


def _spread(pieces: list[str], count: int) -> list[str]:
    """So many, evenly spread over all documents."""
    return [pieces[i * len(pieces) // count] for i in range(min(count, len(pieces)))]
