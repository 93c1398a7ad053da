"""The points of a tracked training on disk: a line each, there whole or not at all, and the report made of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rank_lab.durable import append_line, cut_torn_line, write_whole
from rank_lab.errors import SchemaError
from rank_lab.report import RankReport
from rank_lab.tables import Records, frames

__all__ = ["JOURNAL_FILE", "PointJournal"]

JOURNAL_FILE = "points.jsonl"
"""In the folder of the report: first what the training is, then a line for each point."""

_VERSION = 1


@dataclass(frozen=True)
class PointJournal:
    """Points of one training.

    Parameters
    ----------
    folder
        ``NAME.rank``, made where it is not there.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     journal = PointJournal(Path(folder) / "run.rank")
    ...     _ = journal.begin({"run": "run"}, step=0)
    ...     journal.append(4, {"updates": [], "spectra": [], "coverage": []}, seconds=0.5)
    ...     journal.steps
    (4,)
    """

    folder: Path

    @property
    def file(self) -> Path:
        """The journal itself."""
        return self.folder / JOURNAL_FILE

    @property
    def steps(self) -> tuple[int, ...]:
        """Steps of the points so far."""
        return tuple(int(point["step"]) for point in self._points())

    @property
    def point_seconds(self) -> tuple[float, ...]:
        """What each of them took."""
        return tuple(float(point["seconds"]) for point in self._points())

    def begin(self, training: Mapping[str, Any], *, step: int) -> dict[str, Any]:
        """Start the journal, or go on with it: points after this step are cut off, since they come again.

        Parameters
        ----------
        training
            What it is, in plain values; the same as that of the points that are there.
        step
            From which training goes on.

        Returns
        -------
        dict
            What was noted at the start besides; see :meth:`note`.

        Raises
        ------
        SchemaError
            If the folder holds the report of something else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        cut_torn_line(self.file)
        if not self.file.is_file() or not self.file.stat().st_size:
            if (self.folder / "report.json").exists():
                raise SchemaError(
                    f"{self.folder}: holds a report that no RankTracker wrote; track this run under another name."
                )
            self._rewrite({"journal_version": _VERSION, "training": dict(training), "notes": {}}, [])
            return {}
        head, points = self._head(), self._points()
        _refuse_other(self.folder, head["training"], training)
        kept = [point for point in points if point["step"] <= step]
        if len(kept) < len(points):
            self._rewrite(head, kept)
        return dict(head["notes"])

    def note(self, notes: Mapping[str, Any]) -> None:
        """Add plain values to what was noted at the start."""
        head = self._head()
        self._rewrite(head | {"notes": head["notes"] | dict(notes)}, self._points())

    def append(self, step: int, rows: Records, *, seconds: float) -> None:
        """Add a point and wait until it is on the disk."""
        spectra = [row | {"values": np.asarray(row["values"]).tolist()} for row in rows["spectra"]]
        content = {"step": step, "seconds": seconds, **rows, "spectra": spectra}
        append_line(self.file, json.dumps(content))

    def report(self, provenance: Mapping[str, Any]) -> RankReport:
        """All points so far as a report."""
        points = self._points()
        rows = {name: [row for point in points for row in point[name]] for name in ("updates", "spectra", "coverage")}
        return RankReport(**frames(rows), provenance=provenance)

    def _rewrite(self, head: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> None:
        write_whole(self.file, "".join(json.dumps(line) + "\n" for line in (head, *points)))

    def _head(self) -> dict[str, Any]:
        head = self._lines()[0]
        if head.get("journal_version") != _VERSION or not {"training", "notes"} <= head.keys():
            raise SchemaError(
                f"{self.file}: is no journal of this rank_lab's RankTracker; track this run under another name."
            )
        return head

    def _points(self) -> list[dict[str, Any]]:
        return self._lines()[1:]

    def _lines(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in self.file.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError) as error:
            raise SchemaError(
                f"{self.file}: cannot be read ({error}); remove the folder, and analyze the checkpoints instead."
            ) from error


def _refuse_other(folder: Path, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    plain = json.loads(json.dumps(dict(now)))
    other = next((name for name in sorted({*there, *plain}) if there.get(name) != plain.get(name)), None)
    if other is not None:
        raise SchemaError(
            f"{folder}: tracks another training ({other} {there.get(other)!r}, now {plain.get(other)!r}); give this"
            " run another name, or remove the folder."
        )
