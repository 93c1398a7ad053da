"""One score of one model, checked."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rank_lab.errors import SchemaError
from rank_lab.plain_text import is_plain, plain

__all__ = ["ROLES", "SCORE_KEY", "USUAL_ROLES", "ScoreKey", "ScoreRow"]

ROLES = ("source", "target", "")
"""What a task is for: forgetting is measured on a source, learning on a target."""

USUAL_ROLES: Mapping[str, str] = {
    **dict.fromkeys(("hellaswag", "arc_challenge", "winogrande"), "source"),
    **dict.fromkeys(("gsm8k", "humaneval", "mbpp"), "target"),
}
"""What the papers measure forgetting and learning on; whoever says another role of a task goes before it."""

SCORE_KEY = ("run", "step", "task", "metric", "few_shot")
"""What identifies a row."""

_LARGEST = 2**63 - 1  # what the file of the table holds

ScoreKey = tuple[str, int | None, str, str, int | None]


@dataclass(frozen=True)
class ScoreRow:
    """One score of one model.

    Parameters
    ----------
    run, method, step
        Which model; the untuned one has method ``"base"`` and step 0. Step None where it is not known.
    task, metric
        What was measured, as the harness calls it.
    value
        The score; NaN or infinite where the model gave that.
    stderr
        Its standard error, in the units of the value; None where nobody gave one.
    n
        Examples; None where it is not known.
    role
        One of :data:`ROLES`.
    few_shot
        Solved examples in the prompt; None where it is not known.
    chance
        The score of a model that guesses; None where it is not known.
    higher_is_better
        Whether a larger value is a better model.
    harness, harness_version
        What measured it.
    source
        File or set that the score comes from.
    set_sha256
        Which examples, in 64 hexadecimal digits; empty where it is not known.
    examples
        Score of each example in the set's order, so that runs can be compared in pairs; None where they were not kept.

    Raises
    ------
    SchemaError
        If a value cannot be what it should be; the row and the value are named.

    Examples
    --------
    >>> ScoreRow("lora", "lora", 100, "winogrande", "acc", 0.5, role="source", n=2, examples=[0, 1]).examples
    (0.0, 1.0)
    """

    run: str
    method: str
    step: int | None
    task: str
    metric: str
    value: float
    stderr: float | None = None
    n: int | None = None
    role: str = ""
    few_shot: int | None = None
    chance: float | None = None
    higher_is_better: bool = True
    harness: str = ""
    harness_version: str = ""
    source: str = ""
    set_sha256: str = ""
    examples: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what no score is, and make plain numbers of numpy's."""
        try:
            self._make_plain()
        except (TypeError, ValueError, OverflowError) as error:
            raise SchemaError(
                f"score {self.named}: a number is none ({error}); expected those of a ScoreRow."
            ) from error
        for wrong, message in _mistakes(self):
            if wrong:
                raise SchemaError(f"score {self.named}: {message}.")

    def _make_plain(self) -> None:
        numbers: dict[str, Any] = {"value": float(self.value), "source": plain(str(self.source))}
        numbers["higher_is_better"] = bool(self.higher_is_better)
        numbers |= {name: _integer(getattr(self, name)) for name in ("step", "n", "few_shot")}
        numbers |= {name: _real(getattr(self, name)) for name in ("stderr", "chance")}
        numbers["examples"] = None if self.examples is None else tuple(float(value) for value in self.examples)
        for name, value in numbers.items():
            object.__setattr__(self, name, value)

    @property
    def key(self) -> ScoreKey:
        """What identifies the row: :data:`SCORE_KEY`."""
        return (self.run, self.step, self.task, self.metric, self.few_shot)

    @property
    def named(self) -> str:
        """The row as messages call it."""
        shots = "" if self.few_shot is None else f", {self.few_shot}-shot"
        return plain(f"{self.task} {self.metric}{shots} of run {self.run!r} at step {self.step}", limit=300)


def _integer(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) or int(value) != value:
        raise TypeError(f"{value!r} is no whole number")
    if abs(int(value)) > _LARGEST:
        raise OverflowError("a whole number does not fit into 64 bits")
    return int(value)


def _real(value: Any) -> float | None:
    return None if value is None else float(value)


def _mistakes(row: ScoreRow) -> list[tuple[bool, str]]:
    names = {name: getattr(row, name) for name in ("run", "method", "task", "metric")}
    unfit = [name for name, value in names.items() if not (isinstance(value, str) and value and is_plain(value))]
    told = [name for name in ("harness", "harness_version") if not is_plain(str(getattr(row, name)))]
    count = None if row.examples is None else len(row.examples)
    return [
        (bool(unfit), f"its {', '.join(unfit)} cannot be printed, or is empty; expected characters that show"),
        (bool(told), f"its {', '.join(told)} cannot be printed; expected characters that show"),
        (row.role not in ROLES, f"role {row.role!r}, expected one of {', '.join(map(repr, ROLES))}"),
        (row.step is not None and row.step < 0, f"step {row.step}, expected 0 or more"),
        (row.few_shot is not None and row.few_shot < 0, f"few-shot count {row.few_shot}, expected 0 or more"),
        (row.n is not None and row.n < 1, f"n {row.n}, expected at least 1 example: the set is empty"),
        (
            row.stderr is not None and not (math.isfinite(row.stderr) and row.stderr >= 0),
            f"standard error {row.stderr}, expected a number of 0 or more, or None",
        ),
        (
            row.chance is not None and not math.isfinite(row.chance),
            f"chance {row.chance}, expected a finite number or None",
        ),
        (
            bool(row.set_sha256) and not _is_sha256(row.set_sha256),
            f"set_sha256 {plain(str(row.set_sha256), limit=80)!r}, expected 64 hexadecimal digits or none",
        ),
        (
            count is not None and row.n is not None and count != row.n,
            f"{count} scores of examples, and n is {row.n}; expected one each",
        ),
    ]


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and set(text) <= set("0123456789abcdef")
