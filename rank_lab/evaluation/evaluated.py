"""Which models were measured on what, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rank_lab import __version__
from rank_lab.durable import held, write_whole
from rank_lab.errors import CheckpointError, SchemaError
from rank_lab.evaluation.evaluate_choices import Job
from rank_lab.evaluation.sources import Tuned
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.plain_file import json_object
from rank_lab.score_table import SCORES_FILE, SCORES_LOCK, ScoreRow, ScoreTable

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
    loading
        How models are loaded: another base or type of number gives other scores.
    """

    study: Path
    loading: LoadOptions

    def table(self) -> ScoreTable:
        """All scores, none where there is no file yet."""
        file = self.study / SCORES_FILE
        return ScoreTable.load(file) if file.is_file() else ScoreTable()

    def rows(self, tuned: Tuned, job: Job) -> tuple[ScoreRow, ...]:
        """Scores of a model that were measured with these settings; empty where there are none."""
        if self._record().get(_key(tuned, job)) != fingerprint(tuned, job, self.loading):
            return ()
        rows = self.table().rows
        return tuple(row for row in rows if (row.run, row.step, row.task) == (tuned.run, tuned.step, job.name))

    def add(self, tuned: Tuned, job: Job, rows: Iterable[ScoreRow]) -> None:
        """Keep scores on the disk; what was measured before with other settings is replaced.

        Other processes may write to the same study: each waits for its turn.
        """
        self.study.mkdir(parents=True, exist_ok=True)
        key = (tuned.run, tuned.step, job.name)
        with held(self.study / SCORES_LOCK):
            told = self._record()
            if told.pop(_key(tuned, job), None) is not None:  # killed before the end, it would pass for these scores'
                self._tell(told)
            others = ScoreTable(tuple(row for row in self.table().rows if (row.run, row.step, row.task) != key))
            others.merged(ScoreTable.of(rows)).save(self.study / SCORES_FILE)
            self._tell(told | {_key(tuned, job): fingerprint(tuned, job, self.loading)})

    def _tell(self, record: Mapping[str, Any]) -> None:
        write_whole(self.study / EVALUATED_FILE, json.dumps(record, indent=1, sort_keys=True) + "\n")

    def _record(self) -> dict[str, Any]:
        try:
            return json_object(self.study / EVALUATED_FILE) or {}
        except CheckpointError as error:
            raise SchemaError(f"{error} Or remove it, to measure everything again.") from error


def fingerprint(tuned: Tuned, job: Job, loading: LoadOptions) -> str:
    """What scores depend on: settings, rank_lab, and names, sizes and times of the files of the model and its base.

    A full checkpoint depends on its base only where the divergence from it is measured.
    """
    base = loading.base or tuned.base if tuned.adapter is not None or job.settings.get("kl") else ""
    told: Mapping[str, Any] = {
        "rank_lab": __version__, "source": tuned.source, "files": _files(tuned.source), "base": base,
        "base_files": _files(base) if base else [], "dtype": loading.dtype, "kind": loading.kind,
        "settings": job.settings,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _files(source: str) -> list[tuple[str, int, int]]:
    folder = Path(source)
    if not folder.is_dir():
        return []
    found = sorted(file for file in folder.iterdir() if file.suffix in _WEIGHTS and file.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]


def _key(tuned: Tuned, job: Job) -> str:
    return json.dumps([tuned.run, tuned.step, job.name])
