"""Which models were measured on what, so that the same command goes on where it stopped."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rank_lab import __version__
from rank_lab.durable import held, write_whole
from rank_lab.errors import CheckpointError, RankLabError, SchemaError
from rank_lab.evaluation.evaluate_choices import Job
from rank_lab.evaluation.model_identity import content_digest, files_of, identity_of
from rank_lab.evaluation.sources import Tuned
from rank_lab.evaluation.tuned_models import LoadOptions
from rank_lab.plain_file import json_object
from rank_lab.score_table import SCORES_FILE, SCORES_LOCK, ScoreRow, ScoreTable

__all__ = ["EVALUATED_FILE", "Evaluated"]

EVALUATED_FILE = "evaluated.json"
"""In the folder of a study: what each score was measured with, of which model; and, as ``base``, of which base."""

_BASE = "base"


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
        there = self._record().get(_key(tuned, job))
        known = there.get("fingerprint") if isinstance(there, dict) else there  # alone, of an earlier rank_lab
        if known != fingerprint(tuned, job, self.loading):
            return ()
        rows = self.table().rows
        return tuple(row for row in rows if (row.run, row.step, row.task) == (tuned.run, tuned.step, job.name))

    def refuse_others(self, models: Sequence[Tuned]) -> None:
        """Refuse models whose run and step are there of another model, and a base other than that of the study.

        Raises
        ------
        RankLabError
            Naming what is there, and what to do.
        """
        record = self._record()
        self._refuse_other_base(record.get(_BASE))
        for model in models:
            _refuse_other_model(model, record)

    def refuse_other_settings(self, models: Sequence[Tuned], jobs: Sequence[Job]) -> None:
        """Refuse sets and tasks whose scores are there with other settings, which would be lost.

        Raises
        ------
        RankLabError
            Naming the first setting that differs. Another role, and divergences beside losses, lose nothing.
        """
        record = self._record()
        for model in models:
            for job in jobs:
                there = record.get(_key(model, job))
                before = there.get("settings") if isinstance(there, dict) else None
                if isinstance(before, dict):
                    _refuse_other_settings(model, job, before)

    def add(self, tuned: Tuned, job: Job, rows: Iterable[ScoreRow]) -> None:
        """Keep scores on the disk; what was measured before is replaced.

        Other processes may write to the same study: each waits for its turn.

        Raises
        ------
        RankLabError
            If scores of another model, or beside another base, have come there: see :meth:`refuse_others`.
        """
        self.study.mkdir(parents=True, exist_ok=True)
        key = (tuned.run, tuned.step, job.name)
        base = {_BASE: self._base} if self.loading.base else {}
        with held(self.study / SCORES_LOCK):
            self.refuse_others([tuned])
            told = self._record()
            if told.pop(_key(tuned, job), None) is not None:  # killed before the end, it would pass for these scores'
                self._tell(told)
            others = ScoreTable(tuple(row for row in self.table().rows if (row.run, row.step, row.task) != key))
            others.merged(ScoreTable.of(rows)).save(self.study / SCORES_FILE)
            made = {"fingerprint": fingerprint(tuned, job, self.loading), "settings": _settings(job)}
            self._tell(told | {_key(tuned, job): made | identity_of(tuned.source).record, **base})

    def _tell(self, record: Mapping[str, Any]) -> None:
        write_whole(self.study / EVALUATED_FILE, json.dumps(record, indent=1, sort_keys=True) + "\n")

    @cached_property
    def _base(self) -> dict[str, str]:
        return {**identity_of(self.loading.base).record, "sha256": content_digest(self.loading.base)}

    def _refuse_other_base(self, there: Any) -> None:
        base = self.loading.base
        if not (base and isinstance(there, dict)) or _without_digest(there) == identity_of(base).record:
            return
        if there.get("sha256") != self._base["sha256"]:
            raise RankLabError(
                f"{base}: is another base than that of the scores in {self.study}, {there.get('source')}; scores of"
                " runs of another base belong in a study of their own: give another folder with -o."
            )

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
        "rank_lab": __version__, "source": tuned.source, "files": files_of(tuned.source), "base": base,
        "base_files": files_of(base) if base else [], "dtype": loading.dtype, "kind": loading.kind,
        "settings": job.settings,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


def _without_digest(base: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in base.items() if name != "sha256"}


def _refuse_other_model(model: Tuned, record: Mapping[str, Any]) -> None:
    if (model.run, model.method) == ("base", "base"):
        return  # which the study has one of, wherever that is
    now, named = identity_of(model.source), json.dumps([model.run, model.step])[:-1] + ","
    for key, there in record.items():
        if key.startswith(named) and now.is_another(there):
            raise RankLabError(
                f"{model.source}: scores of run {model.run!r} at step {model.step} are there of another model,"
                f" {there['source']}; give this one another name with --name."
            )


def _refuse_other_settings(model: Tuned, job: Job, before: Mapping[str, Any]) -> None:
    now = _settings(job)
    different = [name for name in now if before.get(name) != now[name] and name != "role"]
    if different == ["kl"] and now["kl"]:
        return
    if different:
        name = different[0]
        raise RankLabError(
            f"{job.name}: run {model.run!r} has scores of it with another {name} ({before.get(name)!s:.40}, now"
            f" {now[name]!s:.40}), and other runs may be compared with them; give the set another name, a study of its"
            " own with -o, or --again to replace them."
        )


def _settings(job: Job) -> dict[str, Any]:
    """As JSON gives them back."""
    return dict(json.loads(json.dumps(dict(job.settings), default=str)))


def _key(tuned: Tuned, job: Job) -> str:
    return json.dumps([tuned.run, tuned.step, job.name])
