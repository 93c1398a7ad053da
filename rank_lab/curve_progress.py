"""How far an Algorithm-1 run has come: what is done, what is under way, and what a reader would still miss."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rank_lab.curve import CURVE_FILE, PROGRESS_FILE, SCHEDULE_FILE, SORA, Curve, CurveRow, is_control
from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.plain_file import json_object
from rank_lab.plain_text import plain

__all__ = ["CurveProgress", "RunningStage", "begun", "curve_progress", "running_stage"]

_TAIL = 8192  # bytes of a file of progress that its last line is looked for in
_Key = tuple[int, str, int]


@dataclass(frozen=True)
class RunningStage:
    """A stage that has begun and has no row yet.

    Parameters
    ----------
    seed, control, stage
        Which.
    check
        Its last check: ``step``, ``loss``, ``nonzero_gates`` and what else was written; empty before the first.
    written
        When that was, in UTC.
    """

    seed: int
    control: str
    stage: int
    check: Mapping[str, float]
    written: datetime

    def sentence(self) -> str:
        """In words.

        Examples
        --------
        >>> at = datetime(2026, 11, 26, 9, 30, tzinfo=UTC)
        >>> RunningStage(0, "sora", 2, {"step": 40, "loss": 0.51234, "nonzero_gates": 7}, at).sentence()
        'Seed 0, sora, stage 2: step 40, loss 0.5123, nonzero_gates 7 (written 09:30:00 UTC).'
        """
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.check.items()) or "begun"
        at = self.written.strftime("%H:%M:%S")
        return f"Seed {self.seed}, {self.control}, stage {self.stage}: {values} (written {at} UTC)."


@dataclass(frozen=True)
class CurveProgress:
    """Where a run stands.

    Parameters
    ----------
    stages, stages_meant
        Rows of the algorithm itself over all seeds; None: how many were meant is not known.
    controls, controls_meant
        The same of controls.
    missing
        What is not there and what to do, a sentence each.
    """

    stages: int
    stages_meant: int | None
    controls: int
    controls_meant: int | None
    missing: tuple[str, ...]

    @property
    def rows_meant(self) -> int | None:
        """Of stages and controls together; None where that is not known."""
        return None if self.stages_meant is None else self.stages_meant + (self.controls_meant or 0)

    @property
    def stages_text(self) -> str:
        """How many of how many, in words."""
        return _of(self.stages, self.stages_meant)

    @property
    def controls_text(self) -> str:
        """How many of how many, in words."""
        return _of(self.controls, self.controls_meant)

    @property
    def done(self) -> bool:
        """Whether nothing of what was meant is outstanding."""
        return self.stages == self.stages_meant and self.controls == self.controls_meant


def curve_progress(curve: Curve) -> CurveProgress:
    """What of a run is there.

    Parameters
    ----------
    curve
        Of a study, perhaps without a row; ``schedule.json`` beside it says what is meant.

    Examples
    --------
    >>> found = curve_progress(Curve(Path("no/study/curve.jsonl")))
    >>> found.stages, found.stages_meant, found.done
    (0, None, False)
    """
    meant, unread = _meant(curve.file.parent)
    keys = {row.key for row in curve.records}
    stages = [key for key in keys if key[1] == SORA]
    controls = [key for key in keys if key[1] != SORA]
    if meant is None:
        return CurveProgress(len(stages), None, len(controls), None, (unread, *_shortcomings(curve)))
    of_stages = [key for key in meant if key[1] == SORA]
    of_controls = [key for key in meant if key[1] != SORA]
    outstanding = tuple(_outstanding(what, own, keys) for what, own in (("stage", of_stages), ("control", of_controls)))
    missing = (*filter(None, outstanding), *_shortcomings(curve), *([] if of_controls else [_NO_CONTROLS]))
    return CurveProgress(
        sum(key in keys for key in of_stages), len(of_stages), sum(key in keys for key in of_controls),
        len(of_controls), missing,
    )  # fmt: skip


def begun(study: Path) -> Curve:
    """The curve of a study in which no row is to be read: none is there yet, or it cannot be read."""
    return Curve(study / CURVE_FILE)


def running_stage(curve: Curve) -> RunningStage | None:
    """The stage that is under way: the first of those that are meant and have no row, if its folder tells of it.

    Parameters
    ----------
    curve
        Of a study, perhaps without a row.

    Notes
    -----
    A run that was killed looks like one that is slow: the time says when it was last heard of.
    """
    meant, _ = _meant(curve.file.parent)
    keys = {row.key for row in curve.records}
    for seed, control, stage in meant or ():
        if (seed, control, stage) in keys:
            continue
        file = curve.stage_folder(seed, stage, control) / PROGRESS_FILE
        try:
            written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            return RunningStage(seed, control, stage, _last_check(file), written)
        except OSError:
            continue
    return None


_NO_CONTROLS = (
    "No controls are meant: without them the curve does not tell whether training at a threshold beats pruning the"
    " dense adapter once. Add --controls to the command."
)


def _of(there: int, meant: int | None) -> str:
    return f"{there} of {'?' if meant is None else meant}"


def _meant(folder: Path) -> tuple[list[_Key] | None, str]:
    """Keys of all rows, in the order in which they are made; or why they are not known."""
    try:
        record = json_object(folder / SCHEDULE_FILE)
    except CheckpointError as error:
        return None, f"How many stages are meant is not known: {error}"
    if record is None:
        return None, f"How many stages are meant is not known: {SCHEDULE_FILE} is not beside {CURVE_FILE}."
    try:
        plan = record["schedule"]
        targets = len(plan["target_ranks"]) + len(plan["target_parameters"])
        stages = range(len(plan["thresholds"]) or targets + 1)
        controls = _controls(plan["controls"] or ())
        seeds = [int(seed) for seed in plan["seeds"]]
    except (KeyError, TypeError, ValueError) as error:
        return None, f"How many stages are meant is not known: {SCHEDULE_FILE} lacks {plain(str(error), limit=80)}."
    keys = []
    for seed in seeds:
        keys += [(seed, SORA, stage) for stage in stages]
        keys += [(seed, name, stage) for name in controls for stage in stages[1:]]
    return keys, ""


def _controls(names: Sequence[object]) -> list[str]:
    found = [name for name in names if isinstance(name, str) and is_control(name)]
    if len(found) < len(names):
        raise ValueError("controls with names that folders may have")
    return found


def _outstanding(what: str, meant: list[_Key], there: set[_Key]) -> str:
    left = [key for key in meant if key not in there]
    if not left:
        return ""
    seed, control, stage = left[0]
    which = f"seed {seed}, stage {stage}" if control == SORA else f"seed {seed}, {control}, stage {stage}"
    return (
        f"{len(left)} of {len(meant)} rows of {what}s are not done, first {plain(which)}. A run that was stopped goes"
        " on where it was: run the same command again."
    )


def _shortcomings(curve: Curve) -> list[str]:
    """What the rows that are there do not tell."""
    rows = curve.records
    if not rows:
        return ["No stage is done yet: the first row comes when stage 0 ends."]
    own = [row for row in rows if row.control == SORA]
    found = []
    if len({row.seed for row in rows}) == 1:
        found.append(
            "One seed: the intervals are of the examples alone and say nothing of other seeds. A longer list in"
            " --seeds extends the run."
        )
    found += [
        f"{text}: {_places(where)}."
        for text, where in (
            ("Not converged in their steps (hollow marks), so that more training may move them", _not_converged(own)),
            ("The target was not reached", [row for row in own if row.target_reached is False]),
        )
        if where
    ]
    return [*found, *_no_knees(curve)]


def _no_knees(curve: Curve) -> list[str]:
    try:
        there = bool(curve.knees)
    except SchemaError as error:
        return [str(error)]
    return (
        [] if there else ["No knees: they are looked for when the whole run is done, and again after it is extended."]
    )


def _not_converged(rows: list[CurveRow]) -> list[CurveRow]:
    return [row for row in rows if row.converged is False]


def _places(rows: list[CurveRow]) -> str:
    several = len({row.seed for row in rows}) > 1
    return ", ".join(f"stage {row.stage}{f' of seed {row.seed}' if several else ''}" for row in rows)


def _last_check(file: Path) -> dict[str, float]:
    """The last whole line, as far as it holds numbers."""
    with file.open("rb") as handle:
        handle.seek(max(file.stat().st_size - _TAIL, 0))
        lines = handle.read(_TAIL).split(b"\n")[:-1]
    try:
        found: Any = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    if not isinstance(found, dict):
        return {}
    return {
        plain(str(name), limit=40): float(value)
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
