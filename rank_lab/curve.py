"""The curve of an Algorithm-1 run: a row per stage and control, appended to ``curve.jsonl`` and never changed."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from rank_lab.durable import append_line, cut_torn_line
from rank_lab.errors import SchemaError
from rank_lab.plain_text import plain

__all__ = ["CURVE_FILE", "KNEES_FILE", "PROGRESS_FILE", "SCHEDULE_FILE", "SORA", "Curve", "CurveRow", "is_control"]

CURVE_FILE = "curve.jsonl"
KNEES_FILE = "knees.json"
SCHEDULE_FILE = "schedule.json"
PROGRESS_FILE = "progress.jsonl"  # of a stage, in its folder
SCHEMA = 1

SORA = "sora"
"""What ``control`` says of a stage of the algorithm itself."""

_CATEGORIES = {"threshold_mode": ("lr", "adam", "constant"), "reference": ("stage_0", "best")}
_STOPS = ("converged", "max_steps", "target_not_reached", "not_trained")


@dataclass(frozen=True, kw_only=True)
class CurveRow:
    """One stage, or the control that stands beside it. What has no value is None, in JSON null.

    Parameters
    ----------
    schema
        Version of this form.
    model, task, seed
        What was trained, on what, from which seed.
    control
        ``sora``, or the name of a control.
    stage
        From 0; of a control, the stage whose number of parameters it matches.
    threshold, threshold_mode, operator
        How gates were shrunk; of a stage that is driven to a target, the threshold that reached it.
    target, target_kind, target_reached
        Where a stage is driven to a ``rank`` or a number of ``parameters``.
    steps, lr_start, lr_peak, lr_end
        Optimizer steps, and the learning rates of the first, of the largest and of the last.
    stop
        ``converged``, ``max_steps``, ``target_not_reached`` or ``not_trained``.
    converged
        None where nothing was trained.
    hook_calls
        How often gates were shrunk: once a step.
    seconds
        Wall time of training, over all processes that had a part in it.
    gates, nonzero_gates, nonzero_by_module
        Of all adapted modules.
    nonzero_parameters, published_parameters
        Exact, and as the published code counts.
    effective_rank
        Mean over modules of the update's effective rank; an update that is zero counts 0.
    train_loss, validation_loss
        At the end of the stage, without any penalty and without dropout; of training, on the memorization subset.
    score, train_score, validation_score
        Name and values, as fractions.
    train_examples, validation_examples
        How many they are of.
    memorization, memorization_low, memorization_high
        100 times the training score divided by its reference, with its interval.
    generalization, generalization_low, generalization_high
        The same of the validation set.
    reference, train_reference, validation_reference
        ``stage_0`` or ``best``, and the values divided by.
    warning
        In words; empty if there is none.

    Raises
    ------
    SchemaError
        If a value is none of those that its column may hold.
    """

    model: str
    task: str
    seed: int
    control: str
    stage: int
    threshold: float | None
    threshold_mode: str
    operator: str
    target: float | None
    target_kind: str | None
    target_reached: bool | None
    steps: int
    lr_start: float | None
    lr_peak: float | None
    lr_end: float | None
    stop: str
    converged: bool | None
    hook_calls: int
    seconds: float | None
    gates: int
    nonzero_gates: int
    nonzero_by_module: Mapping[str, int]
    nonzero_parameters: int
    published_parameters: int | None
    effective_rank: float
    train_loss: float
    validation_loss: float
    score: str
    train_score: float | None
    validation_score: float | None
    train_examples: int
    validation_examples: int
    memorization: float | None
    memorization_low: float | None
    memorization_high: float | None
    generalization: float | None
    generalization_low: float | None
    generalization_high: float | None
    reference: str
    train_reference: float | None
    validation_reference: float | None
    warning: str = ""
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Check what a typing error or another version would break."""
        if self.schema != SCHEMA:
            raise SchemaError(
                f"a row of schema {self.schema!r}; this version of rank_lab reads {SCHEMA}: use the version that wrote"
                " it."
            )
        for name, allowed in (*_CATEGORIES.items(), ("stop", _STOPS)):
            if getattr(self, name) not in allowed:
                raise SchemaError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(allowed)}.")
        if not is_control(self.control):
            raise SchemaError(
                f"control {plain(str(self.control), limit=80)!r}: expected a name that a folder may have."
            )
        if self.stage < 0 or not 0 <= self.nonzero_gates <= self.gates:
            raise SchemaError(f"stage {self.stage}, {self.nonzero_gates} of {self.gates} gates not zero: impossible.")

    @property
    def key(self) -> tuple[int, str, int]:
        """Seed, control and stage: no two rows share it."""
        return self.seed, self.control, self.stage


_OF_A_KNEE = {"curve", "seed", "axis", "value", "low", "high", "reason"}
_NAMES = tuple(field.name for field in fields(CurveRow))
_NUMBERS = tuple(field.name for field in fields(CurveRow) if field.type == float | None)


@dataclass(frozen=True)
class Curve:
    """The rows of ``curve.jsonl`` in the order in which they were written.

    Parameters
    ----------
    file
        The file itself.
    records
        Its rows.

    Examples
    --------
    >>> Curve.load("no/study/here")
    Traceback (most recent call last):
    ...
    rank_lab.errors.SchemaError: no/study/here/curve.jsonl: not there; ...
    """

    file: Path
    records: tuple[CurveRow, ...] = ()

    @classmethod
    def load(cls, study: Path | str) -> "Curve":
        """Read a study's curve, also one that is still being written: a last line without its end is left out.

        Parameters
        ----------
        study
            The folder, or the file in it.

        Raises
        ------
        SchemaError
            If it is not there, a line is no row, or two rows are of one stage.
        """
        file = _file(study)
        if not file.is_file():
            raise SchemaError(f"{file}: not there; rank_lab.sora.run_schedule writes it once a stage is done.")
        return cls(file, _parsed(file))

    @classmethod
    def to_continue(cls, study: Path | str) -> "Curve":
        """The curve to append to: empty where there is none; a torn last line is cut off the file.

        Parameters
        ----------
        study
            The folder, or the file in it.
        """
        file = _file(study)
        cut_torn_line(file)
        return cls(file, _parsed(file) if file.is_file() else ())

    def appended(self, row: CurveRow) -> "Curve":
        """With one more row, which is on the disk when this returns.

        Parameters
        ----------
        row
            Of a stage that has none yet.

        Raises
        ------
        SchemaError
            If its stage has a row, or a number is infinite or NaN.
        """
        curve = Curve(self.file, (*self.records, row))
        _refuse_twice(self.file, curve.records)
        try:
            line = json.dumps(asdict(row), allow_nan=False)
        except ValueError as error:
            raise SchemaError(f"the row of {row.key} holds NaN or an infinite value; write None instead.") from error
        append_line(self.file, line)
        return curve

    def find(self, seed: int, control: str, stage: int) -> CurveRow | None:
        """The row of a stage, or None.

        Parameters
        ----------
        seed, control, stage
            Its key.
        """
        return next((row for row in self.records if row.key == (seed, control, stage)), None)

    def stage_folder(self, seed: int, stage: int, control: str = SORA) -> Path:
        """Where a stage, or the control beside it, is kept.

        Parameters
        ----------
        seed, stage, control
            Which.

        Examples
        --------
        >>> Curve(Path("study/curve.jsonl")).stage_folder(0, 2, "svd").as_posix()
        'study/seed-0/svd/stage-02'
        """
        seed_folder = self.file.parent / f"seed-{seed}"
        return (seed_folder if control == SORA else seed_folder / control) / f"stage-{stage:02d}"

    @property
    def rows(self) -> pd.DataFrame:
        """All rows; numbers that are missing are NaN."""
        frame = pd.DataFrame([asdict(row) for row in self.records], columns=[*_NAMES])
        return frame.astype(dict.fromkeys(_NUMBERS, "float64"))

    @property
    def knees(self) -> tuple[dict[str, Any], ...]:
        """What ``knees.json`` beside the curve holds; empty before a run is done, and where rows have come since.

        Raises
        ------
        SchemaError
            If the file does not hold knees.
        """
        file = self.file.with_name(KNEES_FILE)
        if not file.is_file():
            return ()
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            rows, found = content["rows"], content["knees"]
            whole = all(set(knee) >= _OF_A_KNEE for knee in found)
        except (ValueError, KeyError, TypeError) as error:
            raise SchemaError(
                f"{file} holds no knees ({error}); run the schedule again, which writes it anew."
            ) from error
        if not whole:
            raise SchemaError(f"{file}: a knee lacks fields; run the schedule again, which writes it anew.")
        return tuple(found) if rows == len(self.records) else ()


def is_control(name: object) -> bool:
    """Whether this may name a control: it is also that of a folder, which must not lead out of the study.

    Examples
    --------
    >>> is_control("one_shot"), is_control("../../elsewhere"), is_control("..")
    (True, False, False)
    """
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _file(study: Path | str) -> Path:
    path = Path(study)
    return path if path.name == CURVE_FILE else path / CURVE_FILE


def _parsed(file: Path) -> tuple[CurveRow, ...]:
    lines = file.read_bytes().split(b"\n")[:-1]  # what follows the last end of line is still being written
    rows = tuple(_row(line, f"{file}: line {number}") for number, line in enumerate(lines, 1))
    _refuse_twice(file, rows)
    return rows


def _row(line: bytes, where: str) -> CurveRow:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise SchemaError(
            f"{where} is no JSON ({error}); remove the line, and its stage is taken from its folder again."
        ) from error
    if not isinstance(record, dict):
        raise SchemaError(f"{where} is no JSON object; expected a row of an Algorithm-1 run.")
    wrong = sorted(set(record) ^ set(_NAMES))
    if wrong:
        raise SchemaError(f"{where} lacks or adds {', '.join(wrong[:3])}; use the version of rank_lab that wrote it.")
    try:
        return CurveRow(**record)
    except (SchemaError, TypeError) as error:
        raise SchemaError(f"{where}: {error}") from error


def _refuse_twice(file: Path, rows: tuple[CurveRow, ...]) -> None:
    keys = [row.key for row in rows]
    twice = next((key for key in keys if keys.count(key) > 1), None)
    if twice is not None:
        seed, control, stage = twice
        raise SchemaError(
            f"{file}: two rows of seed {seed}, {control}, stage {stage}; a stage has one: delete one of the lines."
        )
