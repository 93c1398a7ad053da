"""Which models were measured on what, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_lab.durable import write_whole
from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.evaluation.evaluate_choices import Job
from rank_lab.evaluation.sources import Tuned
from rank_lab.plain_file import json_object
from rank_lab.score_table import SCORES_FILE, ScoreRow, ScoreTable

__all__ = ["EVALUATED_FILE", "Evaluated"]

EVALUATED_FILE = "evaluated.json"
"""In the folder of a study: what each score was measured with."""

_WEIGHTS = (".safetensors", ".bin", ".json")


@dataclass(frozen=True)
class Evaluated:
    """The scores of a study.

    Parameters
    ----------
    study
        The folder; it is made where it is not there.
    """

    study: Path

    def table(self) -> ScoreTable:
        """All scores, none where there is no file yet."""
        file = self.study / SCORES_FILE
        return ScoreTable.load(file) if file.is_file() else ScoreTable()

    def rows(self, tuned: Tuned, job: Job) -> tuple[ScoreRow, ...]:
        """Scores of a model that were measured with these settings; empty where there are none."""
        if self._record().get(_key(tuned, job)) != fingerprint(tuned, job):
            return ()
        rows = self.table().rows
        return tuple(row for row in rows if (row.run, row.step, row.task) == (tuned.run, tuned.step, job.name))

    def add(self, tuned: Tuned, job: Job, rows: Iterable[ScoreRow]) -> None:
        """Keep scores on the disk; what was measured before with other settings is replaced.

        Other processes may write to the same study, though not at the very same time.
        """
        self.study.mkdir(parents=True, exist_ok=True)
        key = (tuned.run, tuned.step, job.name)
        others = ScoreTable(tuple(row for row in self.table().rows if (row.run, row.step, row.task) != key))
        others.merged(ScoreTable.of(rows)).save(self.study / SCORES_FILE)
        content = {**self._record(), _key(tuned, job): fingerprint(tuned, job)}
        write_whole(self.study / EVALUATED_FILE, json.dumps(content, indent=1, sort_keys=True) + "\n")

    def _record(self) -> dict[str, Any]:
        try:
            return json_object(self.study / EVALUATED_FILE) or {}
        except CheckpointError as error:
            raise SchemaError(f"{error} Or remove it, to measure everything again.") from error


def fingerprint(tuned: Tuned, job: Job) -> str:
    """What scores depend on: settings, and the names, sizes and times of the model's files."""
    folder = Path(tuned.source)
    files: list[tuple[str, int, int]] = []
    if folder.is_dir():
        found = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS and file.is_file())
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]
    told: Mapping[str, Any] = {"source": tuned.source, "base": tuned.base, "files": files, "settings": job.settings}
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _key(tuned: Tuned, job: Job) -> str:
    return json.dumps([tuned.run, tuned.step, job.name])
