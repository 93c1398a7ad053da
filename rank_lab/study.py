"""A study's folder as it is now: what is in it, what of it can be read, and what cannot and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from rank_lab.behavioural_report import (
    BEHAVIOURAL_FILES,
    BehaviouralReport,
    behavioural_name,
    behavioural_reports_of,
)
from rank_lab.curve import CURVE_FILE, KNEES_FILE, SCHEDULE_FILE, Curve
from rank_lab.errors import RankLabError, SchemaError
from rank_lab.functional_report import FUNCTIONAL_FILES, FunctionalReport, functional_name, functional_reports_of
from rank_lab.outcomes import Outcomes
from rank_lab.report import RankReport, read_provenance, read_table
from rank_lab.schema import COVERAGE, SPECTRA, UPDATES
from rank_lab.score_table import SCORES_FILE
from rank_lab.spectra_file import SpectraFile
from rank_lab.study_outcomes import outcomes_of
from rank_lab.subspace_report import SUBSPACE_FILES, SubspaceReport, comparison_name, subspace_reports_of

__all__ = ["Problem", "ReportEntry", "Study"]

_Value = TypeVar("_Value")
_TABLES = ("updates.parquet", "spectra.parquet", "coverage.parquet")
_CURVE_FILES = (CURVE_FILE, KNEES_FILE, SCHEDULE_FILE)


@dataclass(frozen=True)
class Problem:
    """A part of a study that cannot be read.

    Parameters
    ----------
    part
        File or folder, relative to the study.
    message
        What is wrong with it and what to do.
    """

    part: str
    message: str


@dataclass(frozen=True, eq=False)
class ReportEntry:
    """One report of a study, read so far as it can be without its spectra.

    Parameters
    ----------
    folder
        ``NAME.rank``.
    run
        Name of the run.
    provenance
        What is needed to run it again.
    updates, coverage
        Its tables.
    """

    folder: Path
    run: str
    provenance: dict[str, Any]
    updates: pd.DataFrame
    coverage: pd.DataFrame


@dataclass(eq=False)
class Study:
    """Reader of a study that other programs may be writing.

    Parameters
    ----------
    folder
        A study, or one report.

    Raises
    ------
    SchemaError
        If there is no such folder, or it may not be read.

    Notes
    -----
    Each file is read when it is first asked for and again when it has changed (by size and time); what it reads is
    shared, not copied: do not write to its tables. A part that cannot be read is a :class:`Problem`, and the rest is
    there. Nothing outside of the folder is read, and nothing is ever unpickled.
    """

    folder: Path
    _read: dict[tuple[str, str], tuple[object, object]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Look whether the folder is there."""
        self.folder = Path(self.folder)
        if not self.folder.is_dir():
            raise SchemaError(
                f"{self.folder}: is no folder; make a study with 'rank-lab analyze TUNED --base BASE -o {self.folder}'."
            )
        try:
            next(self.folder.iterdir(), None)
        except OSError as error:
            raise SchemaError(
                f"{self.folder}: may not be read ({error.strerror}); give yourself the right to, or name another study."
            ) from error

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    def reports(self) -> list[ReportEntry]:
        """The reports that can be read, by name."""
        found = (self._part("report", folder, _signature(folder, _TABLES), _entry) for folder in self._report_folders())
        return [each for each in found if isinstance(each, ReportEntry)]

    def problems(self) -> list[Problem]:
        """Parts that cannot be read; all of them are tried."""
        parts: list[object] = [
            self._part("report", folder, _signature(folder, _TABLES), _entry) for folder in self._report_folders()
        ]
        parts += [self._curve(), self._outcomes(), *self._subspaces().values()]
        parts += [*self._behavioural().values(), *self._functional().values()]
        by_run: dict[str, list[ReportEntry]] = {}
        for entry in self.reports():
            by_run.setdefault(entry.run, []).append(entry)
        parts += [Problem(found[1].folder.name, _twice(run, found)) for run, found in by_run.items() if len(found) > 1]
        return [each for each in parts if isinstance(each, Problem)]

    def updates(self) -> pd.DataFrame:
        """Rows of all reports that can be read."""
        return self._joined("updates", UPDATES.names)

    def coverage(self) -> pd.DataFrame:
        """Rows of all reports that can be read."""
        return self._joined("coverage", COVERAGE.names)

    def values(self, run: str, module: str, *, step: int | None, delta: str = "cumulative") -> npt.NDArray[np.float64]:
        """Singular values of one matrix, read by themselves.

        Raises
        ------
        SchemaError
            If no report that can be read has them.
        """
        return self._spectra(self._of(run)).values(module, step=step, delta=delta)

    def all_values(
        self, run: str, *, step: int | None, delta: str = "cumulative"
    ) -> dict[str, npt.NDArray[np.float64]]:
        """Singular values of all matrices of a run and step: module to values.

        Raises
        ------
        SchemaError
            If no report that can be read has them.
        """
        return self._spectra(self._of(run)).all_values(step=step, delta=delta)

    def curve(self) -> Curve | None:
        """The curve of a schedule, of a study that has one with a row in it."""
        found = self._curve()
        return found if isinstance(found, Curve) and found.records else None

    def outcomes(self) -> Outcomes | None:
        """What its runs learned and forgot, of a study that has scores."""
        found = self._outcomes()
        return found if isinstance(found, Outcomes) else None

    def subspaces(self) -> dict[str, SubspaceReport]:
        """Comparisons of two updates' subspaces that can be read, by name."""
        return {name: each for name, each in self._subspaces().items() if isinstance(each, SubspaceReport)}

    def behavioural(self) -> dict[str, BehaviouralReport]:
        """Reports on behavioural ranks that can be read, by name."""
        return {name: each for name, each in self._behavioural().items() if isinstance(each, BehaviouralReport)}

    def functional(self) -> dict[str, FunctionalReport]:
        """Reports of functional ranks that can be read, by name."""
        return {name: each for name, each in self._functional().items() if isinstance(each, FunctionalReport)}

    def signature(self) -> str:
        """Changes whenever a file that is shown has changed."""
        parts = [_signature(folder, _TABLES) for folder in self._report_folders()]
        parts += [_stamps(folder, SUBSPACE_FILES) for folder in subspace_reports_of(self.folder)]
        parts += [_stamps(folder, BEHAVIOURAL_FILES) for folder in behavioural_reports_of(self.folder)]
        parts += [_stamps(folder, FUNCTIONAL_FILES) for folder in functional_reports_of(self.folder)]
        return str(hash((*parts, *(_stamp(self.folder / name) for name in (*_CURVE_FILES, SCORES_FILE)))))

    def _report_folders(self) -> list[Path]:
        if (self.folder / "report.json").is_file():
            return [self.folder]
        return sorted(path for path in self.folder.glob("*.rank") if path.is_dir())

    def _curve(self) -> Curve | Problem | None:
        file = self.folder / CURVE_FILE
        if not file.is_file():
            return None
        stamps = [_stamp(self.folder / name) for name in _CURVE_FILES]
        return self._part("curve", file, stamps, lambda path: Curve.load(path.parent))

    def _outcomes(self) -> Outcomes | Problem | None:
        file = self.folder / SCORES_FILE
        if not file.is_file():
            return None
        entries = self.reports()
        stamps = (_stamp(file), *(id(entry) for entry in entries))
        return self._part("outcomes", file, stamps, lambda path: outcomes_of([_unread(one) for one in entries], path))

    def _subspaces(self) -> dict[str, SubspaceReport | Problem]:
        folders = subspace_reports_of(self.folder)
        return {
            comparison_name(each): self._part("subspaces", each, _stamps(each, SUBSPACE_FILES), SubspaceReport.load)
            for each in folders
        }

    def _behavioural(self) -> dict[str, BehaviouralReport | Problem]:
        return {
            behavioural_name(each): self._part(
                "behavioural", each, _stamps(each, BEHAVIOURAL_FILES), BehaviouralReport.load
            )
            for each in behavioural_reports_of(self.folder)
        }

    def _functional(self) -> dict[str, FunctionalReport | Problem]:
        return {
            functional_name(each): self._part(
                "functional", each, _stamps(each, FUNCTIONAL_FILES), FunctionalReport.load
            )
            for each in functional_reports_of(self.folder)
        }

    def _joined(self, table: str, columns: list[str]) -> pd.DataFrame:
        entries = self.reports()
        stamp = tuple(id(entry) for entry in entries)
        frames = [getattr(entry, table) for entry in entries]

        def join(_: Path) -> pd.DataFrame:
            return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

        return cast("pd.DataFrame", self._part(table, self.folder, stamp, join))

    def _of(self, run: str) -> ReportEntry:
        found = [entry for entry in self.reports() if entry.run == run]
        if not found:
            raise SchemaError(f"{self.folder}: no report of run {run!r} that can be read.")
        if len(found) > 1:
            raise SchemaError(_twice(run, found))
        return found[0]

    def _spectra(self, entry: ReportEntry) -> SpectraFile:
        file = entry.folder / "spectra.parquet"
        found = self._part("spectra", file, _stamp(file), SpectraFile.open)
        if isinstance(found, Problem):
            raise SchemaError(found.message)
        return found

    def _part(self, what: str, path: Path, stamp: object, read: Callable[[Path], _Value]) -> _Value | Problem:
        """What a part holds, read again only if its files have changed."""
        key = (what, str(path))
        before = self._read.get(key)
        if before is None or before[0] != stamp:
            try:
                self._stay_inside(path)
                value: object = read(path)
            except (RankLabError, OSError) as error:
                name = path.name if path == self.folder else str(path.relative_to(self.folder))
                value = Problem(name, str(error))
            before = (stamp, value)
            self._read[key] = before
        return cast("_Value | Problem", before[1])

    def _stay_inside(self, path: Path) -> None:
        """Refuse a link that leads out of the study: it may have come from somewhere else."""
        root = self.folder.resolve()
        beside = [path.with_name(name) for name in _CURVE_FILES] if path.name == CURVE_FILE else []
        within = ("report.json", *_TABLES, *SUBSPACE_FILES, *BEHAVIOURAL_FILES, *FUNCTIONAL_FILES)
        for one in (path, *beside, *(path / name for name in within)):
            if one.exists() and not one.resolve().is_relative_to(root):
                raise SchemaError(f"{one}: is a link out of the study; copy what it leads to into {self.folder}.")


def _twice(run: str, entries: list[ReportEntry]) -> str:
    names = " and ".join(entry.folder.name for entry in entries)
    return f"{names}: both are of run {run!r}; analyze one of them again under another name (--name)."


def _unread(entry: ReportEntry) -> RankReport:
    """The report without its spectra."""
    return RankReport(entry.updates, SPECTRA.empty_table().to_pandas(), entry.coverage, entry.provenance)


def _entry(folder: Path) -> ReportEntry:
    provenance = read_provenance(folder)
    run = str(provenance["settings"]["run"])
    return ReportEntry(folder, run, provenance, read_table(folder, "updates"), read_table(folder, "coverage"))


def _signature(folder: Path, names: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(_stamp(folder / name) for name in ("report.json", *names))


def _stamps(folder: Path, names: tuple[str, ...]) -> tuple[object, ...]:
    return tuple(_stamp(folder / name) for name in names)


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size)
