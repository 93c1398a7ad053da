"""How the runs of a study were trained, from the records in their reports, and in what they differ."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rank_lab.plain_text import plain
from rank_lab.score_origin import number

__all__ = ["RunFacts", "run_facts"]

_NOT_A_SETTING = frozenset(
    {"method", "learning_rate", "seed", "trainable_parameters", "parameters", "versions", "choices", "revision", "data"}
)


@dataclass(frozen=True)
class RunFacts:
    """How one run was trained.

    Parameters
    ----------
    run, method
        Which, and by what method; empty where it is not known.
    optimizer
        Empty where it is not known.
    learning_rate
        NaN where it is not known.
    seed
        None where it is not known.
    trainable_parameters, parameters
        None where they are not known.
    setting
        What tells it from other runs of its method, but for learning rate and seed.
    reason
        Why it is not known; empty where it is.
    """

    run: str
    method: str = ""
    optimizer: str = ""
    learning_rate: float = math.nan
    seed: int | None = None
    trainable_parameters: int | None = None
    parameters: int | None = None
    setting: str = ""
    reason: str = ""


def run_facts(provenances: Sequence[Mapping[str, Any]]) -> dict[str, RunFacts]:
    """What reports say of the training of their runs.

    Parameters
    ----------
    provenances
        Of each report: ``settings["run"]``, and ``training``, the fields of a
        :class:`rank_lab.training_record.TrainingRecord`.

    Returns
    -------
    dict
        Run to its facts.

    Examples
    --------
    >>> training = {"method": "lora", "optimizer": "adamw_torch", "learning_rate": 1e-4, "choices": {"rank": 8}}
    >>> first = {"settings": {"run": "a"}, "training": training}
    >>> second = {"settings": {"run": "b"}, "training": training | {"choices": {"rank": 64}}}
    >>> [facts.setting for facts in run_facts([first, second]).values()]
    ['rank 8', 'rank 64']
    """
    records = {str(about["settings"]["run"]): _record(about) for about in provenances}
    unread = {str(about["settings"]["run"]): _text(about, "training_unread") for about in provenances}
    flat = {run: _flat(record) for run, record in records.items()}
    found = {}
    for run, record in records.items():
        if not record:
            found[run] = RunFacts(run, setting=run, reason=unread[run] or "its report holds no record of a training")
            continue
        method = _text(record, "method")
        peers = [flat[other] for other, entry in records.items() if entry and _text(entry, "method") == method]
        found[run] = RunFacts(
            run, method, _text(record, "optimizer"), _real(record, "learning_rate"), _whole(record, "seed"),
            _whole(record, "trainable_parameters"), _whole(record, "parameters"), _setting(flat[run], peers),
        )  # fmt: skip
    return found


def _record(about: Mapping[str, Any]) -> Mapping[str, Any]:
    record = about.get("training")
    return record if isinstance(record, Mapping) else {}


def _flat(record: Mapping[str, Any]) -> dict[str, str]:
    """Everything that could make two runs differ, as text."""
    choices = record.get("choices")
    values = dict(choices) if isinstance(choices, Mapping) else {}
    values |= {name: value for name, value in record.items() if name not in _NOT_A_SETTING}
    flat = {
        str(name): value if isinstance(value, str) else json.dumps(value, default=str) for name, value in values.items()
    }
    if "data" in record:
        text = json.dumps(record["data"], sort_keys=True, default=str)
        flat["data"] = hashlib.sha256(text.encode()).hexdigest()[:8]
    return flat


def _setting(own: Mapping[str, str], peers: Sequence[Mapping[str, str]]) -> str:
    names = sorted({name for peer in peers for name in peer})
    differing = [name for name in names if len({peer.get(name, "") for peer in peers}) > 1]
    return ", ".join(plain(f"{name} {own.get(name, '-')}", limit=200) for name in differing)


def _text(record: Mapping[str, Any], name: str) -> str:
    value = record.get(name)
    return plain(value, limit=500) if isinstance(value, str) else ""


def _real(record: Mapping[str, Any], name: str) -> float:
    known = number(record.get(name))
    return math.nan if known is None else known


def _whole(record: Mapping[str, Any], name: str) -> int | None:
    value = record.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None
